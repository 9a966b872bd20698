"""Small trainings in processes of their own, which a test may kill at any moment (see ``conftest.py``)."""
import contextlib
import hashlib
import json
import resource
import sys
from pathlib import Path

import psutil
import torch

from course_utils.data.datasets import open_dataset
from course_utils.data.loader import make_loaders
from course_utils.errors import CourseError
from course_utils.evaluation.metrics import predict
from course_utils.models import build_model
from course_utils.training.checkpoint import save_checkpoint
from course_utils.training.trainer import fit
from course_utils.variants import load_experiment


def run(task: str, folder: Path, **settings: object) -> None:
    """Run ``TASKS[task]``; what it prints, and the error that ends it, are in ``folder/log``."""
    torch.set_num_threads(1)
    with (folder / "log").open("a", buffering=1) as log, contextlib.redirect_stdout(log):
        try:
            TASKS[task](folder, **settings)
        except CourseError as error:
            print(f"{type(error).__name__}: {error}")
            sys.exit(1)


def train(folder: Path, limit_memory: bool = False) -> None:
    """Train LeNet on 258 synthetic signs and write what two equal trainings share, to the last bit: ``result.json``.

    ``limit_memory``: from step 3 of epoch 2 on, a step wants 4 GB per image and gets nothing.
    """
    exp = load_experiment("gtsrb_stn", "lenet", "smoke", epochs=3, train_images=258, test_images=86)
    data = open_dataset(exp.dataset, None, exp.data, exp.seed, exp.train_images, exp.test_images)
    loaders = make_loaders(exp, data)
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes), **exp.model_settings)
    if limit_memory:
        _limit_memory(model, len(loaders.train) + 3)
    training = fit(exp, model, loaders.train, loaders.val, exp.lr, folder=folder)
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in training.history]
    (folder / "result.json").write_text(json.dumps({
        "weights": hashlib.sha256(weights).hexdigest(), "history": history, "best": training.best["epoch"],
        "test_loss": predict(model, loaders.test).loss}))


def _limit_memory(model: torch.nn.Module, first_step: int) -> None:
    steps = 0

    def hook(module: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += module.training
        if steps < first_step:
            return output
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used, used))
        return output + output.new_ones(len(output), 10**9).mean()

    model.register_forward_hook(hook)


def write_checkpoints(folder: Path) -> None:
    """Write one checkpoint of 2 MB after another until the process is killed."""
    for epoch in range(1, 10_000):
        save_checkpoint(folder, epoch, {"model": torch.full((500_000,), float(epoch)), "epoch": epoch})


TASKS = {"train": train, "write_checkpoints": write_checkpoints}
