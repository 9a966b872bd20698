"""On a GPU: skipped where there is none. The other tests keep to the CPU."""
import os
import subprocess
import sys

import pytest
import torch

from course_utils.variants import list_assignments

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SCRIPT = """
import sys
import torch
from course_utils.training import trainer as train
from course_utils.data.datasets import open_dataset
from course_utils.evaluation.metrics import grad_cam, predict
from course_utils.variants import read_assignment, load_experiment
from course_utils.training.device import select_device
from course_utils.data.loader import BatchLoader, make_loaders
from course_utils.models import build_model

exp = load_experiment(sys.argv[1], profile="smoke")
data = open_dataset(exp.dataset, None, exp.data, exp.seed, exp.train_images, exp.test_images)
machine = select_device()
assert machine.device.type == "cuda"

def loaders_of(stage):
    return make_loaders(stage, data, machine.placement)

loaders, final = loaders_of(exp), loaders_of(exp.all_stages[-1])
assert loaders.train.resident is not None
torch.manual_seed(0)
model = build_model(exp.model, len(data.classes))
list(loaders.train.epoch(0))  # whatever is made once for each device
torch.cuda.set_sync_debug_mode("error")  # from here to the end of an epoch nothing may wait for the device
for x, y in loaders.train.epoch(1):
    pass
torch.cuda.set_sync_debug_mode("default")
train.fit_stages(exp, model, loaders_of, exp.lr, machine)
assert predict(model, final.test, machine.precision).accuracy > 0.8
layer = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
assert grad_cam(model, layer, x[:2].float(), y[:2]).shape == (2, *x.shape[2:])
for variant in read_assignment(exp.assignment)["variants"]:  # the augmentation of the full profile as well
    full = load_experiment(exp.assignment, variant)
    batches = BatchLoader(data.train_images, data.train_labels, 64, data.mean, data.std, augmentation=full.augmentation,
                      expansion=full.expansion, device=machine.device)
    list(batches.epoch(0))
    torch.cuda.set_sync_debug_mode("error")
    list(batches.epoch(1))
    torch.cuda.set_sync_debug_mode("default")
"""


@pytest.mark.parametrize("assignment", list_assignments())
def test_the_engine_on_a_gpu(assignment):
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"}
    subprocess.run([sys.executable, "-c", SCRIPT, assignment], check=True, timeout=300, env=environment)
