"""Small trainings in processes of their own, which a test may kill at any moment (see ``conftest.py``)."""
import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch

from course_utils.data.datasets import open_dataset
from course_utils.data.loader import make_loaders
from course_utils.evaluation.metrics import predict
from course_utils.models import build_model
from course_utils.training.checkpoint import save_checkpoint
from course_utils.training.trainer import fit
from course_utils.variants import load_experiment


def run(task: Callable[[Path], None], folder: Path) -> None:
    """Run a function of this module; what it prints is in ``folder/log``."""
    torch.set_num_threads(1)
    with (folder / "log").open("a", buffering=1) as log, contextlib.redirect_stdout(log):
        task(folder)


def train(folder: Path) -> None:
    """Train LeNet on 258 synthetic signs and write what two equal trainings share, to the last bit: ``result.json``."""
    exp = load_experiment("gtsrb_stn", "lenet", "smoke", epochs=3, train_images=258, test_images=86)
    data = open_dataset(exp.dataset, None, exp.data, exp.seed, exp.train_images, exp.test_images)
    loaders = make_loaders(exp, data)
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes), **exp.model_settings)
    training = fit(exp, model, loaders.train, loaders.val, exp.lr, folder=folder)
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in training.history]
    (folder / "result.json").write_text(json.dumps({
        "weights": hashlib.sha256(weights).hexdigest(), "history": history, "best": training.best["epoch"],
        "test_loss": predict(model, loaders.test).loss}))


def write_checkpoints(folder: Path) -> None:
    """Write one checkpoint of 2 MB after another until the process is killed."""
    for epoch in range(1, 10_000):
        save_checkpoint(folder, epoch, {"model": torch.full((500_000,), float(epoch)), "epoch": epoch})
