"""Grad-CAM (Selvaraju et al. 2016, arXiv:1610.02391): which places of the image speak for a class."""
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.analysis.receptive_field import trace_fields
from course_utils.errors import CourseError
from course_utils.models.summary import Shape, eval_mode


def map_sizes(model: nn.Module, input_size: Shape) -> dict[str, int]:
    """Blocks whose output is a feature map (N, C, size, size), size > 1, with that size, in order of execution.

    They are direct children of ``model``; if none of these returns a map, children of children, and so on.
    ``model.get_submodule`` finds each by its name. Empty for a network without maps. An output of four dimensions whose
    rows and columns are not those of an image (attention weights, channels in the last place) is not a map.
    """
    rows, columns = (trace_fields(model, input_size, axis).outputs for axis in (-2, -1))
    sizes = {name: field.length for name, field in columns.items()
             if name and field.known and rows[name].known and field.length == rows[name].length > 1}
    depth = min((name.count(".") for name in sizes), default=0)
    return {name: size for name, size in sizes.items() if name.count(".") == depth}


def grad_cam(model: nn.Module, layer: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """Evidence for ``classes`` (B,) that ``layer`` finds in images ``x`` (B, 3, H, W): float32 (B, H, W), 0 to 1.

    The channels of the layer's output (B, C, h, w) are weighted by the mean gradient of the class's logit, summed and
    rectified. Each of the h x w values is placed at the center of its receptive field; beyond half a step from the
    outermost the map is 0. Where the receptive field is unknown, the map is stretched over the whole image. Raises
    ``CourseError`` for a layer that no gradient reaches.
    """
    if len(x) == 0:
        return x.new_zeros((0, *x.shape[2:]))
    outputs: list[Tensor] = []
    with layer.register_forward_hook(lambda *args: outputs.append(args[-1])), eval_mode(model), torch.enable_grad():
        logits = model(x.detach().requires_grad_()).flatten(1)  # a gradient reaches the layers of a frozen network too
        if not outputs[0].requires_grad:
            raise CourseError("No gradient reaches this layer: the network computes it under torch.no_grad().")
        gradient, = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), outputs[0], materialize_grads=True)
    heat = (outputs[0] * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu().detach()
    rows, columns = (_interpolation(model, layer, x.shape, heat.shape, axis).to(heat.device) for axis in (-2, -1))
    heat = rows @ heat[:, 0].float() @ columns.T
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-12)


def grad_cam_of_blocks(model: nn.Module, names: Iterable[str], x: Tensor, classes: Tensor) -> dict[str, np.ndarray]:
    """``grad_cam`` of each named block; one that no gradient reaches is left out, and why is printed."""
    found = {}
    for name in names:
        try:
            found[name] = grad_cam(model, model.get_submodule(name), x, classes).cpu().numpy()
        except (CourseError, RuntimeError) as error:
            print(f"No Grad-CAM of {name}: {str(error).splitlines()[0]}")
    return found


def _interpolation(model: nn.Module, layer: nn.Module, image: Shape, found: Shape, axis: int) -> Tensor:
    """float32 (pixels, cells): weight of each cell of a layer's map at each pixel along ``axis``, linear in between."""
    pixels, cells = image[axis], found[axis]
    step = pixels / cells
    first = (step - 1) / 2  # pixel on which the first cell is centered
    name = next(name for name, module in model.named_modules() if module is layer)
    field = trace_fields(model, (1, *image[1:]), axis).outputs.get(name)
    if field is not None and field.known and field.length == cells and field.jump > 0:
        first, step = field.start + (field.size - 1) / 2, field.jump
    place = (torch.arange(pixels) - first) / step  # of each pixel, in cells
    inside = (place >= -0.5) & (place < cells - 0.5)
    weight = 1 - (place.clamp(0, cells - 1)[:, None] - torch.arange(cells)).abs()
    return weight.clamp_min(0) * inside[:, None]
