"""The sample: a drawn stand-in for each data set, for a first run without any download.

Ten classes of drawn shapes, each with its texture, randomly coloured, lit, turned and placed. Colour and brightness say
nothing of the class, so a linear classifier fails; outline and texture do. It has class names of its own, and whatever
is made of it says "sample": its accuracies mean nothing beyond "the code runs and learns".
"""
from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from course_utils.experiment import unknown

SHAPES = ("plain disc", "striped square", "dotted triangle", "plain ring", "striped cross",
          "dotted frame", "checked bar", "plain star", "checked diamond", "target")
CLASSES: Mapping[str, tuple[str, ...]] = {"cifar10": SHAPES, "stl10": SHAPES}
SIDE = {"cifar10": 32, "stl10": 96}  # pixels


def draw(name: str, counts: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """``{split}_images`` uint8 (count, side, side, 3) and ``{split}_labels`` int64 for each split in ``counts``.

    Every split is balanced and shuffled. The same ``name``, counts and ``seed`` give the same bytes.
    """
    if name not in SIDE:
        raise unknown("sample", name, SIDE)
    arrays = {}
    for stream, (split, count) in enumerate(counts.items()):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = _draw_split(name, count, [seed, stream])
    return arrays


def _draw_split(name: str, count: int, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    side, classes = SIDE[name], len(CLASSES[name])
    labels = np.random.default_rng(seeds).permutation(np.arange(count, dtype=np.int64) % classes)
    images = np.empty((count, side, side, 3), np.uint8)

    def draw_class(label: int) -> None:
        rng = np.random.default_rng([*seeds, label])
        rows = np.flatnonzero(labels == label)
        for part in np.array_split(rows, len(rows) // 64 + 1):  # small parts stay in the cache
            images[part] = _draw_images(label, len(part), side, rng)

    with ThreadPoolExecutor() as pool:  # NumPy computes outside the interpreter's lock
        list(pool.map(draw_class, range(classes)))
    return images, labels


def _draw_images(label: int, count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (count, side, side, 3): pictures of one class."""

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.random((count, *(shape or (1, 1))), np.float32) * np.float32(high - low) + np.float32(low)

    axis = np.linspace(-1, 1, side, dtype=np.float32)
    angle, radius = uniform(-0.3, 0.3), uniform(0.6, 0.85)
    x0, y0 = axis[None, None, :] - uniform(-0.2, 0.2), axis[None, :, None] - uniform(-0.2, 0.2)
    x = (np.cos(angle) * x0 + np.sin(angle) * y0) / radius  # (count, side, side), the shape's own coordinates
    y = (np.cos(angle) * y0 - np.sin(angle) * x0) / radius
    inside, spots = _shape(SHAPES[label], x, y)

    dark, bright = uniform(0.0, 0.4, 1, 1, 3), uniform(0.6, 1.0, 1, 1, 3)
    inverted = uniform(0, 1, 1, 1, 1) < 0.5  # dark on bright or bright on dark: brightness tells nothing
    paper, ink = np.where(inverted, bright, dark), np.where(inverted, dark, bright)
    dots = 0.2 + 0.6 * paper
    picture = paper + inside[..., None].astype(np.float32) * (ink - paper)  # np.where takes three times as long
    picture += (inside & spots)[..., None].astype(np.float32) * (dots - ink)
    light = 255 + 255 * (uniform(-0.3, 0.3) * axis[None, None, :] + uniform(-0.3, 0.3) * axis[None, :, None])
    grain = rng.standard_normal((count, side, side), np.float32) * uniform(2, 10)
    picture *= light[..., None]
    picture += grain[..., None]
    return np.clip(picture, 0, 255, out=picture).astype(np.uint8)


def _shape(name: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the shape covers the plane, and where its texture does, in its own coordinates; both boolean."""
    r2, box = x**2 + y**2, np.maximum(np.abs(x), np.abs(y))
    texture, _, outline = name.rpartition(" ")
    spots = {
        "plain": lambda: np.zeros(x.shape, bool),
        "striped": lambda: np.sin(10 * x) > 0,
        "dotted": lambda: np.sin(9 * x) * np.sin(9 * y) > 0.3,
        "checked": lambda: np.sin(7 * x) * np.sin(7 * y) > 0,
        "": lambda: (r2 > 0.12) & (r2 < 0.45),
    }[texture]
    inside = {
        "disc": lambda: r2 < 1,
        "square": lambda: box < 0.9,
        "triangle": lambda: (y < 0.8) & (y > 2.0 * np.abs(x) - 1.1),
        "ring": lambda: (r2 < 1.1) & (r2 > 0.4),
        "cross": lambda: (np.minimum(np.abs(x), np.abs(y)) < 0.33) & (box < 1.05),
        "frame": lambda: (box < 1.0) & (box > 0.55),
        "bar": lambda: (np.abs(x) < 1.15) & (np.abs(y) < 0.42),
        "star": lambda: r2 < (0.72 + 0.36 * np.cos(5 * np.arctan2(x, -y))) ** 2,
        "diamond": lambda: np.abs(x) + np.abs(y) < 1.15,
        "target": lambda: r2 < 1,
    }[outline]
    return inside(), spots()
