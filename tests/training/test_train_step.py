"""One optimizer step, against the same written out plainly."""
import copy

import pytest
import torch
from helpers import toy_model
from torch import nn

from course_utils.models import build_model
from course_utils.training.trainer import l1_penalty, prepare_training, train_step

CPU = torch.device("cpu")


def test_the_l1_penalty_is_the_published_loop():
    model = toy_model()
    penalty = l1_penalty(model.parameters())
    loop = sum(nn.functional.l1_loss(p, torch.zeros_like(p)) for p in model.parameters())
    torch.testing.assert_close(penalty, loop)
    gradients = torch.autograd.grad(penalty, list(model.parameters()))
    torch.testing.assert_close(gradients, torch.autograd.grad(loop, list(model.parameters())))


def test_steps_of_a_depthwise_net_follow_the_plain_ones(tiny):
    """Fused L1 and optimizer and channels_last against a loop over the parameters: one loss curve (in double precision;
    in single, the rounding of one step is seen in the third digit of the sixth).
    """
    exp = tiny.replace(optimizer="sgd", momentum=0.9, l1=0.0005, label_smoothing=0.1)
    torch.manual_seed(0)
    model = build_model("s7", 10).double()
    plain = copy.deepcopy(model)
    model, optimizer = prepare_training(exp, model, 0.02, CPU)
    plain_optimizer = torch.optim.SGD(plain.parameters(), 0.02, momentum=0.9)
    x, y = torch.randn(6, 4, 3, 32, 32, dtype=torch.float64), torch.randint(10, (6, 4))
    for images, labels in zip(x, y):
        logits = plain(images)
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        loss = loss + 0.0005 * sum(p.abs().mean() for p in plain.parameters())
        plain_optimizer.zero_grad()
        loss.backward()
        plain_optimizer.step()
        found, correct = train_step(exp, model, optimizer, images, labels)
        assert float(found) == pytest.approx(loss.item(), rel=1e-6)
        assert int(correct) == int((logits.argmax(1) == labels).sum())


def test_bf16_is_the_forward_pass_alone(tiny):
    """The loss is computed in float32 from bfloat16 logits, and gradients and weights are float32."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    images, labels, plain = torch.randn(16, 3, 8, 8), torch.arange(16) % 2, copy.deepcopy(model)
    model, optimizer = prepare_training(tiny.replace(optimizer="sgd"), model, 0.1, CPU)
    loss, _ = train_step(tiny, model, optimizer, images, labels, "bf16")
    flat, layer = images.flatten(1).bfloat16(), plain[1]
    logits = nn.functional.linear(flat, layer.weight.bfloat16(), layer.bias.bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(logits.float(), labels).item(), rel=1e-6)
    assert loss.item() != nn.functional.cross_entropy(plain(images), labels).item()
    assert model[1].weight.dtype == torch.float32
