"""Optimizers and learning rate schedules of an experiment."""
from types import MethodType

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR

from course_utils.config import Experiment


def make_optimizer(exp: Experiment, model: nn.Module, lr: float) -> Optimizer:
    """The experiment's optimizer for the parameters of ``model``, with learning rate ``lr``."""
    parameters = list(model.parameters())
    fused = parameters[0].device.type in ("cpu", "cuda") and all(p.is_floating_point() for p in parameters)
    if exp.decay == "weights":  # biases and the scales of normalization layers have one dimension or none
        groups = [{"params": [p for p in parameters if p.ndim > 1]},
                  {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
        parameters = [group for group in groups if group["params"]]
    if exp.optimizer == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=exp.weight_decay, fused=fused)
    return torch.optim.SGD(parameters, lr, momentum=exp.momentum, weight_decay=exp.weight_decay,
                           nesterov=exp.nesterov, fused=fused)


def make_schedule(exp: Experiment, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """The experiment's schedule, stepped after every optimizer step. One-Cycle: Smith & Topin, arXiv:1708.07120."""
    steps = exp.epochs * steps_per_epoch
    if exp.schedule == "one_cycle":
        rise = exp.peak_epoch / exp.epochs
        rise += 1e-9 * (rise * steps == 1)  # torch divides by ``rise * steps - 1``
        return OneCycleLR(optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=steps, pct_start=rise,
                          anneal_strategy=exp.anneal, div_factor=exp.div_factor,
                          final_div_factor=exp.final_div_factor)
    if exp.schedule == "step":
        return StepLR(optimizer, max(1, round(exp.step_epochs * steps_per_epoch)), exp.step_gamma)
    if exp.schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    return ConstantLR(optimizer, factor=1.0, total_iters=1)


def learning_rates(exp: Experiment, lr: float, steps_per_epoch: int) -> list[float]:
    """The learning rate of every optimizer step of the run, from the schedule that training uses."""
    optimizer = make_optimizer(exp, nn.Linear(1, 1), lr)
    optimizer.step = MethodType(lambda _: None, optimizer)  # real steps would take most of the time
    schedule = make_schedule(exp, optimizer, steps_per_epoch)
    rates = []
    for _ in range(exp.epochs * steps_per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates
