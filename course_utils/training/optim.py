"""Optimisers and schedules, from an experiment's names to torch's objects."""
from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR

from course_utils.config import Experiment


def make_optimizer(exp: Experiment, parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """The experiment's optimiser at learning rate ``lr``."""
    parameters = list(parameters)
    fused = parameters[0].device.type in ("cpu", "cuda")
    if exp.optimizer == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=exp.weight_decay, fused=fused)
    return torch.optim.SGD(parameters, lr, momentum=exp.momentum, weight_decay=exp.weight_decay, fused=fused)


def make_schedule(exp: Experiment, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """The experiment's schedule, advanced once an optimiser step; its length comes from the loader.

    One-Cycle (Smith & Topin 2017, arXiv:1708.07120) rises for ``peak_epoch`` epochs and falls to the rate it began
    with over ``final_div_factor``; at 1 "annihilation", the last part far below the first rate, is left out. Like
    torch's, it moves momentum (Adam's first beta) the opposite way, from 0.95 to 0.85 and back.
    """
    steps = exp.epochs * steps_per_epoch
    if exp.schedule == "one_cycle":
        return OneCycleLR(optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=steps,
                          pct_start=exp.peak_epoch / exp.epochs, anneal_strategy=exp.anneal,
                          div_factor=exp.div_factor, final_div_factor=exp.final_div_factor)
    if exp.schedule == "step":
        return StepLR(optimizer, max(1, round(exp.step_epochs * steps_per_epoch)), exp.step_gamma)
    if exp.schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    return ConstantLR(optimizer, factor=1.0, total_iters=1)


def learning_rates(exp: Experiment, lr: float, steps_per_epoch: int) -> list[float]:
    """The rate of every optimiser step of the run, from the very schedule that training uses."""
    optimizer = make_optimizer(exp, [nn.Parameter(torch.zeros(1))], lr)
    schedule = make_schedule(exp, optimizer, steps_per_epoch)
    rates = []
    for _ in range(exp.epochs * steps_per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates
