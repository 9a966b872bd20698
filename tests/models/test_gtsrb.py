"""GTSRB's networks against the published layer tables; the spatial transformer against what it must do."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.models.summary import count_parameters
from course_utils.evaluation.metrics import decompose_affine
from course_utils.models import build_model
from course_utils.models.gtsrb import LeNet, SpatialTransformer

PARAMETERS = {"lenet": 65_219, "vgg16": 134_445_163, "resnet34": 10_441_835,
              "lenet_stn": 73_763, "vgg16_stn": 134_453_707, "resnet34_stn": 10_450_379}
LENET = """conv 6x28x28 456 | relu 6x28x28 | pool 6x14x14 | conv 16x10x10 2416 | relu 16x10x10 | pool 16x5x5 |
conv 120x1x1 48120 | norm 120x1x1 240 | relu 120x1x1 | dropout 120x1x1 | conv 84x1x1 10164 | norm 84x1x1 168 |
relu 84x1x1 | dropout 84x1x1 | conv 43x1x1 3655"""
STN = """conv 8x26x26 1184 | pool 8x13x13 | relu 8x13x13 | conv 10x9x9 2010 | pool 10x4x4 | relu 10x4x4 |
linear 32 5152 | relu 32 | linear 6 198"""


def _vgg16():
    text, inputs = [], 3
    for channels, convolutions, side in ((64, 2, 32), (128, 2, 16), (256, 3, 8), (512, 3, 4), (512, 3, 2)):
        for _ in range(convolutions):
            size = f"{channels}x{side}x{side}"
            text += [f"conv {size} {9 * inputs * channels + channels}", f"norm {size} {2 * channels}", f"relu {size}"]
            inputs = channels
        text.append(f"pool {channels}x{side // 2}x{side // 2}")
    return " | ".join([*text, "mean 512x7x7", "linear 4096 102764544", "relu 4096", "dropout 4096",
                       "linear 4096 16781312", "relu 4096", "dropout 4096", "linear 43 176171"])


def _resnet34():
    text, inputs = [], 3
    for channels, side in ((32, 32), (64, 16), (128, 8), (256, 4)):
        size, last = f"{channels}x{side}x{side}", side == 4
        small = size if last else f"{channels}x{side // 2}x{side // 2}"
        inner = 9 * channels * channels + channels
        text += [f"conv {size} {9 * inputs * channels + channels}", f"norm {size} {2 * channels}", f"relu {size}",
                 f"conv {size} {inner}", f"norm {size} {2 * channels}", f"relu {size}", f"conv {size} {inner}",
                 f"dropout {size}", *([] if last else [f"pool {small}"]), f"norm {small} {2 * channels}",
                 f"relu {small}"]
        inputs = channels
    return " | ".join([*text, "linear 2048 8390656", "norm 2048 4096", "relu 2048", "dropout 2048", "linear 43 88107"])


KINDS = {nn.Conv2d: "conv", nn.BatchNorm2d: "norm", nn.BatchNorm1d: "norm", nn.ReLU: "relu", nn.MaxPool2d: "pool",
         nn.Dropout: "dropout", nn.Linear: "linear", nn.AdaptiveAvgPool2d: "mean"}


def executed(model):
    """Every layer in the order in which it runs: kind, output size, parameters."""
    rows = []

    def note(layer, _, output):
        size = "x".join(str(n) for n in output.shape[1:])
        parameters = sum(p.numel() for p in layer.parameters())
        rows.append(" ".join([KINDS[type(layer)], size, *([str(parameters)] if parameters else [])]))

    hooks = [m.register_forward_hook(note) for m in model.modules() if type(m) in KINDS]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return rows


def listed(text):
    return [" ".join(row.split()) for row in text.split("|")]


@pytest.mark.parametrize(("name", "text"), [
    ("lenet", LENET), ("lenet_stn", f"{STN} | {LENET}"), ("resnet34", _resnet34()),
    ("resnet34_stn", f"{STN} | {_resnet34()}"), ("vgg16", _vgg16()), ("vgg16_stn", f"{STN} | {_vgg16()}")])
def test_layer_by_layer_as_published(name, text):
    with torch.device("meta"):  # shapes alone: VGG's 538 MB of weights need not exist
        model = build_model(name, 43)
    assert count_parameters(model) == PARAMETERS[name]
    assert executed(model) == listed(text)


@pytest.mark.parametrize(("name", "rates"), [("lenet", [0.2, 0.2]), ("resnet34", [0.2] * 5), ("vgg16", [0.5, 0.5])])
def test_dropout_as_published(name, rates):
    with torch.device("meta"):
        model = build_model(name, 43)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == rates


@pytest.mark.parametrize("name", ["lenet", "resnet34", "lenet_stn", "resnet34_stn", "sign_net"])
def test_outputs_are_log_probabilities(name):
    model = build_model(name, 43).eval()
    with torch.no_grad():
        y = model(torch.randn(5, 3, 32, 32))
    assert y.shape == (5, 43)
    torch.testing.assert_close(y.exp().sum(1), torch.ones(5), rtol=0, atol=1e-5)


def test_ours_is_within_its_limit():
    assert count_parameters(build_model("sign_net", 43)) == 2_299_069 <= 15_000_000


@pytest.mark.parametrize("name", ["lenet_stn", "resnet34_stn", "sign_net"])
def test_a_fresh_transformer_is_the_identity(name):
    torch.manual_seed(0)
    x = torch.rand(4, 3, 32, 32)
    model = build_model(name, 43).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.transform(x), x, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.theta(x), torch.eye(3)[:2].expand(4, 2, 3))


def test_the_wrapped_net_is_the_classifier_behind_the_resampling():
    torch.manual_seed(0)
    classifier = LeNet().eval()
    model = SpatialTransformer(classifier).eval()
    nn.init.normal_(model.affine[-1].weight, std=0.05)
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        theta = model.affine(model.localisation(x).flatten(1)).view(4, 2, 3)
        assert (theta - theta[:1]).abs().max() > 1e-3  # each image has a map of its own
        expected = F.grid_sample(x, F.affine_grid(theta, [4, 3, 32, 32], align_corners=True), align_corners=True)
        torch.testing.assert_close(model(x), classifier(expected))


def test_corners_are_aligned():
    """Half the zoom, corners aligned: output pixel 0 lies at input place 7.75, between pixels 7 and 8."""
    model = SpatialTransformer(LeNet()).eval()
    with torch.no_grad():
        model.affine[-1].bias.copy_(torch.tensor([0.5, 0, 0, 0, 1, 0]))
        row = torch.arange(32.0).expand(1, 3, 32, 32)
        torch.testing.assert_close(model.transform(row)[0, 0, 5, 0], torch.tensor(7.75))


@pytest.mark.parametrize("name", ["lenet_stn", "sign_net"])
def test_the_classifier_s_loss_reaches_the_localisation_network(name):
    torch.manual_seed(0)
    model = build_model(name, 43)
    stage = model if name == "lenet_stn" else model.straighten
    last = stage.affine[-1] if isinstance(stage.affine, nn.Sequential) else stage.affine
    nn.init.normal_(last.weight, std=0.01)  # while it is 0, nothing below it has a gradient
    F.nll_loss(model(torch.randn(8, 3, 32, 32)), torch.arange(8)).backward()
    first = next(layer for layer in stage.localisation if isinstance(layer, nn.Conv2d))
    assert first.weight.grad.abs().max() > 1e-6 and last.weight.grad.abs().max() > 1e-6


def test_a_fresh_transformer_learns_to_move():
    """From the identity: a bright spot lies off the centre, and only the centre is looked at."""

    class Centre(nn.Module):
        def forward(self, x):
            return x[:, :, 14:18, 14:18].mean((1, 2, 3))

    torch.manual_seed(0)
    x = torch.zeros(8, 3, 32, 32)
    x[:, :, 8:20, 16:28] = 1.0
    model = SpatialTransformer(Centre())
    before = model(x).mean().item()
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    for _ in range(60):
        optimizer.zero_grad()
        (-model(x).mean()).backward()
        optimizer.step()
    assert model(x).mean().item() > before + 0.2


@pytest.mark.parametrize(("part", "amount"), [("rotation", 20.0), ("zoom", 1.5), ("shift right", 3.0),
                                              ("shift down", -4.0)])
def test_what_a_map_does_to_a_picture(part, amount):
    """A spot moves as ``decompose_affine`` says."""
    turn, zoom, dx, dy = (amount if part == name else still for name, still in
                          (("rotation", 0.0), ("zoom", 1.0), ("shift right", 0.0), ("shift down", 0.0)))
    angle = torch.deg2rad(torch.tensor(turn))
    forward = zoom * torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    back = torch.linalg.inv(forward)
    shift = torch.tensor([dx, dy]) * 2 / 31
    theta = torch.cat([back, (-back @ shift)[:, None]], 1)[None]
    assert decompose_affine(theta.numpy(), 32)[part][0] == pytest.approx(amount, abs=1e-4)
    ys, xs = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    spot = torch.exp(-((xs - 20.5) ** 2 + (ys - 15.5) ** 2) / 4)[None, None]  # 5 pixels right of the centre
    moved = F.grid_sample(spot, F.affine_grid(theta, [1, 1, 32, 32], align_corners=True), align_corners=True)[0, 0]
    place = torch.stack([(moved * xs).sum(), (moved * ys).sum()]) / moved.sum() - 15.5
    expected = forward @ torch.tensor([5.0, 0.0]) + torch.tensor([dx, dy])
    torch.testing.assert_close(place, expected, rtol=0, atol=0.1)
