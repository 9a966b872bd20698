"""Synthetic data: a generated stand-in for each data set, for a first run without any download.

For CIFAR-10 and STL-10 ten classes of textured shapes, whose color and brightness carry no information about the class:
a linear classifier fails. For GTSRB the 43 signs of ``signs.png``, simplified drawings, seen from a passing car.
Accuracies on synthetic data only show that the code runs and learns.
"""
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from course_utils.data.info import DATASETS
from course_utils.errors import check_names

SHAPES = ("plain disc", "striped square", "dotted triangle", "plain ring", "striped cross",
          "dotted frame", "checked bar", "plain star", "checked diamond", "target")
CLASSES: Mapping[str, tuple[str, ...]] = {"cifar10": SHAPES, "gtsrb": DATASETS["gtsrb"].classes, "stl10": SHAPES}
TRACK_LENGTH = 3  # images of one sign while the car approaches (GTSRB: 30)
SIGN_PIXELS = 40  # side of a tile of signs.png
SIGN_COLUMNS = 11  # tiles per row of signs.png, in the order of the classes


def generate(name: str, counts: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """``{split}_images`` uint8 (count, H, W, 3) and ``{split}_labels`` int64 for each split in ``counts``.

    Every split is balanced and shuffled; equal arguments give equal bytes. For "gtsrb" also ``train_tracks`` int64: the
    k-th image of a class belongs to its track k // TRACK_LENGTH; numbers are unique over all classes.
    """
    check_names("synthetic data set", [name], CLASSES)
    arrays, tracks, size, classes = {}, {}, DATASETS[name].image_size, len(CLASSES[name])
    for stream, (split, count) in enumerate(counts.items()):
        labels = np.random.default_rng([seed, stream]).permutation(np.arange(count, dtype=np.int64) % classes)
        images, tracks[split] = np.empty((count, size, size, 3), np.uint8), np.empty_like(labels)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        for label in range(classes):
            rng, rows = np.random.default_rng([seed, stream, label]), np.flatnonzero(labels == label)
            tracks[split][rows] = label * count + np.arange(len(rows)) // TRACK_LENGTH
            if name == "gtsrb":
                images[rows] = _photograph(label, len(rows), size, rng)
            else:
                for part in np.array_split(rows, len(rows) // 64 + 1):  # small parts stay in the cache
                    images[part] = _draw_shapes(label, len(part), size, rng)
    return arrays | ({"train_tracks": tracks["train"]} if name == "gtsrb" and "train" in counts else {})


def _draw_shapes(label: int, count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (count, size, size, 3): images of one class."""
    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.random((count, *(shape or (1, 1))), np.float32) * np.float32(high - low) + np.float32(low)

    axis = np.linspace(-1, 1, size, dtype=np.float32)
    angle, radius = uniform(-0.3, 0.3), uniform(0.6, 0.85)
    x0, y0 = axis[None, None, :] - uniform(-0.2, 0.2), axis[None, :, None] - uniform(-0.2, 0.2)
    x = (np.cos(angle) * x0 + np.sin(angle) * y0) / radius  # (count, size, size), the shape's own coordinates
    y = (np.cos(angle) * y0 - np.sin(angle) * x0) / radius
    inside, spots = _shape(SHAPES[label], x, y)

    dark, bright = uniform(0.0, 0.4, 1, 1, 3), uniform(0.6, 1.0, 1, 1, 3)
    inverted = uniform(0, 1, 1, 1, 1) < 0.5  # dark on bright or bright on dark: brightness carries no information
    paper, ink = np.where(inverted, bright, dark), np.where(inverted, dark, bright)
    image = paper + inside[..., None].astype(np.float32) * (ink - paper)  # np.where takes three times as long
    image += (inside & spots)[..., None].astype(np.float32) * (0.2 + 0.6 * paper - ink)
    light = uniform(-0.3, 0.3) * axis[None, None, :] + uniform(-0.3, 0.3) * axis[None, :, None]
    image *= (255 + 255 * light)[..., None]
    image += (rng.standard_normal((count, size, size), np.float32) * uniform(2, 10))[..., None]
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def _shape(name: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the shape covers the plane, and where its texture does, in its own coordinates; both boolean."""
    r2, box = x**2 + y**2, np.maximum(np.abs(x), np.abs(y))
    draw = {
        "plain disc": lambda: (r2 < 1, np.zeros(x.shape, bool)),
        "striped square": lambda: (box < 0.9, np.sin(10 * x) > 0),
        "dotted triangle": lambda: ((y < 0.8) & (y > 2.0 * np.abs(x) - 1.1), np.sin(9 * x) * np.sin(9 * y) > 0.3),
        "plain ring": lambda: ((r2 < 1.1) & (r2 > 0.4), np.zeros(x.shape, bool)),
        "striped cross": lambda: ((np.minimum(np.abs(x), np.abs(y)) < 0.33) & (box < 1.05), np.sin(10 * x) > 0),
        "dotted frame": lambda: ((box < 1.0) & (box > 0.55), np.sin(9 * x) * np.sin(9 * y) > 0.3),
        "checked bar": lambda: ((np.abs(x) < 1.15) & (np.abs(y) < 0.42), np.sin(7 * x) * np.sin(7 * y) > 0),
        "plain star": lambda: (r2 < (0.72 + 0.36 * np.cos(5 * np.arctan2(x, -y))) ** 2, np.zeros(x.shape, bool)),
        "checked diamond": lambda: (np.abs(x) + np.abs(y) < 1.15, np.sin(7 * x) * np.sin(7 * y) > 0),
        "target": lambda: (r2 < 1, (r2 > 0.12) & (r2 < 0.45)),
    }
    return draw[name]()


def sign(label: int) -> np.ndarray:
    """float32 (40, 40, 4): the drawn sign of class ``label``, RGB 0 to 1 and the coverage of the background."""
    top, left = (SIGN_PIXELS * place for place in divmod(label, SIGN_COLUMNS))
    signs = np.asarray(Image.open(Path(__file__).with_name("signs.png")), np.float32)
    return signs[top:top + SIGN_PIXELS, left:left + SIGN_PIXELS] / 255


def _photograph(label: int, count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (count, size, size, 3): images of one class of sign, TRACK_LENGTH of them in a row of the same sign."""
    track, step = np.divmod(np.arange(count), TRACK_LENGTH)  # step: from far to close

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        """A number for each image, (count, *shape): mostly the track's, with a small part of its own."""
        own = rng.random((count, *shape)) - 0.5
        mixed = np.clip(rng.random((count, *shape))[track] + 0.15 * own, 0, 1)
        return (low + (high - low) * mixed).astype(np.float32).reshape(count, *(shape or (1, 1)))

    axis = np.linspace(-1, 1, size, dtype=np.float32)
    half = uniform(0.5, 0.65) + 0.15 * (step / TRACK_LENGTH)[:, None, None].astype(np.float32)  # of the image
    # Off center by up to an eighth of the image: what a spatial transformer learns first to undo.
    x, y = (axis[None, None, :] - uniform(-0.25, 0.25)) / half, (axis[None, :, None] - uniform(-0.25, 0.25)) / half
    angle = uniform(-0.2, 0.2)  # radians
    x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    depth = 1 + uniform(-0.15, 0.15) * x + uniform(-0.15, 0.15) * y  # seen from the side and from below
    x, y = x / depth, y / depth

    patches = uniform(0.1, 0.9, 5, 5, 1) * uniform(0.7, 1.0, 1, 1, 3)
    weights = np.maximum(0, 1 - np.abs(np.linspace(0, 4, size)[:, None] - np.arange(5))).astype(np.float32)  # bilinear
    image = np.einsum("hi,nijc,wj->nhwc", weights, patches, weights, optimize=True)
    pole = ((np.abs(x) < 0.08) & (y > 0))[..., None]
    image = np.where(pole, uniform(0.3, 0.7, 1, 1, 1), image)
    plate = _sample(sign(label), x, y)
    image = plate[..., :3] + image * (1 - plate[..., 3:])

    light = uniform(-1.3, 0.2, 1, 1, 1)  # powers of two
    image = image * np.exp2(light) * uniform(0.9, 1.1, 1, 1, 3) + uniform(0, 0.15, 1, 1, 1)  # tint and haze
    blur = uniform(0, 0.5, 1, 1, 1)
    for axis_ in (1, 2):
        image = (1 - blur) * image + blur / 2 * (np.roll(image, 1, axis_) + np.roll(image, -1, axis_))
    image += rng.standard_normal(image.shape, np.float32) * uniform(0.005, 0.03, 1, 1, 1)
    return np.clip(255 * image, 0, 255).astype(np.uint8)


def _sample(plate: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``plate`` (S, S, 4) at places ``x``, ``y`` (N, H, W) from -1 to 1, bilinear; colors multiplied by coverage."""
    plate = np.dstack([plate[..., :3] * plate[..., 3:], plate[..., 3:]])
    plate = np.pad(plate, ((1, 1), (1, 1), (0, 0)))  # nothing beyond the border
    places = [np.clip((p + 1) / 2 * (len(plate) - 3) + 1, 0, len(plate) - 1.001) for p in (y, x)]
    (row, column), (down, right) = (p.astype(np.int64) for p in places), (p[..., None] % 1 for p in places)
    above = plate[row, column] * (1 - right) + plate[row, column + 1] * right
    below = plate[row + 1, column] * (1 - right) + plate[row + 1, column + 1] * right
    return above * (1 - down) + below * down
