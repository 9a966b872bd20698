"""On a GPU: skipped where there is none. The other tests use the CPU."""
import os
import subprocess
import sys

import pytest
import torch

from course_utils.variants import list_assignments

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SCRIPT = '''
import sys
import tempfile
from pathlib import Path

import torch
from course_utils.data import BatchLoader, make_loaders, open_dataset
from course_utils.evaluation import grad_cam, predict
from course_utils.models import build_model
from course_utils.training import fit, fit_stages, select_device, select_precision
from course_utils.training.step import TrainStep
from course_utils.training.trainer import prepare_training
from course_utils.variants import load_experiment, read_assignment

exp = load_experiment(sys.argv[1], profile="smoke")
data = open_dataset(exp.dataset, None, exp.data, exp.seed, exp.train_images, exp.test_images)
device = select_device()
precision = select_precision(exp.precision, device)
assert precision == "bf16"


def loaders_of(stage, on=device):
    return make_loaders(stage, data, on)


def new_model(exp):
    torch.manual_seed(0)
    return build_model(exp.model, len(data.classes), data.train_images.shape[1], **exp.model_settings)


def check_asynchronous(loader):
    """After what is made once for each device, nothing in an epoch waits for the device."""
    list(loader.epoch(0))
    torch.cuda.set_sync_debug_mode("error")
    batches = list(loader.epoch(1))
    torch.cuda.set_sync_debug_mode("default")
    return batches[0]


def losses(exp, recorded):
    """Of some steps; once everything is recorded they do not wait for the device either."""
    step = TrainStep(exp, *prepare_training(exp, new_model(exp), 1e-4, device), precision)
    assert step.record is not None
    step.record = step.record if recorded else None
    batches, found = list(loaders_of(exp).train.epoch(1))[-6:], []  # the last one is smaller
    for images, labels in batches:
        torch.manual_seed(1)
        found.append(step(images, labels).clone())
    assert not recorded or (step.record and step.recorded), "no CUDA graph"
    if recorded:
        torch.cuda.set_sync_debug_mode("error")
        step(*batches[0])
        torch.cuda.set_sync_debug_mode("default")
    return torch.stack(found).cpu()


train = loaders_of(exp).train
assert device.type == "cuda" and train.resident is not None
x, y = check_asynchronous(train)
model = new_model(exp)
fit_stages(exp, model, loaders_of, exp.lr, precision=precision)
assert predict(model, loaders_of(exp.all_stages[-1]).test, precision).accuracy > 0.8
layer = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
assert grad_cam(model, layer, x[:2].float(), y[:2]).shape == (2, *x.shape[2:])

with tempfile.TemporaryDirectory() as folder:  # a run whose later checkpoints are lost resumes after the first
    first, loaders = exp.stage(0).replace(epochs=3), loaders_of(exp.stage(0))
    for sessions in (1, 2):
        done = fit(first, new_model(exp), loaders.train, loaders.val, exp.lr, precision=precision, folder=Path(folder))
        assert len(done.history) == 3 and len(done.sessions) == sessions
        newest = sorted(Path(folder).glob("epoch-*.pt"))[-1]
        newest.unlink()

for variant in read_assignment(exp.assignment)["variants"]:
    full = load_experiment(exp.assignment, variant)
    cpu, gpu = (BatchLoader(data.train_images, data.train_labels, 64, data.mean, data.std, device=on,
                            augmentation=full.augmentation, expansion=full.expansion) for on in ("cpu", device))
    apart = (check_asynchronous(gpu)[0].cpu() - next(iter(cpu.epoch(1)))[0]).abs()
    assert (apart > 0.02).float().mean() < 0.01, (variant, apart.max(), (apart > 0.02).float().mean())
    some = load_experiment(exp.assignment, variant, "smoke", batch_size=32, passes_per_epoch=1)
    eager, replayed = losses(some, False), losses(some, True)
    assert torch.isfinite(eager).all()
    print(variant, "losses", eager.tolist(), "replayed differ by", (eager - replayed).abs().tolist(), flush=True)
    torch.testing.assert_close(replayed, eager, rtol=0.02, atol=0.02)  # bfloat16 has three digits
'''


@pytest.mark.slow
@pytest.mark.parametrize("assignment", list_assignments())
def test_training_and_evaluation_on_a_gpu(assignment):
    subprocess.run([sys.executable, "-c", SCRIPT, assignment], check=True, timeout=300,
                   env=os.environ | {"COURSE_DEVICE": ""})
