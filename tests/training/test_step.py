"""Recorded steps, CutMix and the L1 penalty, against the same written out plainly."""
import copy

import pytest
import torch
from helpers import toy_loader, toy_model
from torch import nn
from torch.nn import functional as F

from course_utils.models import build_model
from course_utils.training.optim import make_schedule
from course_utils.training.step import TrainStep, add_l1_gradients, cut_mix, l1_penalty
from course_utils.training.trainer import prepare_training, train_one_epoch

CPU = torch.device("cpu")


def imitated_graph(step):
    """A stand-in for CUDA graphs: the replay does the work again and leaves the gradients where they were recorded."""
    def record(work):
        work()
        places = [p.grad for p in step.parameters]

        def replay():
            work()
            for parameter, place in zip(step.parameters, places):
                place.copy_(parameter.grad)
        return replay
    return record


def plain_epoch(exp, model, optimizer, schedule, loader, epoch):
    torch.manual_seed(exp.seed * 1_000_003 + epoch)
    model.train()
    for images, labels in loader.epoch(epoch):
        loss = F.cross_entropy(model(images), labels, label_smoothing=exp.label_smoothing)
        if exp.l1:
            loss = loss + exp.l1 * l1_penalty(list(model.parameters()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("settings", [
    {"l1": 0.0005, "optimizer": "sgd", "schedule": "one_cycle", "peak_epoch": 1.0}, {"label_smoothing": 0.1},
    {"optimizer": "adam", "schedule": "one_cycle", "peak_epoch": 1.0, "l1": 0.01}, {"model": "lenet_stn"}])
def test_recorded_steps_are_bit_equal_to_a_plain_loop(tiny, settings):
    """Two epochs whose last batch is smaller; batch norm, dropout, L1, One-Cycle's momentum, a spatial transformer."""
    exp, found = tiny.replace(**settings), []
    torch.manual_seed(0)
    loader = toy_loader(14, shuffle=True)
    start = toy_model() if "model" not in settings else nn.Sequential(nn.Upsample(32), build_model("lenet_stn", 2))
    for way in ("plain", "step", "recorded"):
        model, optimizer = prepare_training(exp, copy.deepcopy(start), 0.05, CPU)
        schedule = make_schedule(exp, optimizer, len(loader))
        step = TrainStep(exp, model, optimizer)
        assert step.record is None
        step.record = imitated_graph(step) if way == "recorded" else None
        for epoch in (1, 2):
            if way == "plain":
                plain_epoch(exp, model, optimizer, schedule, loader, epoch)
            else:
                train_one_epoch(step, schedule, loader, epoch)
        assert len(step.recorded) == (2 if way == "recorded" else 0)
        found.append(list(model.state_dict().values()))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


def test_what_cannot_be_recorded_is_trained_step_by_step(tiny):
    lines, model = [], toy_model(dropout=0.0)
    before = copy.deepcopy(model)
    step = TrainStep(tiny, *prepare_training(tiny, model, 0.0, CPU), log=lines.append)

    def refuse(work):
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    step.record = refuse
    images, labels = next(iter(toy_loader(16).epoch(1)))
    first = step(images, labels)
    assert lines == ["No CUDA graph of this network: operation not permitted when stream is capturing "
                     "It is trained step by step."]
    assert step(images, labels) == first and len(lines) == 1 and step.totals[2] == 32  # the attempt was not counted
    assert model[1].num_batches_tracked == before[1].num_batches_tracked + 2


def test_the_l1_penalty_is_the_published_loop():
    parameters = list(toy_model().parameters())
    penalty = l1_penalty(parameters)
    loop = sum(F.l1_loss(p, torch.zeros_like(p)) for p in parameters)
    torch.testing.assert_close(penalty, loop)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    add_l1_gradients(parameters, 0.5)
    expected = [1 + 0.5 * gradient for gradient in torch.autograd.grad(loop, parameters)]
    torch.testing.assert_close([parameter.grad for parameter in parameters], expected)


def test_cut_mix_pastes_rectangles_of_the_neighbor():
    torch.manual_seed(0)
    count, side = 4000, 16
    images, labels = torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 1, side, side), torch.arange(count)
    mixed, others, share = cut_mix(images, labels, 0.5)
    pasted = mixed == images.roll(1, 0)
    assert torch.equal(mixed[~pasted], images[~pasted]) and torch.equal(others, labels.roll(1))
    torch.testing.assert_close(share, 1 - pasted.float().mean((1, 2, 3)))
    rows, columns = pasted.any(3)[:, 0], pasted.any(2)[:, 0]
    assert torch.equal(pasted[:, 0], rows[:, :, None] & columns[:, None, :])  # rectangles,
    for edges in (rows, columns):  # in one piece
        assert (edges.int().diff(dim=1).abs().sum(1) <= 2).all()
    untouched = (share == 1).float().mean()
    assert 0.48 < untouched < 0.56  # half, and rectangles of less than a pixel
    # A side s, s^2 uniform, with a uniform center covers s - s^2 / 4 of an axis: the mean of its square is 0.321.
    assert 1 - share.mean() == pytest.approx(0.321 / 2, abs=0.006)
    assert torch.equal(cut_mix(images, labels, 0.0)[0], images)


def test_steps_of_a_depthwise_net_follow_the_plain_ones(tiny):
    """Fused L1 and optimizer and channels_last against a loop over the parameters: one loss curve (in double precision;
    in single, the rounding of one step is seen in the third digit of the sixth).
    """
    exp = tiny.replace(optimizer="sgd", momentum=0.9, l1=0.0005, label_smoothing=0.1)
    torch.manual_seed(0)
    model = build_model("s7", 10).double()
    plain = copy.deepcopy(model)
    step = TrainStep(exp, *prepare_training(exp, model, 0.02, CPU))
    plain_optimizer = torch.optim.SGD(plain.parameters(), 0.02, momentum=0.9)
    x, y = torch.randn(6, 4, 3, 32, 32, dtype=torch.float64), torch.randint(10, (6, 4))
    for images, labels in zip(x, y):
        logits = plain(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        loss = loss + 0.0005 * sum(p.abs().mean() for p in plain.parameters())
        plain_optimizer.zero_grad()
        loss.backward()
        plain_optimizer.step()
        step.totals.zero_()
        assert float(step(images, labels)) == pytest.approx(loss.item(), rel=1e-6)
        assert step.totals.tolist()[1:] == [int((logits.argmax(1) == labels).sum()), 4]


def test_bf16_is_the_forward_pass_alone(tiny):
    """The loss is computed in float32 from bfloat16 logits, and gradients and weights are float32."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    images, labels, plain = torch.randn(16, 3, 8, 8), torch.arange(16) % 2, copy.deepcopy(model)
    model, optimizer = prepare_training(tiny.replace(optimizer="sgd"), model, 0.1, CPU)
    loss = TrainStep(tiny, model, optimizer, "bf16")(images, labels)
    flat, layer = images.flatten(1).bfloat16(), plain[1]
    logits = F.linear(flat, layer.weight.bfloat16(), layer.bias.bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy(logits.float(), labels).item(), rel=1e-6)
    assert loss.item() != F.cross_entropy(plain(images), labels).item()
    assert model[1].weight.dtype == torch.float32


def test_dropout_differs_from_epoch_to_epoch_and_not_from_run_to_run(tiny):
    """At a learning rate of 0 nothing else could make two epochs differ."""
    losses = []
    for _ in range(2):
        model, optimizer = prepare_training(tiny, toy_model(dropout=0.5), 0.0, CPU)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        step = TrainStep(tiny, model, optimizer)
        losses.append([train_one_epoch(step, schedule, toy_loader(16), epoch)["train_loss"] for epoch in (1, 2, 3)])
    assert losses[0] == losses[1] and len(set(losses[0])) == 3
