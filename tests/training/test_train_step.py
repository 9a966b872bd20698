"""One optimiser step, against the same written out plainly."""
import copy

import pytest
import torch
from helpers import toy_model
from torch import nn

from course_utils.training import step
from course_utils.models import build_model


def test_the_l1_penalty_is_the_published_loop():
    model = toy_model()
    penalty = step.l1_penalty(model.parameters())
    loop = sum(nn.functional.l1_loss(p, torch.zeros_like(p)) for p in model.parameters())
    torch.testing.assert_close(penalty, loop)
    got = torch.autograd.grad(penalty, list(model.parameters()))
    expected = torch.autograd.grad(loop, list(model.parameters()))
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b)


def test_the_step_of_a_depthwise_net_follows_the_plain_one(tiny, machine):
    """Fused L1 and optimiser and channels last against a loop over the parameters: one loss curve (in double
    precision; in single, the rounding of one step is seen in the third digit of the sixth).
    """
    exp = tiny.replace(optimizer="sgd", momentum=0.9, l1=0.0005, lr=0.02)
    torch.manual_seed(0)
    model = build_model("s7", 10).double()
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(plain.parameters(), 0.02, momentum=0.9)
    train_step = step.train_step(exp, model, 0.02, machine)
    x, y = torch.randn(6, 8, 3, 32, 32, dtype=torch.float64), torch.randint(10, (6, 8))
    for images, labels in zip(x, y):
        loss = nn.functional.cross_entropy(plain(images), labels)
        loss = loss + 0.0005 * sum(p.abs().mean() for p in plain.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert float(train_step(images, labels)) == pytest.approx(loss.item(), rel=1e-6)


def test_label_smoothing_and_l1_enter_the_loss(tiny):
    model, logits, labels = toy_model(), torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    plain = step.loss_fn(tiny, model, logits, labels)
    smooth = step.loss_fn(tiny.replace(label_smoothing=0.2), model, logits, labels)
    assert smooth - plain == pytest.approx(0.2 * 0.5 * 2.0)  # a tenth of the target moves 2.0 logits away
    with_l1 = step.loss_fn(tiny.replace(l1=0.1), model, logits, labels)
    torch.testing.assert_close(with_l1 - plain, 0.1 * step.l1_penalty(model.parameters()))
