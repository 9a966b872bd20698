"""The sample: a drawn stand-in for each data set, for a first run without any download.

For CIFAR-10 and STL-10 ten classes of shapes, each with its texture, randomly coloured, lit, turned and placed. Colour
and brightness say nothing of the class, so a linear classifier fails; outline and texture do. For GTSRB the 43 signs of
``signs.py``, seen from a passing car. Whatever is made of the sample says "sample": its accuracies mean nothing beyond
"the code runs and learns".
"""
from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from course_utils.errors import unknown
from course_utils.data.signs import SIGNS, draw_sign

SHAPES = ("plain disc", "striped square", "dotted triangle", "plain ring", "striped cross",
          "dotted frame", "checked bar", "plain star", "checked diamond", "target")
CLASSES: Mapping[str, tuple[str, ...]] = {"cifar10": SHAPES, "gtsrb": tuple(sign[0] for sign in SIGNS),
                                          "stl10": SHAPES}
SIDE = {"cifar10": 32, "gtsrb": 32, "stl10": 96}  # pixels
TRACK = 3  # pictures of one sign while the car comes nearer (GTSRB: 30)
SIGN_PIXELS = 40  # side of a drawn sign before it is photographed


def draw(name: str, counts: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """``{split}_images`` uint8 (count, side, side, 3) and ``{split}_labels`` int64 for each split in ``counts``.

    Every split is balanced and shuffled. The same ``name``, counts and ``seed`` give the same bytes. For "gtsrb" also
    ``train_tracks`` int64: the pictures of one sign have one number.
    """
    if name not in SIDE:
        raise unknown("sample", name, SIDE)
    arrays = {}
    for stream, (split, count) in enumerate(counts.items()):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = _draw_split(name, count, [seed, stream])
    if name == "gtsrb" and "train" in counts:
        arrays["train_tracks"] = _number_tracks(arrays["train_labels"])
    return arrays


def _number_tracks(labels: np.ndarray) -> np.ndarray:
    """The k-th picture of a class belongs to its track k // TRACK; numbers are unique over all classes."""
    tracks = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        tracks[rows] = label * len(labels) + np.arange(len(rows)) // TRACK
    return tracks


def _draw_split(name: str, count: int, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
    side, classes = SIDE[name], len(CLASSES[name])
    labels = np.random.default_rng(seeds).permutation(np.arange(count, dtype=np.int64) % classes)
    images = np.empty((count, side, side, 3), np.uint8)

    def draw_class(label: int) -> None:
        rng = np.random.default_rng([*seeds, label])
        rows = np.flatnonzero(labels == label)
        if name == "gtsrb":
            images[rows] = _photograph(label, len(rows), side, rng)
            return
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


def _photograph(label: int, count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (count, side, side, 3): pictures of one class of sign, each TRACK of them showing the same one."""
    track, step = np.arange(count) // TRACK, (np.arange(count) % TRACK) / TRACK  # step: 0 far, near 1 close

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        """A number for each picture, (count, *shape): mostly the track's, a little its own."""
        own = rng.random((count, *shape)) - 0.5
        mixed = np.clip(rng.random((count, *shape))[track] + 0.15 * own, 0, 1)
        return (low + (high - low) * mixed).astype(np.float32).reshape(count, *(shape or (1, 1)))

    axis = np.linspace(-1, 1, side, dtype=np.float32)
    size = uniform(0.5, 0.7) + 0.25 * step[:, None, None].astype(np.float32)  # half the sign, shares of half the side
    x, y = (axis[None, None, :] - uniform(-0.15, 0.15)) / size, (axis[None, :, None] - uniform(-0.15, 0.15)) / size
    angle = uniform(-0.35, 0.35)  # radians
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    depth = 1 + uniform(-0.25, 0.25) * x + uniform(-0.25, 0.25) * y  # seen from the side and from below
    x, y = x / depth, y / depth

    patches = uniform(0.1, 0.9, 5, 5, 1) * uniform(0.7, 1.0, 1, 1, 3)
    wide = np.maximum(0, 1 - np.abs(np.linspace(0, 4, side)[:, None] - np.arange(5))).astype(np.float32)  # bilinear
    picture = np.einsum("hi,nijc,wj->nhwc", wide, patches, wide, optimize=True)
    pole = ((np.abs(x) < 0.08) & (y > 0))[..., None]
    picture = np.where(pole, uniform(0.3, 0.7, 1, 1, 1), picture)
    sign = _looked_up(draw_sign(label, SIGN_PIXELS), x, y)
    picture = sign[..., :3] + picture * (1 - sign[..., 3:])

    light = uniform(-1.3, 0.2, 1, 1, 1)  # powers of two
    picture = picture * np.exp2(light) * uniform(0.9, 1.1, 1, 1, 3) + uniform(0, 0.15, 1, 1, 1)  # tinted, in haze
    blur = uniform(0, 0.5, 1, 1, 1)
    for axis_ in (1, 2):
        picture = (1 - blur) * picture + blur / 2 * (np.roll(picture, 1, axis_) + np.roll(picture, -1, axis_))
    picture += rng.standard_normal(picture.shape, np.float32) * uniform(0.005, 0.03, 1, 1, 1)
    return np.clip(255 * picture, 0, 255).astype(np.uint8)


def _looked_up(sign: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``sign`` (S, S, 4) at places ``x``, ``y`` (N, H, W) from -1 to 1, bilinear; colours times coverage."""
    sign = sign * np.concatenate([np.repeat(sign[..., 3:], 3, axis=2), np.ones_like(sign[..., 3:])], axis=2)
    sign = np.pad(sign, ((1, 1), (1, 1), (0, 0)))  # nothing beyond the border
    places = [np.clip((p + 1) / 2 * (len(sign) - 3) + 1, 0, len(sign) - 1.001) for p in (y, x)]
    (row, column), (down, right) = ((p.astype(np.int64) for p in places), (p % 1 for p in places))
    down, right = down[..., None], right[..., None]
    above = sign[row, column] * (1 - right) + sign[row, column + 1] * right
    below = sign[row + 1, column] * (1 - right) + sign[row + 1, column + 1] * right
    return above * (1 - down) + below * down
