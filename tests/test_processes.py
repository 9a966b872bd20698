"""The same code on several processes: Accelerate starts them, each takes its share of every batch."""
import os
import subprocess
import sys
from pathlib import Path

import torch
from conftest import MEAN, STD, toy_images
from torch import nn

from course_utils.training import device as hardware, trainer as train
from course_utils.config import Experiment
from course_utils.data.loader import Batches

EXP = Experiment(assignment="none", variant="two", about="", dataset="cifar10", model="none", epochs=2, batch_size=16,
                 optimizer="sgd", lr=0.1, precision="fp32")


def run(folder: Path) -> dict:
    """Train a small net on the processes there are; the main one leaves a checkpoint."""
    machine = hardware.choose_machine("fp32")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    batches = Batches(*toy_images(), 16, MEAN, STD, shuffle=True, **machine.placement)
    watch = Batches(*toy_images(), 16, MEAN, STD, device=machine.device)
    train.fit(EXP, model, batches, watch, EXP.lr, machine, folder=folder, say=lambda _: None)
    return {"processes": machine.accelerator.num_processes}


def test_two_processes_train_as_one(tmp_path):
    """Without batch norm, the mean of two halves' gradients is the whole batch's: equal weights, equal history."""
    from course_utils.training import checkpoint

    assert run(tmp_path / "one") == {"processes": 1}
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
                    "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", __file__, str(tmp_path / "two")],
                   check=True, timeout=120, env=environment, cwd=Path(__file__).parent, capture_output=True)
    one, two = (checkpoint.latest(tmp_path / name) for name in ("one", "two"))
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=1e-4, atol=1e-5)
    for row, other in zip(one["history"], two["history"]):
        assert abs(row["train_loss"] - other["train_loss"]) < 1e-4
        assert row["train_accuracy"] == other["train_accuracy"]


if __name__ == "__main__":
    assert run(Path(sys.argv[1])) == {"processes": 2}
