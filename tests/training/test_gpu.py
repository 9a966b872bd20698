"""On a GPU: skipped where there is none. The other tests use the CPU."""
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
from course_utils.data import BatchLoader, make_loaders, open_dataset
from course_utils.evaluation import grad_cam, predict
from course_utils.models import build_model
from course_utils.training import fit_stages, select_device, select_precision
from course_utils.variants import load_experiment, read_assignment

exp = load_experiment(sys.argv[1], profile="smoke")
data = open_dataset(exp.dataset, None, exp.data, exp.seed, exp.train_images, exp.test_images)
device = select_device()
precision = select_precision(exp.precision, device)

def check_asynchronous(loader):  # after what is made once for each device, nothing in an epoch waits for the device
    list(loader.epoch(0))
    torch.cuda.set_sync_debug_mode("error")
    batches = list(loader.epoch(1))
    torch.cuda.set_sync_debug_mode("default")
    return batches[0]

def loaders_of(stage):
    return make_loaders(stage, data, device)

train = loaders_of(exp).train
assert device.type == "cuda" and train.resident is not None
x, y = check_asynchronous(train)
torch.manual_seed(0)
model = build_model(exp.model, len(data.classes), data.train_images.shape[1], **exp.model_settings)
fit_stages(exp, model, loaders_of, exp.lr, precision=precision)
assert predict(model, loaders_of(exp.all_stages[-1]).test, precision).accuracy > 0.8
layer = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
assert grad_cam(model, layer, x[:2].float(), y[:2]).shape == (2, *x.shape[2:])
for variant in read_assignment(exp.assignment)["variants"]:  # the augmentation of the full profile as well
    full = load_experiment(exp.assignment, variant)
    check_asynchronous(BatchLoader(data.train_images, data.train_labels, 64, data.mean, data.std, device=device,
                                   augmentation=full.augmentation, expansion=full.expansion))
"""


@pytest.mark.slow
@pytest.mark.parametrize("assignment", list_assignments())
def test_training_and_evaluation_on_a_gpu(assignment):
    subprocess.run([sys.executable, "-c", SCRIPT, assignment], check=True, timeout=300,
                   env=os.environ | {"COURSE_DEVICE": ""})
