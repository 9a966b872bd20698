"""Spatial transformers (Jaderberg et al. 2015, arXiv:1506.02025), and what a trained one does to images.

Three steps, each with a gradient: a localization network predicts six numbers theta per image, an affine map;
``affine_grid`` computes for each pixel of the output the place in the input that the map sends it to; ``grid_sample``
interpolates the input there, bilinearly.
"""
import inspect
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.summary import eval_mode


class SpatialTransformer(nn.Module):
    """A spatial transformer in front of ``classifier``: 8,544 parameters more. Images of 32 x 32 pixels.

    The classifier sees the resampled image. Nothing but its loss trains the localization network.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.localization = nn.Sequential(
            nn.Conv2d(3, 8, 7), nn.MaxPool2d(2), nn.ReLU(),  # 8 x 13 x 13
            nn.Conv2d(8, 10, 5), nn.MaxPool2d(2), nn.ReLU())  # 10 x 4 x 4
        self.affine = nn.Sequential(nn.Linear(10 * 4 * 4, 32), nn.ReLU(), identity_affine_layer(32))
        self.classifier = classifier

    def theta(self, x: Tensor) -> Tensor:
        """(N, 2, 3): from a place in the output to the place in the input to look at, both from -1 to 1."""
        return self.affine(self.localization(x).flatten(1)).view(-1, 2, 3)

    def transform(self, x: Tensor) -> Tensor:
        """The resampled images, (N, 3, H, W); 0, the data set's mean color, outside of the input."""
        return resample(x, self.theta(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.transform(x))


def identity_affine_layer(inputs: int) -> nn.Linear:
    """The last layer of a localization network: with zero weights and this bias it starts as the identity map."""
    layer = nn.Linear(inputs, 6)
    nn.init.zeros_(layer.weight)
    layer.bias = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
    return layer


def resample(x: Tensor, theta: Tensor) -> Tensor:
    """``x`` (N, C, H, W) resampled by ``theta`` (N, 2, 3); 0 outside of the input.

    In float32 even under autocast: bfloat16 has steps of up to a sixteenth of a pixel in an image of 32.
    """
    with torch.autocast("cuda" if x.is_cuda else "cpu", enabled=False):
        grid = F.affine_grid(theta.float(), list(x.shape), align_corners=True)  # (N, H, W, 2): the places to look at
        return F.grid_sample(x.float(), grid, align_corners=True)


def has_transformer(model: nn.Module) -> bool:
    """Whether ``model`` has the methods ``theta`` and ``transform`` of a spatial transformer; tried on zeros."""
    if not all(inspect.ismethod(getattr(model, name, None)) for name in ("theta", "transform")):
        return False
    images = torch.zeros(1, 3, 32, 32, device=next(model.parameters()).device)
    try:
        with eval_mode(model), torch.no_grad():
            return model.theta(images).shape == (1, 2, 3) and model.transform(images).shape == images.shape
    except Exception:  # a student's methods may do anything
        return False


@torch.no_grad()
def predict_theta(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> np.ndarray:
    """float32 (N, 2, 3): ``model.theta`` of all images; the identity for a network without a transformer."""
    identity, transforms = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), has_transformer(model)
    with eval_mode(model):
        thetas = [model.theta(x).float().cpu() if transforms else identity.expand(len(x), 2, 3)
                  for x, _ in batches]
    return torch.cat(thetas).numpy()


@torch.no_grad()
def apply_spatial_transformer(model: nn.Module, x: Tensor) -> Tensor:
    """What the classifier sees of images ``x`` (B, 3, H, W); ``x`` itself for a network without a transformer."""
    if not has_transformer(model):
        return x
    with eval_mode(model):
        return model.transform(x.to(next(model.parameters()).device)).to(x.device)


def sampled_corners(theta: np.ndarray) -> np.ndarray:
    """(N, 4, 2): x and y of the corners of the frame that maps ``theta`` (N, 2, 3) read; 0 to 1 over the input."""
    corners = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])  # of the output, in homogeneous coordinates
    return (corners @ theta.transpose(0, 2, 1) + 1) / 2


def decompose_affine(theta: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """What affine maps (N, 2, 3) do to images of ``size`` x ``size`` pixels, each float (N,).

    How the image content moves: "rotation" (degrees, clockwise), "zoom" (over 1 enlarges), "shift right" and "shift
    down" (pixels, of the center).
    """
    inverse = np.linalg.inv(theta[:, :, :2])  # from the input to the output
    shift = -np.einsum("nij,nj->ni", inverse, theta[:, :, 2]) * (size - 1) / 2
    angle = np.arctan2(inverse[:, 1, 0] - inverse[:, 0, 1], inverse[:, 0, 0] + inverse[:, 1, 1])
    return {"rotation": np.degrees(angle), "zoom": np.sqrt(np.abs(np.linalg.det(inverse))),
            "shift right": shift[:, 0], "shift down": shift[:, 1]}
