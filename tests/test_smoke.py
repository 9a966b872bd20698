"""The smoke profile does what it promises: the assignment's own net learns the drawn sample within its few steps."""
import pytest
import torch

from course_utils import train
from course_utils.datasets import open_dataset
from course_utils.evaluate import predict
from course_utils.experiment import assignments, load
from course_utils.hardware import choose_machine
from course_utils.loader import make_loaders
from course_utils.models import build_model


@pytest.mark.parametrize("assignment", assignments())
def test_the_net_learns_the_sample(assignment):
    """Chance is 10 % (GTSRB 2 %). The last epoch's accuracy on few test images jumps: s7 gives 71, 83 and 89 % with
    seeds 1, 2 and 3.
    """
    exp = load(assignment, profile="smoke", seed=1)  # not the notebook's own seed
    data = open_dataset(exp.dataset, None, exp.data, exp.seed, exp.train_images, exp.test_images)
    machine = choose_machine(exp.precision)
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes), **exp.model_settings)

    def loaders_of(stage):
        return make_loaders(stage, data, machine.placement)

    train.fit_stages(exp, model, loaders_of, exp.lr, machine, say=lambda _: None)
    assert predict(model, loaders_of(exp.stage(len(exp.stages))).test, machine.precision).accuracy > 0.6
