"""Rules are checked against what a network does: each of six small networks breaks one rule, and that one alone."""
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.__main__ import main
from course_utils.analysis import rules
from course_utils.analysis.rules import all_passed, check_rules, findings_table
from course_utils.errors import CourseError
from course_utils.models import build_model
from course_utils.variants import list_assignments, load_experiment, read_assignment

NAME = "cifar10_dilated_depthwise"
EXP = load_experiment(NAME)
GLOBAL_POOLING = ["uses global average pooling"]


class Separable(nn.Module):
    """A depthwise convolution and a 1x1 under names that say nothing."""

    def __init__(self, channels, depthwise=True, mixed=True):
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1, groups=channels if depthwise else channels // 2)
        self.b = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.c = nn.Conv2d(channels, channels, 1) if mixed else nn.Identity()

    def forward(self, x):
        return self.c(self.b(self.a(x)))


def network(width=16, dilation=6, separable=(True, True), pool=False, head="mean"):
    """A network that keeps all the rules with the default arguments."""
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(),
              *([nn.MaxPool2d(2)] if pool else [nn.Conv2d(width, width, 3, stride=2, padding=1)]),
              nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation), nn.ReLU(),
              *(nn.Conv2d(width, width, 3, padding=1) for _ in range(6 if dilation == 1 else 0)),
              Separable(width, *separable)]
    heads = {"mean": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)],
             "flatten": [nn.Flatten(), nn.Linear(width * 256, 10)],
             "small": [nn.AvgPool2d(2), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(width, 10)]}
    return nn.Sequential(*layers, *heads[head])


def broken(model, exp=EXP, accuracy=0.9):
    return [f.rule for f in check_rules(exp, model, 32, accuracy) if f.passed is False and not f.extra]


def test_network_that_keeps_all_the_rules_passes():
    findings = check_rules(EXP, network(), 32, 0.9)
    assert all_passed(findings) and broken(network()) == []
    assert "8 passed, 0 failed, 0 open" in findings_table(findings)


@pytest.mark.parametrize(("settings", "rule"), [
    ({"width": 128}, "at most 200,000 parameters"),
    ({"dilation": 1}, "uses dilated convolution"),
    ({"separable": (False, True)}, "uses depthwise separable convolution"),
    ({"separable": (True, False)}, "uses depthwise separable convolution"),
    ({"pool": True}, "without max pooling"),
    ({"head": "flatten", "width": 8}, "uses global average pooling"),
])
def test_each_network_breaks_its_own_rule_and_no_other(settings, rule):
    assert broken(network(**settings)) == [rule]


def test_small_receptive_field_fails_and_an_unknown_one_is_open():
    narrow = [nn.Conv2d(3, 8, 3, dilation=2), Separable(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    assert broken(nn.Sequential(*narrow)) == ["receptive field of at least 45"]
    findings = check_rules(EXP, nn.Sequential(narrow[0], nn.Upsample(scale_factor=2), *narrow[1:]), 32, 0.9)
    assert all_passed(findings) and "7 passed, 0 failed, 1 open" in findings_table(findings)
    assert [f.found for f in findings if f.passed is None] == ["unknown after interpolate (in 1)"]


def test_an_operation_off_the_way_to_the_output_does_not_matter():
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            self.seen = torch.roll(x, 1, 3).sort().values  # neither is followed
            return self.net(x)

    findings = check_rules(EXP, Watched(), 32, 0.9)
    assert [f.passed for f in findings] == [f.passed for f in check_rules(EXP, network(), 32, 0.9)]
    assert not any(f.passed is None for f in findings)


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(1)])
def test_global_pooling_of_a_map_of_one_pixel_counts(pool):
    model = nn.Sequential(nn.Conv2d(3, 8, 8, 4), nn.Conv2d(8, 8, 7), pool, nn.Flatten(), nn.Linear(8, 10))
    found = {f.rule: f for f in check_rules(EXP, model, 32)}["uses global average pooling"]
    assert found.passed and found.found == "1: 2"


def test_rules_about_the_experiment():
    assert broken(network(), EXP.replace(augmentation=EXP.augmentation[1:])) == [
        "augmentation contains horizontal_flip, shift_scale_rotate, coarse_dropout"]
    never = tuple(dataclasses.replace(step, p=0.0) for step in EXP.augmentation)
    assert broken(network(), EXP.replace(augmentation=never))[0].startswith("augmentation contains")
    assert broken(network(), accuracy=0.8499) == ["at least 85.0% of all test images"]
    findings = check_rules(EXP, network(), 32)
    assert all_passed(findings) and "7 passed, 0 failed, 1 open" in findings_table(findings)
    other = load_experiment("cifar10_custom_resnet").replace(epochs=25, batch_size=256, optimizer="sgd")
    assert broken(network(), other) == ["at most 24 epochs", "batch size 512", "optimizer adam"]


def test_extra_points_do_not_decide():
    findings = {f.rule: f for f in check_rules(EXP, network(head="small"), 32, 0.9)}
    assert not findings["without strided convolution"].passed and not findings["without pooling but the last"].passed
    assert all_passed(list(findings.values()))


class Custom(nn.Module):
    """A network that keeps all the rules but for what ``then`` does with its stem's map (N, 8, 16, 16)."""

    def __init__(self, then, head=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=6, dilation=6))
        self.separable, self.gate, self.linear = Separable(8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.down, self.mix = nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=8), nn.Conv2d(16, 8, 1)
        self.then, self.head, self.fc = then, head, nn.LazyLinear(10)

    def forward(self, x):
        x = self.then(self, self.stem(x))
        return self.fc(self.head(x) if self.head else x.mean((2, 3)))


def gated(net, x):
    return net.separable(x) * net.gate(x.mean((2, 3))).sigmoid()[..., None, None]


@pytest.mark.parametrize(("then", "head", "rule"), [
    (gated, None, []),
    (gated, lambda x: x.flatten(1), GLOBAL_POOLING),  # a mean that weights channels is no head
    (lambda net, x: net.separable(x), lambda x: F.avg_pool2d(x, (1, 16)).flatten(1), GLOBAL_POOLING),  # across alone
    (lambda net, x: net.separable(x), lambda x: torch.cat([x.mean((2, 3)), x.sum((2, 3))], 1), []),
    (lambda net, x: net.separable(x), lambda x: x.flatten(2).mean(-1), []),
    (lambda net, x: net.mix(torch.cat([net.separable.a(x).relu(), net.stem[1](x)], 1)), None, []),  # branches
    (lambda net, x: net.linear(net.down(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), None, []),  # as ConvNeXt does
    (lambda net, x: F.max_pool2d(net.separable(x), 3, 1, 1, 2), None, ["without max pooling"]),
])
def test_structure_is_what_a_network_does(then, head, rule):
    assert broken(Custom(then, head)) == rule


@pytest.mark.parametrize("pool", [
    lambda x: F.max_pool2d(x, 2, return_indices=True)[0], lambda x: x.max(3)[0].max(2)[0][..., None, None],
    lambda x: x.amax((2, 3), keepdim=True), lambda x: x.flatten(2).max(-1)[0][..., None, None],
    lambda x: F.adaptive_max_pool2d(x, 1),
])
def test_max_pooling_is_found_however_it_is_written(pool):
    findings = check_rules(EXP, Custom(lambda net, x: pool(x), lambda x: x.flatten(1)), 32)
    assert next(f for f in findings if f.rule == "without max pooling").passed is False


def test_dilation_or_a_stride_along_one_axis_counts():
    model = Custom(lambda net, x: net.separable(F.conv2d(x, net.down.weight, dilation=(3, 1), stride=(2, 1), groups=8)))
    model.stem[1] = nn.Identity()
    model.stem[0].stride = (1, 1)
    found = {f.rule: f.passed for f in check_rules(EXP, model, 32, 0.9)}
    assert found["uses dilated convolution"] and not found["without strided convolution"]


def test_frozen_parameters_count():
    model = network()
    model[0].frozen = nn.Linear(500, 500).requires_grad_(False)
    assert broken(model) == ["at most 200,000 parameters"]


@pytest.mark.parametrize("variant", read_assignment(NAME)["variants"])
def test_networks_of_the_course_keep_the_rules(variant):
    exp = load_experiment(NAME, variant)
    findings = check_rules(exp, build_model(exp.model, 10, **exp.model_settings), 32)
    assert all_passed(findings) == (not variant.startswith("resnet18"))
    assert all(f.passed for f in findings if f.extra) == (variant == "best")


@pytest.mark.parametrize("name", [name for name in list_assignments() if read_assignment(name)["rules"]])
def test_command_line_returns_the_result_as_exit_code(name, capsys):
    assert main(["check", name]) == 0
    assert ", 0 failed, " in capsys.readouterr().out
    assert main(["check", NAME, "--variant", "resnet18"]) == 1
    assert main(["check", NAME, "--variant", "none"]) == main(["check", "gtsrb_stn"]) == 2


@pytest.mark.parametrize(("table", "message"), [
    ({}, "has no rules"), ({"depth": 3}, "Unknown rule: 'depth'"), ({"uses": ["attention"]}, "Unknown structure")])
def test_unknown_and_missing_rules_are_rejected(monkeypatch, table, message):
    monkeypatch.setattr(rules, "read_assignment", lambda _: {"rules": table})
    with pytest.raises(CourseError, match=message):
        check_rules(EXP, network(), 32)


def with_forward(forward):
    """The network that keeps all the rules, with ``forward(body, head, x)``: body before the global pooling."""
    layers = network()
    body, head = layers[:-3], layers[-1]

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head, self.side = body, head, nn.Conv2d(16, 16, 3, padding=2, dilation=2)
            self.flat = nn.Linear(256, 10)

        def forward(self, x):
            return forward(self, x)

    return Written()


@pytest.mark.parametrize("pool", [
    lambda x: torch.einsum("nchw->nc", x) / 256, lambda x: F.avg_pool1d(x.flatten(2), 256).flatten(1),
    lambda x: F.adaptive_avg_pool1d(x.flatten(2), 1).flatten(1), lambda x: x.nanmean((2, 3)),
    lambda x: x.mean(3).mean(2)])
def test_global_means_count_however_they_are_written(pool):
    assert broken(with_forward(lambda net, x: net.head(pool(net.body(x))))) == []


@pytest.mark.parametrize("pool", [
    lambda x: x.mean(3).flatten(1)[:, :16], lambda x: x.mean(1).flatten(1)[:, :16],
    lambda x: x.flatten(2).mean(1)[:, :16]])
def test_means_of_a_part_are_no_global_pooling(pool):
    assert GLOBAL_POOLING[0] in broken(with_forward(lambda net, x: net.head(pool(net.body(x)))))


def test_a_mean_of_the_channels_sees_no_more_of_the_image():
    def forward(net, x):
        x = net.body[:2](x)
        return net.head((x * x.mean(1).unsqueeze(1).sigmoid()).mean((2, 3)))

    field = next(f for f in check_rules(EXP, with_forward(forward), 32) if f.rule.startswith("receptive field"))
    assert field.found == "34"  # 3 of the convolution, 31 more by the global mean


def peak(net, x):
    net.level, net.thumb, net.seen = x.amax(), F.max_pool2d(x.detach(), 4), net.side(net.body[:5](x))
    return net.head(net.body(x).mean((2, 3)))


def asserted(net, x):
    x = net.body(x)
    assert torch.isfinite(x).all()
    return net.head(x.mean((2, 3)))


def normalized(net, x):
    x = (x - x.amin((1, 2, 3), keepdim=True)) / x.amax((1, 2, 3), keepdim=True).clamp_min(1)
    return net.head(net.body(x).mean((2, 3)))


@pytest.mark.parametrize("forward", [peak, asserted, normalized])
def test_what_is_off_the_way_or_read_as_a_number_breaks_no_rule(forward):
    assert broken(with_forward(forward)) == []


def test_what_is_off_the_way_keeps_no_rule():
    def forward(net, x):
        net.level, net.seen = x.mean((2, 3)), net.side(net.body[:2](x))
        return net.flat(F.adaptive_avg_pool2d(net.body[:2](x), 4).flatten(1))

    assert {GLOBAL_POOLING[0], "uses dilated convolution"} <= set(broken(with_forward(forward)))


def test_a_layer_behind_what_torch_does_not_show_is_still_found():
    mish = torch.jit.script(_mish)

    def forward(net, x):
        return net.head(F.max_pool2d(mish(net.body(x)), 2).mean((2, 3)))

    findings = {f.rule: f for f in check_rules(EXP, with_forward(forward), 32)}
    assert findings["receptive field of at least 45"].passed is None
    assert findings["without max pooling"].passed is False and findings[GLOBAL_POOLING[0]].passed


def _mish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.tanh(F.softplus(x))


@pytest.mark.parametrize("pool", [lambda x: F.max_pool3d(x[:, None], (1, 2, 2))[:, 0],
                                  lambda x: F.max_pool1d(x.flatten(2), 2).view(len(x), 16, 8, 16)])
def test_max_pooling_of_another_dimension_counts(pool):
    assert "without max pooling" in broken(with_forward(lambda net, x: net.head(pool(net.body(x)).mean((2, 3)))))
