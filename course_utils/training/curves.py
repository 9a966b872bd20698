"""Curves for TensorBoard, where it is installed (Colab has it); without it nothing is written and nothing changes."""
import contextlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def curve_writer(folder: Path | None) -> Callable[[Mapping[str, float]], None]:
    """A function that adds one epoch's row to ``folder/tensorboard``: loss/train, accuracy/test, lr, ... by epoch."""
    opened: list[Any] = []  # the writer, from the first row on: a finished run that is opened again writes no file

    def write(row: Mapping[str, float]) -> None:
        with contextlib.suppress(Exception):  # a full disk, say: no curve is worth a training
            if not opened:
                from torch.utils.tensorboard import SummaryWriter

                opened.append(SummaryWriter(folder / "tensorboard", purge_step=row["epoch"]))  # after a resume
            for name, value in row.items():
                part, _, what = name.rpartition("_")
                opened[0].add_scalar(f"{what}/{part}" if part else name, value, row["epoch"])
            opened[0].flush()

    return write if folder and importlib.util.find_spec("tensorboard") else lambda row: None
