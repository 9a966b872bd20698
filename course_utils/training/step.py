"""One optimiser step: its loss, what it needs, and what is said when it does not fit."""
from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from course_utils.models import custom as own
from course_utils.errors import CourseError, NoMemory
from course_utils.config import Experiment
from course_utils.training.device import Machine, memory_words
from course_utils.data.loader import worker_lost
from course_utils.training.optim import make_optimizer


def loss_of(exp: Experiment, model: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, label smoothing and L1 penalty included, as a scalar."""
    loss = F.cross_entropy(logits, labels, label_smoothing=exp.label_smoothing)
    return loss + exp.l1 * l1_penalty(model.parameters()) if exp.l1 else loss


def l1_penalty(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Sum over the tensors of their mean absolute value, by one fused kernel for all norms."""
    parameters = list(parameters)
    means = torch._foreach_div(torch._foreach_norm(parameters, 1), [float(p.numel()) for p in parameters])
    return torch.stack(means).sum()


def make_ready(exp: Experiment, model: nn.Module, lr: float, machine: Machine) -> tuple[nn.Module, Optimizer]:
    """Model on the machine's device, in training mode and channels_last, and its optimiser at rate ``lr``."""
    model = model.to(machine.device, memory_format=torch.channels_last)
    model.train()  # a student's own method may return nothing
    return machine.accelerator.prepare(model, make_optimizer(exp, model.parameters(), lr))


def take_step(exp: Experiment, model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor,
              machine: Machine) -> tuple[Tensor, Tensor]:
    """One optimiser step on images ``x`` (N, C, H, W), normalised, and labels ``y`` (N,), both on the device.

    Returns the loss (scalar, nats, penalties included) and the number of images classified correctly, both on the
    device too: nothing here waits for a GPU.
    """
    logits = model(x).flatten(1)
    loss = loss_of(exp, model, logits, y)
    machine.accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach(), (logits.detach().argmax(1) == y).sum()


def make_step(exp: Experiment, model: nn.Module, lr: float, machine: Machine) -> Callable[[Tensor, Tensor], Tensor]:
    """The very step that ``fit`` takes, to be timed: images and labels -> loss, at a constant rate."""
    model, optimizer = make_ready(exp, model, lr, machine)
    return lambda x, y: take_step(exp, model, optimizer, x, y, machine)[0]


@contextlib.contextmanager
def plainly(exp: Experiment, machine: Machine) -> Iterator[None]:
    """Say in plain words what did not fit, and that a loader's worker is gone; nothing is made smaller in silence.

    Raises ``NoMemory`` for the one, ``CourseError`` for the other, and one for an error in the file of a network of
    your own, by its line; any other error passes through.
    """
    try:
        yield
    except CourseError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        if first.startswith("DataLoader worker"):
            raise worker_lost(first) from error
        if isinstance(error, MemoryError) or re.search("out of memory|can't allocate|not enough memory", str(error)):
            raise NoMemory(f"A step with {exp.batch_size} images does not fit into {memory_words(machine.device)}: "
                           f"take a smaller batch_size (it is another experiment then). {first}") from error
        if in_file := own.told(exp.model, error):
            raise in_file from None
        raise
