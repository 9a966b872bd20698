import pytest
import torch

from course_utils.training import device as hardware


def test_precision_as_asked_for():
    for precision in ("fp32", "bf16"):  # one after the other in one process, as in a notebook
        machine = hardware.select_device(precision)
        assert machine.precision == precision
        assert machine.accelerator.mixed_precision == ("bf16" if precision == "bf16" else "no")


@pytest.mark.parametrize(("flags", "expected"), [
    ("avx512f avx512_vnni", False), ("avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True), ("", False),
])
def test_bf16_only_where_the_processor_has_units_for_it(monkeypatch, flags, expected):
    monkeypatch.setattr(hardware, "cpu_facts", lambda: {"flags": flags})
    assert hardware.has_bf16(torch.device("cpu")) is expected
    if not torch.cuda.is_available():
        assert hardware.select_device("auto").precision == ("bf16" if expected else "fp32")


def test_one_processor_has_one_name():
    names = ("Intel(R) Xeon(R) Processor @ 2.50GHz", "Intel Xeon 2.50GHz", "Intel(R) Xeon(R) CPU @ 2.50GHz")
    assert {hardware.short_name(name) for name in names} == {"Intel Xeon 2.50GHz"}


def test_the_machine_in_words_names_no_host():
    import platform

    words = hardware.describe_machine()
    assert "cores" in words and platform.node() not in words


def test_numbers_too_small_to_matter_cost_no_time():
    hardware.select_device("fp32")
    assert torch.tensor([1e-39]).mul(0.5).item() == 0  # as a denormal number it would be 5e-40, and slow
