"""The transforms against Albumentations and OpenCV, the distributions they draw from, and what must not change them."""
import math
import random
import statistics

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from course_utils.augment import color, geometry, pipeline
from course_utils.augment.per_image import per_image_pipeline
from course_utils.config import Transform
from course_utils.data.synthetic import generate
from course_utils.errors import CourseError
from course_utils.variants import load_experiment

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
IMAGES = generate("cifar10", {"train": 64}, 0)["train_images"]
LARGE = IMAGES[:16].repeat(3, 1).repeat(3, 2)  # 96 x 96
ALL = (Transform("horizontal_flip", 0.5), Transform("shift_scale_rotate", 0.5), Transform("coarse_dropout", 0.5),
       Transform("to_gray", 0.5))
EXPANSION = tuple(load_experiment("gtsrb_stn").expansion)


def augmented(augmentation, images=IMAGES, engine="torch", epoch=0, seed=0):
    """float (N, H, W, 3), 0 to 255."""
    if engine != "torch":
        augment = per_image_pipeline(engine, augmentation, MEAN, STD)
        return 255 * (np.stack([augment(image, key) for key, image in enumerate(images)]) * STD + MEAN)
    keys = pipeline.image_keys(seed, epoch, torch.arange(len(images)))
    x = pipeline.BatchAugment(augmentation, MEAN, STD)(torch.from_numpy(images), keys)
    return 255 * pipeline.denormalize(x, MEAN, STD)


def pixels(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def resampled(step, numbers, images=IMAGES):
    """``images`` changed by a geometric ``step`` whose random numbers are ``numbers``, 0 to 1, for every image."""
    matrix = step.matrix(torch.tensor(numbers).expand(len(images), len(numbers)), images.shape[1])
    size = getattr(step, "size", images.shape[1])
    return pipeline._resample(pixels(images), matrix, step.border, size).permute(0, 2, 3, 1).numpy()


def test_images_without_augmentation_are_only_normalized():
    np.testing.assert_allclose(augmented(()), IMAGES, atol=1e-3)
    expected = (torch.from_numpy(IMAGES).double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    got = pipeline.normalize(torch.from_numpy(IMAGES), MEAN, STD).permute(0, 2, 3, 1)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ["albumentations", "torchvision"])
@pytest.mark.parametrize("step", [Transform("horizontal_flip"), Transform("vertical_flip"), Transform("flip_both"),
                                  Transform("to_gray"), Transform("enlarge_crop", 1.0, {"scale": 38 / 32})])
def test_transforms_without_random_numbers_are_equal_in_all_engines(engine, step):
    tolerance = 1.0 if (engine, step.name) == ("torchvision", "to_gray") else 0.51  # torchvision truncates grays
    np.testing.assert_allclose(augmented([step]), augmented([step], engine=engine), atol=tolerance)


def test_flip_and_enlarged_center_equal_numpy_and_opencv():
    np.testing.assert_allclose(augmented([Transform("horizontal_flip")]), IMAGES[:, :, ::-1], atol=2e-3)
    enlarged = np.stack([cv2.resize(image, (38, 38))[3:35, 3:35] for image in IMAGES])
    np.testing.assert_allclose(augmented([Transform("enlarge_crop", 1.0, {"scale": 38 / 32})]), enlarged, atol=1.1)


@pytest.mark.parametrize(("angle", "scale", "x", "y"), [
    (30, 1, 0, 0), (-45, 1, 0, 0), (0, 1.1, 0, 0), (0, 0.9, 0, 0), (0, 1, 0.0625, 0), (0, 1, 0, -0.0625),
    (25, 0.93, 0.05, -0.06),
])
def test_shift_scale_rotate_equals_albumentations(angle, scale, x, y):
    """Equal parameters give equal images but for rounding to whole numbers, which Albumentations does."""
    reference = A.Compose([A.Affine(scale=(scale, scale), rotate=(angle, angle), p=1, keep_ratio=True, strict=True,
                                    translate_percent={"x": (x, x), "y": (y, y)},
                                    border_mode=cv2.BORDER_REFLECT_101)])
    expected = np.stack([reference(image=image)["image"] for image in IMAGES])
    numbers = np.array([angle / 45, (scale - 1) / 0.1, x / 0.0625, y / 0.0625, 0], np.float32) / 2 + 0.5
    got = resampled(geometry.ShiftScaleRotate(shift=0.0625, scale=0.1, rotate=45), numbers)
    assert np.abs(got - expected).mean() < 0.3
    assert np.abs(got - expected).max() < 1.01


@pytest.mark.parametrize(("angle", "shear", "x", "y"), [(15, 0, 0, 0), (-10, 2, 0, 0), (12, -1.5, 0, 0), (7, 0, .1, 0),
                                                        (-15, 1, -.06, .1)])
def test_affine_equals_albumentations(angle, shear, x, y):
    reference = A.Compose([A.Affine(rotate=(angle, angle), shear={"x": (shear, shear), "y": (0, 0)}, p=1, strict=True,
                                    translate_percent={"x": (x, x), "y": (y, y)}, border_mode=cv2.BORDER_CONSTANT)])
    expected = np.stack([reference(image=image)["image"] for image in IMAGES])
    numbers = np.array([angle / 15, 0, x / 0.1, y / 0.1, shear / 2], np.float32) / 2 + 0.5
    got = resampled(geometry.Affine(rotate=15, shear=2, shift=0.1), numbers)
    assert np.abs(got - expected).max() < 1.01


@pytest.mark.parametrize("size", [120, 80, 96])
def test_resize_equals_albumentations(size):
    step = [Transform("resize", 1.0, {"size": size})]
    got = augmented(step, LARGE)
    assert got.shape == (16, size, size, 3)
    # OpenCV's weights are multiples of 1/2048, its pixels whole numbers
    np.testing.assert_allclose(got, augmented(step, LARGE, "albumentations"), atol=1.6)


@pytest.mark.parametrize(("amount", "number"), [
    ({"brightness": 5}, 0.1), ({"brightness": 5}, 0.35), ({"contrast": 5}, 0.07), ({"contrast": 5}, 0.4),
    ({"saturation": 5}, 0.08), ({"saturation": 5}, 0.5), ({"hue": 0.4}, 0.1), ({"hue": 0.4}, 0.8),
])
def test_color_jitter_equals_albumentations(amount, number):
    """``number`` is the random number, 0 to 1, that selects the factor from its range."""
    (name, size), = amount.items()
    low, high = (-size, size) if name == "hue" else color.factor_range(size)
    value = low + number * (high - low)
    unchanged = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
    reference = A.Compose([A.ColorJitter(**unchanged | {name: (value, value)}, p=1, strict=True)])
    expected = np.stack([reference(image=image)["image"] for image in IMAGES]).astype(float)
    u, apply = torch.full((len(IMAGES), 4), number), torch.ones(len(IMAGES), dtype=torch.bool)
    got = color.ColorJitter(**amount).pixels(pixels(IMAGES), u, apply, None).permute(0, 2, 3, 1).numpy()
    # OpenCV keeps the hue in steps of two degrees, all else in whole numbers, which factors up to 6 enlarge
    assert np.abs(got - expected).mean() < (2.0 if name == "hue" else 0.8)
    assert np.abs(got - expected).max() < (11 if name == "hue" else 3.1)


def test_color_matrix_hue_keeps_grays_and_the_channel_mean():
    x, u, apply = torch.rand(8, 3, 4, 4) * 60 + 100, torch.rand(8, 4), torch.ones(8, dtype=torch.bool)
    shifted = color.ColorMatrix(hue=0.3).pixels(x, u, apply, None)
    torch.testing.assert_close(shifted.mean(1), x.mean(1), rtol=0, atol=0.05)
    assert (shifted - x).abs().mean() > 1
    gray = x[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(color.ColorMatrix(hue=0.3, saturation=0.3).pixels(gray, u, apply, None), gray,
                               rtol=0, atol=0.05)
    red, third = torch.tensor([200.0, 0, 0]).view(1, 3, 1, 1), torch.tensor([[0.5, 0.5, 0.5, 5 / 6]])
    green = color.ColorMatrix(hue=0.5).pixels(red, third, apply[:1], None)
    torch.testing.assert_close(green.flatten(), torch.tensor([0.0, 200, 0]), rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", [color.ColorJitter, color.ColorMatrix])
def test_color_changes_only_the_selected_images(kind):
    x, apply = torch.rand(8, 3, 4, 4) * 255, torch.arange(8) % 2 == 0
    got = kind(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.3).pixels(x, torch.rand(8, 4), apply, None)
    torch.testing.assert_close(got[~apply], x[~apply])
    assert ((got - x)[apply].abs().amax((1, 2, 3)) > 1).all()


def test_rotation_and_crop_in_one_resampling_are_near_to_two_resamplings():
    """Two are a little softer; on a smooth image the difference is small if the places agree."""
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 4) for image in LARGE])
    steps = [Transform("affine", 1.0, {"rotate": 45}), Transform("random_resized_crop", 1.0, {"size": 80})]
    keys = pipeline.image_keys(0, 0, torch.arange(16))
    x = pixels(smooth)
    for number, (_, step) in enumerate(pipeline.build_steps(steps)):
        u = pipeline.uniform(keys, number, 1 + step.randoms)
        x = pipeline._resample(x, step.matrix(u[:, 1:], 96), step.border, getattr(step, "size", 96))
    once = augmented(steps, smooth)
    assert once.shape == (16, 80, 80, 3)
    assert np.abs(once - x.permute(0, 2, 3, 1).numpy()).mean() < 1.0


@pytest.mark.parametrize("engine", ["torch", "albumentations", "torchvision"])
class TestDistributions:
    """Each engine against the intended distribution, over 4,000 images."""

    COUNT = 4000

    def images(self, rows, columns):
        """A white rectangle on black, COUNT times."""
        out = np.zeros((self.COUNT, 32, 32, 3), np.uint8)
        out[:, rows, columns] = 255
        return out

    def test_position_of_holes(self, engine):
        """17 x 17 places, equally likely, in half of the images; the standard error of a share is below 0.008."""
        hole = augmented([Transform("coarse_dropout")], self.images(0, 0)[:64], engine)
        covered = np.abs(hole - np.round(255 * np.array(MEAN))).max(-1) < 1e-2
        assert (covered.sum((1, 2)) == 256).all()  # always one whole square inside the image
        share = (augmented([Transform("coarse_dropout", 0.5)], self.images(0, 0), engine)[..., 0] > 60).mean(0)
        reach = np.minimum(np.arange(32) + 1, 32 - np.arange(32)).clip(max=16) / 17  # share of places over a pixel
        np.testing.assert_allclose(share, 0.5 * np.outer(reach, reach), atol=0.032)
        assert 0 < share[0, 0] < 0.006  # 0.5 / 289 = 0.0017

    def test_shift(self, engine):
        """At 32 pixels a shift below 2 pixels is cut to -1, 0 or 1: a quarter, a half, a quarter, in each direction."""
        if engine == "torchvision":
            pytest.skip("torchvision rounds the shift, which makes it -2 to 2")
        step = Transform("shift_scale_rotate", 1.0, {"shift": 0.0625, "scale": 0, "rotate": 0})
        moved = augmented([step], self.images(slice(10, 20), slice(10, 20)), engine)[..., 0]
        for axis in (1, 2):
            first = (moved.sum(axis) > 100).argmax(1)
            shares = [(first == 10 + shift).mean() for shift in (-1, 0, 1)]
            np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.032)

    def test_scale(self, engine):
        """The area of a square grows by 0.9 squared to 1.1 squared, the scale between them being equally likely."""
        step = Transform("shift_scale_rotate", 1.0, {"shift": 0, "scale": 0.1, "rotate": 0})
        area = augmented([step], self.images(slice(8, 24), slice(8, 24)), engine)[..., 0].sum((1, 2)) / 255
        scale = np.sqrt(area) / 16
        np.testing.assert_allclose([scale.mean(), scale.std(), np.ptp(scale)], [1, 0.2 / 12**0.5, 0.2],
                                   rtol=0.05, atol=0)

    def test_rotation(self, engine):
        """By the direction of a bar that points upwards from the center: equally likely from -45 to 45 degrees."""
        step = Transform("shift_scale_rotate", 1.0, {"shift": 0, "scale": 0, "rotate": 45})
        mass = augmented([step], self.images(slice(4, 10), slice(15, 17)), engine)[..., 0]
        offset = np.arange(32) - 15.5
        across, up = (mass * offset).sum((1, 2)), -(mass * offset[:, None]).sum((1, 2))
        angle = np.degrees(np.arctan2(across, up))
        assert abs(angle.mean()) < 2  # the standard error of this mean is 0.4
        np.testing.assert_allclose([angle.std(), np.ptp(angle)], [90 / 12**0.5, 90], rtol=0.03)

    def test_probability_of_a_step(self, engine):
        """Shares with a standard error of 0.007."""
        left = self.images(slice(0, 32), slice(0, 16))
        flipped = augmented([Transform("horizontal_flip", 0.3)], left, engine)[:, 0, 0, 0] < 100
        np.testing.assert_allclose(flipped.mean(), 0.3, atol=0.03)
        gray = augmented([Transform("to_gray", 0.7)], left * np.array([1, 0, 0], np.uint8), engine)[:, 0, 0, 1] > 50
        np.testing.assert_allclose(gray.mean(), 0.7, atol=0.03)

    def test_part_shown_by_a_random_crop(self, engine):
        """An image whose red grows to the right and green downwards shows each crop's place and sides, 2,000 times.

        Expected: the definition, counted with NumPy; allowed: three standard errors of a mean.
        """
        ramp = np.linspace(0, 255, 64).round().astype(np.uint8)
        image = np.zeros((64, 64, 3), np.uint8)
        image[..., 0], image[..., 1] = ramp[None], ramp[:, None]
        crops = augmented([Transform("random_resized_crop", 1.0, {"size": 32})], np.repeat(image[None], 2000, 0), engine)
        step = 255 / 63
        share = step * 25 / 32  # of the width, between the fourth pixel and the fourth from behind
        found = np.array([[(crop[16, -4, 0] - crop[16, 3, 0]) / share, (crop[-4, 16, 1] - crop[3, 16, 1]) / share,
                           crop[16, 15:17, 0].mean() / step] for crop in crops])  # width, height, middle across
        rng, expected = np.random.default_rng(0), []
        while len(expected) < 20_000:
            area, ratio = 64 * 64 * rng.uniform(0.08, 1), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
            width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if width <= 64 and height <= 64:
                expected.append((width, height, rng.integers(0, 65 - width) + (width - 1) / 2))
        expected = np.array(expected, float)
        for k in range(3):
            error = 3 * expected[:, k].std() / 2000**0.5 + 0.15
            assert abs(found[:, k].mean() - expected[:, k].mean()) < error
            assert abs(found[:, k].std() - expected[:, k].std()) < error

    @pytest.mark.parametrize(("name", "rgb", "other", "channel", "gray", "unit", "tolerance"), [
        ("brightness", (40, 40, 40), (40, 40, 40), 0, 0, 40, 0.1),
        ("saturation", (100, 100, 110), (100, 100, 110), 2, 101.1, 8.9, 0.15),
        ("contrast", (120, 120, 120), (100, 100, 100), 0, 110, 10, 0.15)])
    def test_color_factors(self, engine, name, rgb, other, channel, gray, unit, tolerance):
        """Uniform from 0 to 6, from the distance to gray; the lower half of the images has another color."""
        images = np.full((3000, 8, 8, 3), rgb, np.uint8)
        images[:, 4:] = other
        got = augmented([Transform("color_jitter", 1.0, {name: 5})], images, engine)[:, 0, 0, channel]
        factor = (got - gray) / unit
        np.testing.assert_allclose([factor.mean(), factor.std(), factor.min(), factor.max()], [3, 6 / 12**0.5, 0, 6],
                                   atol=tolerance)

    def test_hue(self, engine):
        """Red shifted by up to 0.4 of the circle, all shifts equally likely."""
        images = np.full((3000, 8, 8, 3), (200, 0, 0), np.uint8)
        got = augmented([Transform("color_jitter", 1.0, {"hue": 0.4})], images, engine)[:, 0, 0]
        hue = cv2.cvtColor(np.uint8(got.round())[None], cv2.COLOR_RGB2HSV)[0, :, 0] / 180.0
        shift = (hue + 0.5) % 1 - 0.5
        np.testing.assert_allclose([shift.mean(), shift.std(), np.ptp(shift)], [0, 0.8 / 12**0.5, 0.8], atol=0.02)


def test_each_transform_of_an_expansion_is_applied_to_its_items():
    """A batch of all transform ids equals each id alone; id 0 is only normalized."""
    ids = torch.arange(len(IMAGES)) * (len(EXPANSION) + 1) // len(IMAGES)
    keys, images = pipeline.image_keys(3, 1, torch.arange(len(IMAGES))), torch.from_numpy(IMAGES)
    augment = pipeline.BatchAugment((), MEAN, STD, EXPANSION)
    together = augment(images, keys, ids)
    for number in range(len(EXPANSION) + 1):
        rows = ids == number
        alone = augment(images[rows], keys[rows], ids[rows])
        torch.testing.assert_close(alone, together[rows], rtol=0, atol=1e-5)
        changed = (alone - pipeline.normalize(images[rows], MEAN, STD)).abs().amax((1, 2, 3)) > 0.05
        assert changed.any() == (number > 0)
    other = augment(images, pipeline.image_keys(3, 2, torch.arange(len(IMAGES))), ids)
    random_ids = torch.tensor([n > 0 and EXPANSION[n - 1].name in ("affine", "color_jitter") for n in ids])
    assert ((other - together).abs().amax((1, 2, 3)) > 1e-3)[random_ids].float().mean() > 0.9  # new in each epoch


def test_random_numbers_depend_on_seed_epoch_and_image_alone():
    first = augmented(ALL)
    np.testing.assert_array_equal(first, augmented(ALL))
    np.testing.assert_allclose(augmented(ALL, IMAGES[:10]), first[:10], atol=1e-3)  # whatever the batch
    for other in (augmented(ALL, epoch=1), augmented(ALL, seed=1)):
        assert (np.abs(other - first).max((1, 2, 3)) > 1).mean() > 0.8


def test_random_number_generator_equals_splitmix64():
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]  # SplitMix64's first two numbers from seed 0
    state = torch.tensor([0, 0x9E3779B97F4A7C15 - 2**64])
    assert [int(v) % 2**64 for v in pipeline._mix(state)] == known
    u = pipeline.uniform(pipeline.image_keys(0, 1, torch.arange(50_000)), 2, 4).double()
    assert u.min() >= 0 and u.max() < 1
    assert (u.mean(0) - 0.5).abs().max() < 0.006 and (u.var(0) - 1 / 12).abs().max() < 0.002
    assert (torch.corrcoef(u.T) - torch.eye(4)).abs().max() < 0.02


@pytest.mark.parametrize(("step", "message"), [
    (Transform("flip"), "horizontal_flip"),
    (Transform("coarse_dropout", 0.5, {"max_height": 16}), "Legal: size"),
    (Transform("coarse_dropout", 0.5, {"size": "16"}), "must be a number"),
    (Transform("horizontal_flip", 1.5), "between 0 and 1"),
    (Transform("coarse_dropout", 1.0, {"size": 40}), "larger than the image"),
    (Transform("resize", 0.5, {"size": 48}), "must be 1"),
])
def test_invalid_steps_are_rejected(step, message):
    with pytest.raises(CourseError, match=message):
        augmented([step])


def test_an_expansion_that_changes_the_size_is_rejected():
    with pytest.raises(CourseError, match="expansion"):
        pipeline.BatchAugment((), MEAN, STD, [Transform("random_resized_crop", 1.0, {"size": 48})])


def test_magnification():
    """A resize by its ratio; rotation, flip and color not at all; a crop as torchvision's procedure, written out."""
    keys = pipeline.image_keys(0, 1, torch.arange(40_000))
    steps = [Transform("affine", 1.0, {"rotate": 45}), Transform("horizontal_flip", 0.5), Transform("to_gray", 0.5)]
    resized = pipeline.BatchAugment([*steps, Transform("resize", 1.0, {"size": 120})], MEAN, STD)
    torch.testing.assert_close(resized.magnification(keys[:9], 96), torch.full((9,), 1.25))
    assert (resized.output_size(96), pipeline.BatchAugment(steps, MEAN, STD).output_size(96)) == (120, 96)
    crop = pipeline.BatchAugment([*steps, Transform("random_resized_crop", 1.0, {"size": 80})], MEAN, STD)
    factors, rng, expected = crop.magnification(keys, 96), random.Random(0), []
    for _ in range(40_000):
        width = height = 96
        for _ in range(10):
            area, ratio = 96 * 96 * rng.uniform(0.08, 1), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            sides = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if max(sides) <= 96:
                width, height = sides
                break
        expected.append(80 / math.sqrt(width * height))
    assert float(factors.mean()) == pytest.approx(statistics.fmean(expected), rel=0.01)
    assert float(factors.std()) == pytest.approx(statistics.stdev(expected), rel=0.02)
