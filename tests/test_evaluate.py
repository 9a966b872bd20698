import numpy as np
import pytest
import torch
from conftest import toy_batches, toy_model
from torch import nn

from course_utils import evaluate
from course_utils.evaluate import Prediction

LABELS = np.array([0, 0, 1, 1, 2, 2])
LOGITS = np.array([[3, 0, 0], [0, 1, 0], [0, 2, 0], [0, 2, 1], [9, 0, 0], [2, 0, 1]], np.float32)
PREDICTION = Prediction(LOGITS, LABELS)


def test_metrics():
    assert PREDICTION.predicted.tolist() == [0, 1, 1, 1, 0, 0]
    assert PREDICTION.accuracy == 0.5
    assert evaluate.confusion_matrix(PREDICTION).tolist() == [[1, 1, 0], [0, 2, 0], [2, 0, 0]]
    assert evaluate.per_class_accuracy(PREDICTION).tolist() == [0.5, 1.0, 0.0]
    expected = nn.functional.cross_entropy(torch.from_numpy(LOGITS), torch.from_numpy(LABELS))
    assert abs(PREDICTION.loss - float(expected)) < 1e-6


def test_the_worst_mistake_is_the_surest():
    assert evaluate.worst_mistakes(PREDICTION).tolist() == [4, 1, 5]
    assert evaluate.worst_mistakes(PREDICTION, 1).tolist() == [4]


def test_a_class_without_images_has_no_accuracy():
    assert np.isnan(evaluate.per_class_accuracy(Prediction(LOGITS[:4], LABELS[:4]))[2])


def test_predict_runs_in_eval_mode_in_order_and_restores_the_mode():
    model = toy_model(dropout=0.9)
    batches = toy_batches(10)
    first, again = evaluate.predict(model, batches), evaluate.predict(model, batches)
    assert np.array_equal(first.logits, again.logits) and model.training
    assert np.array_equal(first.labels, np.arange(64) % 2)
    x = torch.cat([x for x, _ in batches.epoch()])
    np.testing.assert_allclose(first.logits, model.eval()(x).detach(), atol=1e-5)


class Brightness(nn.Module):
    """Class 1 is the brightness of the image, class 0 its negative."""

    def __init__(self):
        super().__init__()
        self.features = nn.AvgPool2d(2)

    def forward(self, x):
        total = self.features(x).sum((1, 2, 3))
        return torch.stack([-total, total], 1)


def test_grad_cam_points_at_the_evidence():
    x = torch.zeros(2, 3, 8, 8)
    x[:, :, 2:4, 6:8] = 1
    x.requires_grad_()
    model = Brightness()
    heat = evaluate.grad_cam(model, model.features, x, torch.tensor([1, 0]))
    assert heat.shape == (2, 8, 8) and not heat.requires_grad
    assert heat[0].max() == 1 and heat[0].flatten().argmax() in (2 * 8 + 6, 2 * 8 + 7, 3 * 8 + 6, 3 * 8 + 7)
    assert heat[0, 6:].max() == 0
    assert heat[1].max() == 0  # nothing speaks for class 0


def test_grad_cam_equals_its_formula_on_a_network():
    model = toy_model().eval()
    x = torch.randn(3, 3, 8, 8)
    layer, classes = model[1], torch.tensor([0, 1, 1])
    heat = evaluate.grad_cam(model, layer, x, classes)
    features = layer(model[0](x)).detach().requires_grad_()
    score = model[2:](features).gather(1, classes[:, None]).sum()
    gradient, = torch.autograd.grad(score, features)
    expected = torch.einsum("bchw,bc->bhw", features, gradient.mean((2, 3))).relu().detach()
    expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(heat, expected, atol=1e-5, rtol=1e-4)


def test_grad_cam_of_no_images():
    model = toy_model()
    assert evaluate.grad_cam(model, model[0], torch.zeros(0, 3, 8, 8), torch.zeros(0).long()).shape == (0, 8, 8)


@pytest.mark.parametrize("mode", [True, False])
def test_grad_cam_restores_the_mode(mode):
    model = toy_model().train(mode)
    evaluate.grad_cam(model, model[0], torch.randn(1, 3, 8, 8), torch.tensor([0]))
    assert model.training is mode and not model[0]._forward_hooks
