"""The sample: a drawn stand-in for each data set, for a first run without any download.

Ten classes of drawn, textured shapes, randomly coloured, lit, turned and placed. Colour and brightness say nothing of
the class, so a linear classifier fails; outline and texture do. It has class names of its own, and whatever is made of
it says "sample": its accuracies mean nothing beyond "the code runs and learns".
"""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from course_utils.experiment import unknown

SHAPES = ("disc", "square", "triangle", "ring", "cross")
TEXTURES = ("striped", "dotted")
CLASSES: Mapping[str, tuple[str, ...]] = {
    name: tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES) for name in ("cifar10", "stl10")
}
SIDE = {"cifar10": 32, "stl10": 96}  # pixels


def draw(name: str, counts: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """``{split}_images`` uint8 (count, side, side, 3) and ``{split}_labels`` int64 for each split in ``counts``.

    Classes take turns, so every split is balanced. The same ``name``, count and ``seed`` give the same bytes.
    """
    if name not in SIDE:
        raise unknown("sample", name, SIDE)
    arrays = {}
    for stream, (split, count) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, stream])
        labels = rng.permutation(np.arange(count, dtype=np.int64) % len(CLASSES[name]))
        blocks = [_draw_images(labels[i:i + 256], SIDE[name], rng) for i in range(0, count, 256)]
        arrays |= {f"{split}_images": np.concatenate(blocks), f"{split}_labels": labels}
    return arrays


def _draw_images(labels: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (n, *(shape or (1, 1)))).astype(np.float32)

    axis = np.linspace(-1, 1, side, dtype=np.float32)
    angle, radius = uniform(-0.4, 0.4), uniform(0.5, 0.75)
    x0, y0 = axis[None, None, :] - uniform(-0.3, 0.3), axis[None, :, None] - uniform(-0.3, 0.3)
    x = (np.cos(angle) * x0 + np.sin(angle) * y0) / radius  # (n, side, side), the shape's own coordinates
    y = (np.cos(angle) * y0 - np.sin(angle) * x0) / radius

    inside = np.choose((labels // 2)[:, None, None], _outlines(x, y))
    wave_x, wave_y = np.sin(9 * x + uniform(0, 6.3)), np.sin(9 * y + uniform(0, 6.3))
    texture = np.where((labels % 2)[:, None, None] == 0, wave_x > 0, wave_x * wave_y > 0.25)

    paper, ink, spots = (uniform(0.1, 0.9, 1, 1, 3) for _ in range(3))
    spots = np.where(np.abs(spots - ink).sum(-1, keepdims=True) < 0.6, (ink + 0.5) % 1, spots)  # always to be seen
    picture = np.where(inside[..., None], np.where(texture[..., None], spots, ink), paper)
    light = 1 + uniform(-0.35, 0.35) * axis[None, None, :] + uniform(-0.35, 0.35) * axis[None, :, None]
    noise = rng.standard_normal((n, side, side, 3), dtype=np.float32) * uniform(0.02, 0.08, 1, 1, 1)
    return (np.clip(picture * light[..., None] + noise, 0, 1) * 255).astype(np.uint8)


def _outlines(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Where each of SHAPES covers the plane, in its own coordinates."""
    r2 = x**2 + y**2
    return [
        r2 < 1,
        np.maximum(np.abs(x), np.abs(y)) < 0.9,
        (y < 0.7) & (y > 1.9 * np.abs(x) - 1.1),
        (r2 < 1.1) & (r2 > 0.3),
        (np.minimum(np.abs(x), np.abs(y)) < 0.33) & (np.maximum(np.abs(x), np.abs(y)) < 1.05),
    ]
