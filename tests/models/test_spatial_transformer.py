"""The spatial transformer: identity at the start, aligned corners, trained by the classifier's loss."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.models import build_model
from course_utils.models.gtsrb import LeNet
from course_utils.models.spatial_transformer import (
    SpatialTransformer,
    apply_spatial_transformer,
    decompose_affine,
    has_transformer,
    predict_theta,
    resample,
)

SIGN_NET = "assignments/gtsrb_stn/best_net.py:SignNet"


@pytest.mark.parametrize("name", ["lenet_stn", "resnet34_stn", SIGN_NET])
def test_new_transformer_is_the_identity(name):
    torch.manual_seed(0)
    model, x = build_model(name, 43), torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(apply_spatial_transformer(model, x), x, rtol=0, atol=1e-5)
    theta = torch.from_numpy(predict_theta(model, [(x, torch.zeros(4))]))
    torch.testing.assert_close(theta, torch.eye(3)[:2].expand(4, 2, 3))
    assert model.training


def test_network_without_transformer_counts_as_the_identity():
    model, x = LeNet(), torch.rand(4, 3, 32, 32)
    assert apply_spatial_transformer(model, x) is x
    assert (predict_theta(model, [(x, torch.zeros(4))] * 2) == torch.eye(3)[:2].numpy()).all()


@pytest.mark.parametrize("attribute", [nn.Parameter(torch.ones(3)), 3, nn.Linear(2, 2)])
def test_an_attribute_of_that_name_is_no_transformer(attribute):
    model = LeNet()
    model.theta = attribute
    x = torch.rand(2, 3, 32, 32)
    assert not has_transformer(model) and apply_spatial_transformer(model, x) is x
    assert predict_theta(model, [(x, None)]).shape == (2, 2, 3)
    assert has_transformer(build_model("lenet_stn", 10))


def test_classifier_gets_the_resampled_images():
    torch.manual_seed(0)
    classifier = LeNet().eval()
    model = SpatialTransformer(classifier).eval()
    nn.init.normal_(model.affine[-1].weight, std=0.05)
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        theta = model.affine(model.localization(x).flatten(1)).view(4, 2, 3)
        assert (theta - theta[:1]).abs().max() > 1e-3  # each image has a map of its own
        expected = F.grid_sample(x, F.affine_grid(theta, [4, 3, 32, 32], align_corners=True), align_corners=True)
        torch.testing.assert_close(model(x), classifier(expected))


def test_places_are_computed_in_float32_under_autocast():
    """In bfloat16 a shift by 0.3 pixels of 32 would be one by 0.25 or 0.5 in places."""
    x, theta = torch.rand(2, 3, 32, 32), torch.tensor([[1.0, 0.02, 0.019], [-0.02, 1.0, 0.019]]).expand(2, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = resample(x, theta)
    torch.testing.assert_close(found, resample(x, theta), rtol=0, atol=0)


def test_corners_are_aligned():
    """Twice the zoom, corners aligned: output pixel 0 looks at place 7.75 of the input, between pixels 7 and 8."""
    model = SpatialTransformer(LeNet()).eval()
    with torch.no_grad():
        model.affine[-1].bias.copy_(torch.tensor([0.5, 0, 0, 0, 1, 0]))
        row = torch.arange(32.0).expand(1, 3, 32, 32)
        torch.testing.assert_close(model.transform(row)[0, 0, 5, 0], torch.tensor(7.75))


@pytest.mark.parametrize("name", ["lenet_stn", SIGN_NET])
def test_loss_reaches_the_localization_network(name):
    torch.manual_seed(0)
    model = build_model(name, 43)
    stage = model if name == "lenet_stn" else model.straighten
    last = stage.affine[-1] if isinstance(stage.affine, nn.Sequential) else stage.affine
    nn.init.normal_(last.weight, std=0.01)  # while it is 0, nothing before it has a gradient
    F.nll_loss(model(torch.randn(8, 3, 32, 32)), torch.arange(8)).backward()
    first = next(layer for layer in stage.localization if isinstance(layer, nn.Conv2d))
    assert first.weight.grad.abs().max() > 1e-6 and last.weight.grad.abs().max() > 1e-6


def test_transformer_learns_to_center_a_bright_square():
    class Center(nn.Module):
        def forward(self, x):
            return x[:, :, 14:18, 14:18].mean((1, 2, 3))

    torch.manual_seed(0)
    x = torch.zeros(8, 3, 32, 32)
    x[:, :, 8:20, 16:28] = 1.0
    model = SpatialTransformer(Center())
    before = model(x).mean().item()
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    for _ in range(60):
        optimizer.zero_grad()
        (-model(x).mean()).backward()
        optimizer.step()
    assert model(x).mean().item() > before + 0.2


@pytest.mark.parametrize(("part", "amount"), [("rotation", 20.0), ("zoom", 1.5), ("shift right", 3.0),
                                              ("shift down", -4.0)])
def test_decompose_affine_describes_how_a_bright_spot_moves(part, amount):
    turn, zoom, dx, dy = (amount if part == name else still for name, still in
                          (("rotation", 0.0), ("zoom", 1.0), ("shift right", 0.0), ("shift down", 0.0)))
    angle = torch.deg2rad(torch.tensor(turn))
    forward = zoom * torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    back = torch.linalg.inv(forward)
    theta = torch.cat([back, (-back @ (torch.tensor([dx, dy]) * 2 / 31))[:, None]], 1)[None]
    assert decompose_affine(theta.numpy(), 32)[part][0] == pytest.approx(amount, abs=1e-4)
    ys, xs = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    spot = torch.exp(-((xs - 20.5) ** 2 + (ys - 15.5) ** 2) / 4)[None, None]  # 5 pixels right of the center
    moved = F.grid_sample(spot, F.affine_grid(theta, [1, 1, 32, 32], align_corners=True), align_corners=True)[0, 0]
    place = torch.stack([(moved * xs).sum(), (moved * ys).sum()]) / moved.sum() - 15.5
    torch.testing.assert_close(place, forward @ torch.tensor([5.0, 0.0]) + torch.tensor([dx, dy]), rtol=0, atol=0.1)


@pytest.mark.parametrize("methods", [
    {"theta": lambda self: 3, "transform": lambda self, x, eps: x},
    {"theta": lambda self, x: torch.zeros(len(x), 6), "transform": lambda self, x: x}])
def test_methods_of_that_name_that_do_something_else_are_no_transformer(methods):
    network = type("Network", (nn.Linear,), methods)(2, 2)
    assert not has_transformer(network)
