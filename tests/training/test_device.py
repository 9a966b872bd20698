import platform

import pytest
import torch

from course_utils.training import device as device_module
from course_utils.training.device import describe_machine, has_bf16, select_device, select_precision, short_name

CPU = torch.device("cpu")


@pytest.mark.parametrize(("flags", "expected"), [
    ("avx512f avx512_vnni", False), ("avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True), ("", False),
])
def test_auto_is_bf16_only_where_the_processor_has_units_for_it(monkeypatch, flags, expected):
    monkeypatch.setattr(device_module, "_cpu_info", lambda: {"flags": flags})
    assert has_bf16(CPU) is expected
    assert select_precision("auto", CPU) == ("bf16" if expected else "fp32")
    assert [select_precision(precision, CPU) for precision in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_the_cpu_can_be_forced_and_flushes_denormal_numbers():
    assert select_device() == CPU  # COURSE_DEVICE=cpu, see conftest.py
    assert torch.tensor([1e-39]).mul(0.5).item() == 0  # as a denormal number it would be 5e-40, and slow


def test_a_processor_has_one_name():
    names = ("Intel(R) Xeon(R) Processor @ 2.50GHz", "Intel Xeon 2.50GHz", "Intel(R) Xeon(R) CPU @ 2.50GHz")
    assert {short_name(name) for name in names} == {"Intel Xeon 2.50GHz"}


def test_the_description_of_the_machine_has_no_host_name():
    text = describe_machine()
    assert " cores" in text and platform.node() not in text


@pytest.mark.parametrize(("version", "device"), [("2.6.0", "cpu"), ("2.12.1+cpu", "cpu"), ("2.13.0", "mps")])
def test_an_apple_gpu_needs_a_torch_that_can_sample_there(monkeypatch, capsys, version, device):
    monkeypatch.delenv("COURSE_DEVICE")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setattr(torch, "__version__", version)
    assert select_device().type == device
    assert ("the CPU is used" in capsys.readouterr().out) == (device == "cpu")
