import contextlib

import pytest
import torch
from helpers import toy_model
from torch import nn

from course_utils.analysis.receptive_field import trace_fields
from course_utils.errors import CourseError
from course_utils.evaluation.grad_cam import grad_cam, grad_cam_of_blocks, map_sizes
from course_utils.models import build_model


class Scored(nn.Module):
    """``layer``, then for class 1 the sum of its first channel and for class 0 the negative."""

    def __init__(self, layer, before=lambda x: x):
        super().__init__()
        self.layer, self.before = layer, before

    def forward(self, x):
        total = self.layer(self.before(x))[:, 0].sum((1, 2))
        return torch.stack([-total, total], 1)


def bright_pixel(size, row, column):
    x = torch.zeros(1, 3, size, size)
    x[..., row, column] = 1
    return x.requires_grad_()


def test_without_evidence_or_images_it_is_zero_or_empty():
    model, x = Scored(nn.AvgPool2d(2)), bright_pixel(8, 3, 6)
    assert grad_cam(model, model.layer, x, torch.tensor([0])).max() == 0  # nothing is evidence for class 0
    assert grad_cam(model, model.layer, x[:0], torch.zeros(0).long()).shape == (0, 8, 8)


@pytest.mark.parametrize("training", [True, False])
def test_it_equals_its_formula_and_restores_the_mode(training):
    model, x = toy_model(), torch.randn(3, 3, 8, 8)
    layer, classes = model[1], torch.tensor([0, 1, 1])
    model.train(training)
    heat = grad_cam(model, layer, x, classes)
    assert model.training is training and not layer._forward_hooks and not heat.requires_grad
    model.eval()
    features = layer(model[0](x)).detach().requires_grad_()
    gradient, = torch.autograd.grad(model[2:](features).gather(1, classes[:, None]).sum(), features)
    expected = torch.einsum("bchw,bc->bhw", features, gradient.mean((2, 3))).relu().detach()
    expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(heat, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("settings", "spot", "covered"), [
    ({"dilation": 4}, (5, 9), 8), ({"dilation": 2, "stride": 2}, (8, 4), 12),
    ({"padding": 1, "stride": 2}, (6, 14), 15),
])
def test_each_value_is_at_the_center_of_its_receptive_field(settings, spot, covered):
    model = Scored(nn.Conv2d(3, 1, 3, bias=False, **settings))
    nn.init.dirac_(model.layer.weight)  # a kernel that sees its center alone
    heat = grad_cam(model, model.layer, bright_pixel(16, *spot), torch.tensor([1]))[0]
    assert divmod(int(heat.argmax()), 16) == spot
    everywhere = grad_cam(model, model.layer, torch.ones(1, 3, 16, 16), torch.tensor([1]))[0]
    assert (everywhere > 0).sum() == covered**2


@pytest.mark.parametrize(("name", "block"), [
    ("s7", "block4"), ("resnet18", "layer4"),
    ("assignments/cifar10_dilated_depthwise/best_net.py:DilatedNet", "stage2")])
def test_the_center_is_that_of_the_gradients(name, block):
    model = build_model(name, 10).double().eval()  # in single precision the sums below can overflow
    with torch.no_grad():
        for parameter in model.parameters():  # nothing cancels
            parameter.abs_().add_(1e-3)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):  # its statistics depend on the whole image
            module.forward = lambda x: x
    outputs, x = [], torch.rand(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)  # larger than the field
    with model.get_submodule(block).register_forward_hook(lambda _, __, output: outputs.append(output)), \
            contextlib.suppress(RuntimeError):  # a head for 32 pixels
        model(x)
    cell = outputs[0].shape[-1] // 2
    gradient, = torch.autograd.grad(outputs[0][0, :, cell, cell].sum(), x)
    touched = gradient.abs().sum((0, 1, 2)).nonzero()[:, 0]
    field = trace_fields(model.float(), (1, 3, 32, 32)).outputs[block]
    assert (touched[0] + touched[-1]) / 2 == field.start + (field.size - 1) / 2 + cell * field.jump


def test_a_gate_that_sees_the_whole_image_does_not_move_the_map():
    model = Scored(nn.Identity(), lambda x: x * x.mean((2, 3), keepdim=True).sigmoid())
    heat = grad_cam(model, model.layer, bright_pixel(16, 3, 12), torch.tensor([1]))[0]
    assert divmod(int(heat.argmax()), 16) == (3, 12)


def test_the_map_of_an_unknown_receptive_field_is_stretched():
    def shuffled(x):
        return x.flip(3).roll(1, 2) + x.cumsum(3)

    model = Scored(nn.AvgPool2d(2), shuffled)
    assert not trace_fields(model, (1, 3, 8, 8)).outputs["layer"].known
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    heat = grad_cam(model, model.layer, x, torch.tensor([1, 1]))
    small = nn.functional.avg_pool2d(shuffled(x.detach()), 2)[:, :1]
    expected = nn.functional.interpolate(small, size=8, mode="bilinear")[:, 0]
    torch.testing.assert_close(heat, expected / expected.amax((1, 2), keepdim=True))


def test_map_sizes_lists_the_outermost_blocks_that_return_maps():
    assert map_sizes(build_model("custom_resnet", 10), (1, 3, 32, 32)) == {
        "prep": 32, "layer1_x": 16, "layer1_r": 16, "layer2": 8, "layer3_x": 4, "layer3_r": 4}
    nested = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU()), nn.Flatten()))
    assert map_sizes(nested, (1, 3, 8, 8)) == {"0.0": 6, "0.1": 6}
    assert map_sizes(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), (1, 3, 8, 8)) == {}


class Tokens(nn.Module):
    """A map (N, 16, 8, 8) as 64 tokens, whose similarities (N, 2, 64, 64) have four dimensions as well."""

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2).unflatten(2, (2, 8)).transpose(1, 2)
        return (tokens @ tokens.transpose(2, 3)).softmax(-1)


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def forward(self, x):
        return self.layer(x.permute(0, 2, 3, 1))  # (N, 8, 8, 8), which is not (N, C, H, W)


@pytest.mark.parametrize("last", [
    Tokens(), ChannelsLast(), nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (4, 16))), nn.Flatten(),
    nn.Sequential(nn.Flatten(2), nn.Unflatten(1, (2, 8)))])
def test_what_only_looks_like_a_map_is_left_out(last):
    assert map_sizes(nn.Sequential(nn.Conv2d(3, 16, 4, 4), last), (1, 3, 32, 32)) == {"0": 8}


def test_a_frozen_network_is_explained_too():
    model = toy_model().requires_grad_(False)
    images, classes = torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 0])
    frozen = grad_cam(model, model[0], images, classes)
    torch.testing.assert_close(frozen, grad_cam(model.requires_grad_(), model[0], images, classes))
    assert frozen.amax((1, 2)).max() == 1


def test_a_layer_that_no_gradient_reaches_is_an_error():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.rest = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            with torch.no_grad():
                x = self.features(x)
            return self.rest(x.mean((2, 3)))

    model = Cut()
    with pytest.raises(CourseError, match=r"No gradient reaches this layer.*no_grad"):
        grad_cam(model, model.features, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))


def test_blocks_that_cannot_be_explained_are_left_out_with_the_reason(capsys):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            with torch.no_grad():
                x = self.frozen(x)
            return self.fc(self.conv(x).mean((2, 3)))

    found = grad_cam_of_blocks(Partly(), ["frozen", "conv"], torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    assert list(found) == ["conv"] and found["conv"].shape == (2, 8, 8)
    assert "No Grad-CAM of frozen: No gradient reaches this layer" in capsys.readouterr().out
