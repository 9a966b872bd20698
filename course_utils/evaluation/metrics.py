"""Judging a trained network on plain images in eval mode."""
from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.summary import eval_mode
from course_utils.errors import CourseError
from course_utils.data.loader import Batches
from course_utils.analysis.receptive_field import layer_fields


@dataclass(frozen=True)
class Prediction:
    """What a network says of N images."""

    logits: np.ndarray  # float32 (N, classes)
    labels: np.ndarray  # int64 (N,), the truth

    @property
    def predicted(self) -> np.ndarray:
        """int64 (N,), the class with the largest logit."""
        return self.logits.argmax(1)

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, 0 to 1."""
        return float((self.predicted == self.labels).mean())

    @property
    def losses(self) -> np.ndarray:
        """float32 (N,): cross-entropy of each image, nats."""
        return F.cross_entropy(torch.from_numpy(self.logits), torch.from_numpy(self.labels), reduction="none").numpy()

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats."""
        return float(self.losses.mean(dtype=np.float64))


@torch.no_grad()
def predict(model: nn.Module, batches: Batches, precision: str = "fp32", epoch: int = 0) -> Prediction:
    """Run ``model`` in eval mode over unshuffled ``batches``; ``precision`` "fp32" or "bf16". Its mode is restored.

    ``epoch`` matters only where the batches are augmented: it decides what is drawn.
    """
    outputs, labels = [], []
    with eval_mode(model):
        for x, y in batches.epoch(epoch):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs.append(model(x).flatten(1))
            labels.append(y)
    return Prediction(torch.cat(outputs).float().cpu().numpy(), torch.cat(labels).cpu().numpy())


def averaged(predictions: Sequence[Prediction]) -> Prediction:
    """What several views of the same images say together: the logarithm of their mean probabilities."""
    mean = np.mean([torch.softmax(torch.from_numpy(p.logits), 1).numpy() for p in predictions], axis=0)
    return Prediction(np.log(np.maximum(mean, 1e-12)), predictions[0].labels)


@torch.no_grad()
def learnt_maps(model: nn.Module, batches: Batches) -> np.ndarray:
    """float32 (N, 2, 3): the map by which ``model.theta`` resamples each image; the identity where it has none."""
    identity = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    with eval_mode(model):
        maps = [model.theta(x).float().cpu() if hasattr(model, "theta") else identity.expand(len(x), 2, 3)
                for x, _ in batches.epoch()]
    return torch.cat(maps).numpy()


@torch.no_grad()
def resampled(model: nn.Module, x: Tensor) -> Tensor:
    """What the classifier behind a spatial transformer sees of images ``x`` (B, 3, H, W); ``x`` itself without one."""
    if not hasattr(model, "transform"):
        return x
    with eval_mode(model):
        return model.transform(x.to(next(model.parameters()).device)).to(x.device)


def affine_parts(theta: np.ndarray, side: int) -> dict[str, np.ndarray]:
    """What affine maps (N, 2, 3) do to images of ``side`` pixels, each float (N,).

    ``theta`` leads from a place in the output to the place in the input that it shows, both from -1 to 1. "rotation"
    (degrees, clockwise), "zoom" (over 1 enlarges), "shift right" and "shift down" (pixels, of the centre) describe how
    the picture moves.
    """
    matrix = theta[:, :, :2]
    back = np.linalg.inv(matrix)  # from the input to the output
    moved = -np.einsum("nij,nj->ni", back, theta[:, :, 2]) * (side - 1) / 2
    turn = np.arctan2(back[:, 1, 0] - back[:, 0, 1], back[:, 0, 0] + back[:, 1, 1])
    return {"rotation": np.degrees(turn), "zoom": np.sqrt(np.abs(np.linalg.det(back))),
            "shift right": moved[:, 0], "shift down": moved[:, 1]}


def confusion_matrix(prediction: Prediction) -> np.ndarray:
    """int64 (classes, classes): how many images of the row's class were called the column's."""
    classes = prediction.logits.shape[1]
    cells = prediction.labels * classes + prediction.predicted
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def per_class_accuracy(prediction: Prediction) -> np.ndarray:
    """float64 (classes,), 0 to 1; NaN for a class without images."""
    matrix = confusion_matrix(prediction)
    with np.errstate(invalid="ignore"):
        return matrix.diagonal() / matrix.sum(1)


def worst_mistakes(prediction: Prediction, count: int = 25) -> np.ndarray:
    """Indices of the ``count`` wrongly named images with the largest loss, the worst first; all, if fewer are wrong."""
    wrong = np.flatnonzero(prediction.predicted != prediction.labels)
    return wrong[np.argsort(-prediction.losses[wrong], kind="stable")[:count]]


def grad_cam(model: nn.Module, layer: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """Where ``layer`` finds evidence for ``classes`` (B,) in images ``x`` (B, 3, H, W): float32 (B, H, W), 0 to 1.

    Channels of the layer's output (B, C, h, w) are weighted by the mean gradient of the class's logit, summed and
    rectified (Selvaraju et al. 2016, arXiv:1610.02391). A map without any evidence is all 0.

    Each of the h x w numbers is laid where its receptive field has its centre: behind unpadded layers these keep to the
    middle of the image, and beyond half a step from the outermost there is 0. Where the field cannot be told, the map
    is stretched over the whole image.
    """
    if len(x) == 0:
        return x.new_zeros((0, *x.shape[2:]))
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, output: kept.append(output))
    try:
        with eval_mode(model), torch.enable_grad():
            logits = model(x).flatten(1)
            gradient, = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), kept[0], materialize_grads=True)
    finally:
        hook.remove()
    heat = (kept[0] * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu().detach()
    down, across = (_spread(model, layer, x.shape, heat.shape, axis).to(heat.device) for axis in (-2, -1))
    heat = down @ heat[:, 0].float() @ across.T
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-12)


def _spread(model: nn.Module, layer: nn.Module, image: Sequence[int], found: Sequence[int], axis: int) -> Tensor:
    """float32 (pixels, cells): the share of each cell of a layer's map in each pixel along ``axis``, linear between
    the cells' centres.
    """
    pixels, cells = image[axis], found[axis]
    step = pixels / cells
    first = (step - 1) / 2  # pixel on which the first cell is centred
    with contextlib.suppress(CourseError):
        name = next(name for name, module in model.named_modules() if module is layer)
        field = layer_fields(model, (1, *image[1:]), axis).get(name)
        if field is not None and field.extent == cells and field.jump > 0:
            first, step = field.left + (field.size - 1) / 2, field.jump
    place = (torch.arange(pixels) - first) / step  # of each pixel, in cells
    inside = (place >= -0.5) & (place < cells - 0.5)
    share = 1 - (place.clamp(0, cells - 1)[:, None] - torch.arange(cells)).abs()
    return share.clamp_min(0) * inside[:, None]
