"""A network as a diagram: one box for each block, from left to right, with the shape of what it returns."""
import contextlib
from collections import Counter
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from course_utils import plots
from course_utils.models.blocks import Residual
from course_utils.models.summary import Shape, count_parameters, eval_mode

WIDTH, GAP, LINE = 1.75, 0.35, 0.165  # inches: of a box, of the arrow to the next, of a line of text
PER_ROW = 5  # boxes
MOST_LINES = 6  # kinds of layers in one box


def network_diagram(model: nn.Module, input_size: Shape, title: str) -> Figure:
    """The direct children of ``model`` in the order in which they run on an input of ``input_size`` (N, C, H, W): boxes
    with name, layers and parameters, above the shape of the output. A line over a box marks a residual connection.
    """
    blocks = _run_children(model, input_size)
    lines = [[name, *_describe(block)] for name, block, *_ in blocks]
    height, columns = LINE * max(map(len, lines), default=1) + 0.15, max(1, min(PER_ROW, len(blocks)))
    row_height, rows = height + 0.75, max(1, -(-len(blocks) // PER_ROW))
    figure, [[axis]] = plots.new_figure(columns * (WIDTH + GAP) + 1, rows * row_height + 0.4, title=title)
    axis.text(-GAP - 0.05, height / 2, f"input\n{_shape_text(input_size)}", ha="right", va="center", fontsize=8)
    for number, (text, (_, block, before, after)) in enumerate(zip(lines, blocks)):
        left, bottom = number % PER_ROW * (WIDTH + GAP), -(number // PER_ROW) * row_height
        middle = bottom + height / 2
        axis.annotate("", (left, middle), (left - GAP, middle), arrowprops={"arrowstyle": "->"})
        axis.add_patch(FancyBboxPatch((left, bottom), WIDTH, height, boxstyle="round,pad=0,rounding_size=0.08",
                                      facecolor="white", edgecolor=plots.BLUE if count_parameters(block) else "gray"))
        axis.text(left + WIDTH / 2, middle, "\n".join(text), ha="center", va="center", fontsize=7.5)
        axis.text(left + WIDTH / 2, bottom - 0.06, _shape_text(after), ha="center", va="top", fontsize=8,
                  color=plots.ORANGE)
        inside = sum(isinstance(module, Residual) for module in block.modules())
        if inside or (text[0].endswith("_r") and before == after):  # CustomResNet adds these in its ``forward``
            ends, top = (left - GAP / 2, left + WIDTH + GAP / 2), bottom + height + 0.12
            axis.plot([ends[0], *ends, ends[1]], [middle, top, top, middle], color=plots.GREEN)
            axis.text(left + WIDTH / 2, top + 0.04, f"+ x{f', in each of {inside} blocks' if inside > 1 else ''}",
                      ha="center", fontsize=7.5, color=plots.GREEN)
    axis.set(xlim=(-1, columns * (WIDTH + GAP)), ylim=(height + 0.4 - rows * row_height, height + 0.4), aspect="equal")
    axis.axis("off")
    return figure


def _run_children(model: nn.Module, input_size: Shape) -> list[tuple[str, nn.Module, Shape, Shape]]:
    """The children of ``model`` that are called with a tensor: name, child, shapes of its input and output."""
    outer = model
    while len(children := list(outer.named_children())) == 1 and list(children[0][1].children()):
        outer = children[0][1]  # a network in a wrapper
    names = {child: name for name, child in children}
    called: list[tuple[str, nn.Module, Shape, Shape]] = []

    def note(child: nn.Module, inputs: tuple, output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            called.append((names[child], child, tuple(inputs[0].shape), tuple(output.shape)))

    with eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]), contextlib.ExitStack() as hooks:
        for child in names:
            hooks.enter_context(child.register_forward_hook(note))
        model(torch.zeros(input_size, device=next(model.parameters(), torch.empty(0)).device))
    return called


def _describe(block: nn.Module) -> list[str]:
    """What ``block`` is made of, a line for each kind of layer, and its parameters."""
    kinds = Counter(kind for module in block.modules() if (kind := _kind(module)))
    lines = [f"{count}× {kind}" if count > 1 else kind for kind, count in kinds.items()]
    lines = [*lines[:MOST_LINES], "..."] if len(lines) > MOST_LINES else lines
    parameters = count_parameters(block)
    return [*lines, f"{parameters:,} parameters"] if parameters else lines


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        size = f"conv {module.kernel_size[0]}×{module.kernel_size[1]}"
        depthwise = module.groups == module.in_channels > 1
        parts = ["depthwise" if depthwise else f"{module.groups} groups" if module.groups > 1 else "",
                 f"dilation {module.dilation[0]}" if module.dilation[0] > 1 else "",
                 f"stride {module.stride[0]}" if module.stride[0] > 1 else ""]
        return ", ".join([size, *filter(None, parts)])
    if isinstance(module, nn.Linear):
        return f"linear {module.in_features} → {module.out_features}"
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        return f"{'max' if isinstance(module, nn.MaxPool2d) else 'mean'} pool {module.kernel_size}"
    return "global mean" if isinstance(module, nn.AdaptiveAvgPool2d) else ""


def _shape_text(shape: Shape) -> str:
    return "×".join(map(str, shape[1:]))
