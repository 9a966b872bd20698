"""The device, its precision and memory, and how a machine is described in records."""
import ctypes
import os
import platform
import re
from pathlib import Path

import psutil
import torch
from torch.torch_version import TorchVersion


def select_device() -> torch.device:
    """The accelerator (CUDA, MPS, ...), else the CPU; ``COURSE_DEVICE=cpu`` forces it. Sets options for speed."""
    # glibc would return the memory of each step to the system: custom ResNet on 2 cores, 64 images/s instead of 84.
    if platform.libc_ver()[0] == "glibc":
        for option, size in ((-1, 2**31 - 1), (-2, 2**28), (-3, 2**30)):  # M_TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD
            ctypes.CDLL("libc.so.6").mallopt(option, size)
    # Weight decay shrinks the weights of dead units below 1e-38, where a CPU computes a hundred times slower: an epoch
    # of LeNet + STN took 456 s instead of 150 s. Flushed to zero they cost nothing.
    torch.set_flush_denormal(True)
    if os.environ.get("COURSE_DEVICE") == "cpu" or not torch.accelerator.is_available():
        return torch.device("cpu")
    if torch.accelerator.current_accelerator().type == "mps" and torch.__version__ < TorchVersion("2.13"):
        print("Apple's GPU needs torch 2.13 (grid_sample with border padding): the CPU is used.")
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True  # cuDNN tries its kernels once per shape and keeps the fastest
    return torch.accelerator.current_accelerator()


def uses_cuda() -> bool:
    """Whether there is a CUDA GPU that ``COURSE_DEVICE`` does not forbid."""
    return os.environ.get("COURSE_DEVICE") != "cpu" and torch.cuda.is_available()


def select_precision(precision: str, device: torch.device) -> str:
    """"fp32" or "bf16"; "auto" is bf16 where ``device`` has units for it."""
    return precision if precision != "auto" else "bf16" if has_bf16(device) else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` has units for bfloat16 products (emulated, they are slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
    return device.type == "cpu" and bool({"amx_bf16", "avx512_bf16"} & set(_cpu_info().get("flags", "").split()))


def _cpu_info() -> dict[str, str]:
    """What Linux says of the first processor ("model name", "flags", ...); empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if path.is_file() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def format_memory(device: torch.device) -> str:
    """The memory of ``device``, for messages."""
    if device.type == "cuda":
        size = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"the {size:.0f} GiB of {torch.cuda.get_device_name(device)}"
    return f"the {psutil.virtual_memory().total / 2**30:.0f} GiB of this machine"


def short_name(processor: str) -> str:
    """A processor's name without trademarks and filler words."""
    return re.sub(r"\((?:R|TM)\)| Processor| CPU| @", "", processor).strip()


def describe_machine() -> str:
    """Processor, and GPU if one is used; no host name."""
    cpu = _cpu_info().get("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{short_name(cpu)}, {cores} cores"
    return f"{torch.cuda.get_device_name()}; {text}" if uses_cuda() else text
