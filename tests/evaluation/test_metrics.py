import contextlib

import numpy as np
import pytest
import torch
from helpers import toy_loader, toy_model
from torch import nn

from course_utils.evaluation import metrics as evaluate
from course_utils.evaluation.metrics import Prediction
from course_utils.models import build_model
from course_utils.analysis.receptive_field import layer_fields

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
    assert evaluate.top_losses(PREDICTION).tolist() == [4, 1, 5]
    assert evaluate.top_losses(PREDICTION, 1).tolist() == [4]


def test_a_class_without_images_has_no_accuracy():
    assert np.isnan(evaluate.per_class_accuracy(Prediction(LOGITS[:4], LABELS[:4]))[2])


def test_predict_runs_in_eval_mode_in_order_and_restores_the_mode():
    model = toy_model(dropout=0.9)
    batches = toy_loader(10)
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


@pytest.mark.parametrize(("settings", "spot", "covered"), [
    ({"dilation": 4}, (5, 9), 8), ({"dilation": 2, "stride": 2}, (8, 4), 12),
    ({"padding": 1, "stride": 2}, (6, 14), 15),
])
def test_grad_cam_lies_where_the_layer_looks(settings, spot, covered):
    """Each cell of the map at the centre of its receptive field, padded or not."""
    class Look(nn.Module):
        def __init__(self):
            super().__init__()
            self.look = nn.Conv2d(3, 2, 3, bias=False, **settings)
            weight = torch.zeros(2, 3, 3, 3)
            weight[:, :, 1, 1] = 1  # a kernel that sees its middle alone
            self.look.weight = nn.Parameter(weight)

        def forward(self, x):
            return self.look(x).mean((2, 3))

    model, x = Look(), torch.zeros(1, 3, 16, 16)
    x[0, :, spot[0], spot[1]] = 1
    heat = evaluate.grad_cam(model, model.look, x, torch.tensor([1]))[0]
    assert divmod(int(heat.argmax()), 16) == spot
    everywhere = evaluate.grad_cam(model, model.look, torch.ones(1, 3, 16, 16), torch.tensor([1]))[0]
    assert (everywhere > 0).sum() == covered**2


@pytest.mark.parametrize(("name", "block"), [("s7", "block4"), ("resnet18", "layer4"), ("dilated_net", "stage2")])
def test_grad_cam_lies_where_gradients_come_from(name, block):
    model = build_model(name, 10).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # nothing cancels
            parameter.abs_().add_(1e-3)
    layer = model.get_submodule(block)
    kept = []
    hook = layer.register_forward_hook(lambda _, __, out: kept.append(out))
    x = torch.rand(1, 3, 192, 192, requires_grad=True)  # large enough for the field of the middle cell
    with contextlib.suppress(RuntimeError):  # a head for 32 pixels
        model(x)
    hook.remove()
    cell = kept[0].shape[-1] // 2
    seen = torch.autograd.grad(kept[0][0, :, cell, cell].sum(), x)[0].abs().sum((0, 1, 2))
    touched = seen.nonzero()[:, 0]
    field = layer_fields(model, (1, 3, 32, 32))[block]
    assert (touched[0] + touched[-1]) / 2 == field.left + (field.size - 1) / 2 + cell * field.jump


def test_grad_cam_is_not_moved_by_a_gate():
    """A factor that sees the whole image widens a field and leaves its centre."""
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gated = nn.Identity()

        def forward(self, x):
            return self.gated(x * x.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3))[:, :2]

    model, x = Gated(), torch.zeros(1, 3, 16, 16)
    x[..., 3, 12] = 1
    x.requires_grad_()
    heat = evaluate.grad_cam(model, model.gated, x, torch.tensor([1]))[0]
    assert divmod(int(heat.argmax()), 16) == (3, 12)


def test_grad_cam_of_a_layer_that_cannot_be_followed_is_stretched():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(12, 2, 1)

        def forward(self, x):
            n, c, h, w = x.shape
            return self.conv(x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)).mean((2, 3))

    model = Split()
    heat = evaluate.grad_cam(model, model.conv, torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    assert heat.shape == (2, 8, 8) and bool((heat.sum(1) > 0).any())


def test_grad_cam_of_no_images():
    model = toy_model()
    assert evaluate.grad_cam(model, model[0], torch.zeros(0, 3, 8, 8), torch.zeros(0).long()).shape == (0, 8, 8)


@pytest.mark.parametrize("mode", [True, False])
def test_grad_cam_restores_the_mode(mode):
    model = toy_model().train(mode)
    evaluate.grad_cam(model, model[0], torch.randn(1, 3, 8, 8), torch.tensor([0]))
    assert model.training is mode and not model[0]._forward_hooks


def test_averaged_views_are_the_mean_of_their_probabilities():
    other = Prediction(LOGITS[:, ::-1].copy(), LABELS)
    mean = evaluate.average_predictions([PREDICTION, other])
    p, q = (torch.softmax(torch.from_numpy(x.logits), 1).numpy() for x in (PREDICTION, other))
    np.testing.assert_allclose(np.exp(mean.logits), (p + q) / 2, rtol=1e-5)
    same = evaluate.average_predictions([PREDICTION, PREDICTION])
    assert same.accuracy == PREDICTION.accuracy and same.loss == pytest.approx(PREDICTION.loss, rel=1e-5)


class Zoom(nn.Module):
    """Looks at the middle half of every image."""

    def theta(self, x):
        return torch.tensor([[0.5, 0, 0], [0, 0.5, 0]]).expand(len(x), 2, 3) * self.weight

    def transform(self, x):
        grid = nn.functional.affine_grid(self.theta(x), list(x.shape), align_corners=True)
        return nn.functional.grid_sample(x, grid, align_corners=True)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))


def test_what_a_transformer_does_is_told():
    batches, model = toy_loader(10), Zoom()
    x = next(batches.epoch())[0]
    assert evaluate.apply_spatial_transformer(model, x).equal(model.transform(x))
    parts = evaluate.decompose_affine(evaluate.predict_theta(model, batches), 8)
    assert len(parts["zoom"]) == 64 and np.allclose(parts["zoom"], 2) and np.allclose(parts["rotation"], 0)


def test_a_net_without_transformer_leaves_images_as_they_are():
    batches, model = toy_loader(10), toy_model()
    x = next(batches.epoch())[0]
    assert evaluate.apply_spatial_transformer(model, x) is x
    assert np.allclose(evaluate.predict_theta(model, batches), np.eye(3)[:2]) and model.training
