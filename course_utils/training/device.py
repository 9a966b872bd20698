"""The machine: its device and precision (by Accelerate), its memory, and how it is called in records."""
from __future__ import annotations

import ctypes
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState


@dataclass(frozen=True)
class Machine:
    """Where and how a network is trained."""

    accelerator: Accelerator
    precision: str  # "fp32" or "bf16"

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def placement(self) -> dict[str, Any]:
        """What ``Batches`` needs to know of it."""
        return {"device": self.device, "rank": self.accelerator.process_index, "world": self.accelerator.num_processes}


def choose_machine(precision: str = "auto") -> Machine:
    """The best device here, with ``precision`` "fp32", "bf16" or "auto": bf16 where the hardware computes in it."""
    keep_freed_memory()
    # Weight decay lets the weights of dead units shrink below 1e-38, where a processor computes a hundred times slower:
    # an epoch of LeNet + STN took 456 s where it should take 150. As zeros they cost nothing.
    torch.set_flush_denormal(True)
    AcceleratorState._reset_state()  # a notebook may choose anew; Accelerate itself names this call for it
    if precision == "auto":
        precision = "bf16" if has_bf16(Accelerator().device) else "fp32"
        AcceleratorState._reset_state()
    return Machine(Accelerator(mixed_precision="bf16" if precision == "bf16" else "no"), precision)


def has_bf16(device: torch.device) -> bool:
    """Whether ``device`` has units for bfloat16 products (emulated, it is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
    return device.type == "cpu" and bool({"amx_bf16", "avx512_bf16"} & set(cpu_facts().get("flags", "").split()))


def cpu_facts() -> dict[str, str]:
    """What Linux says of the first processor ("model name", "flags", ...); empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if path.is_file() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def keep_freed_memory() -> None:
    """Keep glibc from giving the memory of every step back to the system, only to fetch it again (Linux alone).

    Measured on 2 cores, custom ResNet, batch 512: 64 images/s without, 84 with it.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    for option, size in ((-1, 2**31 - 1), (-2, 2**28), (-3, 2**30)):  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD
        libc.mallopt(option, size)


def memory_words(device: torch.device) -> str:
    """How much memory ``device`` has, in words."""
    if device.type == "cuda":
        size = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"the {size:.0f} GiB of {torch.cuda.get_device_name(device)}"
    return f"the {psutil.virtual_memory().total / 2**30:.0f} GiB of this machine"


def short_name(processor: str) -> str:
    """A processor's name without trade marks and filling words."""
    return re.sub(r"\((?:R|TM)\)| Processor| CPU| @", "", processor).strip()


def machine_words() -> str:
    """The processor, and the GPU if there is one, in words; no name of a host."""
    cpu = cpu_facts().get("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = f"{short_name(cpu)}, {cores} cores"
    return f"{torch.cuda.get_device_name()}; {words}" if torch.cuda.is_available() else words
