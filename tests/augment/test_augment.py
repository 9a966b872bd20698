import math
import random
import statistics

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from course_utils.augment import pipeline as augment, transforms
from course_utils.errors import CourseError
from course_utils.config import Transform
from course_utils.variants import load_experiment
from course_utils.data.synthetic import draw

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
IMAGES = draw("cifar10", {"train": 64}, 0)["train_images"]
PUBLISHED = (Transform("horizontal_flip", 0.5), Transform("shift_scale_rotate", 0.5),
             Transform("coarse_dropout", 0.5), Transform("to_gray", 0.5))


def batched(augmentation, images=IMAGES, epoch=0, seed=0):
    """Float pictures (N, H, W, 3), 0 to 255, from the batched engine."""
    keys = augment.image_keys(seed, epoch, torch.arange(len(images)))
    x = augment.BatchAugment(augmentation, MEAN, STD)(torch.from_numpy(images), keys)
    return 255 * augment.denormalize(x, MEAN, STD)


def reference(augmentation, images=IMAGES):
    """The same from Albumentations."""
    pipeline = augment.albumentations_pipeline(augmentation, MEAN, STD)
    out = []
    for k, image in enumerate(images):
        augment.seed_pipeline(pipeline, k)
        out.append(pipeline(image=image)["image"])
    return 255 * (np.stack(out) * STD + MEAN)


def test_plain_images_are_only_normalised():
    np.testing.assert_allclose(batched(()), IMAGES, atol=1e-3)
    expected = torch.from_numpy(reference(()) / 255 - MEAN) / torch.tensor(STD)
    got = augment.normalize(torch.from_numpy(IMAGES), MEAN, STD).permute(0, 2, 3, 1)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=0)


def test_always_flip_and_always_grey_equal_the_reference():
    for step in ("horizontal_flip", "to_gray"):
        np.testing.assert_allclose(batched([Transform(step)]), reference([Transform(step)]), atol=0.51)
    np.testing.assert_allclose(batched([Transform("horizontal_flip")]), IMAGES[:, :, ::-1], atol=2e-3)


@pytest.mark.parametrize(("angle", "scale", "x", "y"), [
    (30, 1, 0, 0), (-45, 1, 0, 0), (0, 1.1, 0, 0), (0, 0.9, 0, 0), (0, 1, 0.0625, 0), (0, 1, 0, -0.0625),
    (25, 0.93, 0.05, -0.06),
])
def test_one_affine_equals_the_reference(angle, scale, x, y):
    """Equal parameters give equal images but for rounding to whole numbers, which Albumentations does."""
    sides = {"x": (x, x), "y": (y, y)}
    pipeline = A.Compose([A.Affine(scale=(scale, scale), rotate=(angle, angle), translate_percent=sides, p=1,
                                   keep_ratio=True, border_mode=cv2.BORDER_REFLECT_101, strict=True)])
    expected = np.stack([pipeline(image=image)["image"] for image in IMAGES])
    step = transforms.ShiftScaleRotate(shift=0.0625, scale=0.1, rotate=45)
    drawn = torch.tensor([angle / 45, (scale - 1) / 0.1, x / 0.0625, y / 0.0625, 0]) / 2 + 0.5
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
    got = augment._resample(pixels, step.matrix(drawn.expand(len(IMAGES), 5), 32), "reflection").permute(0, 2, 3, 1)
    assert np.abs(got.numpy() - expected).mean() < 0.3
    assert np.abs(got.numpy() - expected).max() < 1.01


@pytest.mark.parametrize(("amount", "drawn"), [
    ({"brightness": 5}, 0.1), ({"brightness": 5}, 0.35), ({"contrast": 5}, 0.07), ({"contrast": 5}, 0.4),
    ({"saturation": 5}, 0.08), ({"saturation": 5}, 0.5), ({"hue": 0.4}, 0.1), ({"hue": 0.4}, 0.8),
])
def test_one_change_of_colour_equals_the_reference(amount, drawn):
    """``drawn`` is the random number, 0 to 1, that picks the factor from its range."""
    step = transforms.ColorJitter(**amount)
    (name, size), = amount.items()
    low, high = (-size, size) if name == "hue" else (max(0, 1 - size), 1 + size)
    value = low + drawn * (high - low)
    still = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
    pipeline = A.Compose([A.ColorJitter(**still | {name: (value, value)}, p=1, strict=True)])
    expected = np.stack([pipeline(image=image)["image"] for image in IMAGES]).astype(float)
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
    on = torch.ones(len(IMAGES), dtype=torch.bool)
    got = step.pixels(pixels, torch.full((len(IMAGES), 4), drawn), on, None).permute(0, 2, 3, 1).numpy()
    # OpenCV keeps the hue in steps of two degrees, all else in whole numbers, which factors up to 6 enlarge
    assert np.abs(got - expected).mean() < (2.0 if name == "hue" else 0.8)
    assert np.abs(got - expected).max() < (11 if name == "hue" else 3.1)


@pytest.mark.parametrize(("amount", "drawn", "near"), [
    ({"brightness": 0.3}, 0.1, 0.6), ({"brightness": 0.3}, 0.9, 0.6), ({"contrast": 0.3}, 0.2, 0.6),
    ({"contrast": 0.3}, 0.9, 0.6), ({"saturation": 0.3}, 0.1, 0.6), ({"saturation": 0.3}, 0.9, 0.6),
    ({"hue": 0.3}, 0.0, 4.0), ({"hue": 0.3}, 1.0, 4.0)])
def test_a_colour_matrix_is_near_to_the_steps_one_by_one(amount, drawn, near):
    """Equal for each of the first three; a turn of the hue, which moves pixels by 27 here, keeps another brightness."""
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
    u, on = torch.full((len(IMAGES), 4), drawn), torch.ones(len(IMAGES), dtype=torch.bool)
    got, expected = (kind(**amount).pixels(pixels, u, on, None) for kind in
                     (transforms.ColorMatrix, transforms.ColorJitter))
    assert (got - expected).abs().mean() < near


def test_a_third_of_the_circle_makes_red_green():
    red = torch.tensor([200.0, 0, 0]).view(1, 3, 1, 1)
    drawn, on = torch.tensor([[0.5, 0.5, 0.5, 5 / 6]]), torch.tensor([True])
    third = transforms.ColorMatrix(hue=0.5).pixels(red, drawn, on, None)
    torch.testing.assert_close(third.flatten(), torch.tensor([0.0, 200, 0]), rtol=0, atol=0.05)


def test_a_turned_hue_keeps_greys_and_the_mean_of_the_colours():
    pixels = torch.rand(8, 3, 4, 4) * 60 + 100
    u, on = torch.rand(8, 4), torch.ones(8, dtype=torch.bool)
    turned = transforms.ColorMatrix(hue=0.3).pixels(pixels, u, on, None)
    torch.testing.assert_close(turned.mean(1), pixels.mean(1), rtol=0, atol=0.05)
    assert (turned - pixels).abs().mean() > 1
    grey = pixels[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(transforms.ColorMatrix(hue=0.3, saturation=0.3).pixels(grey, u, on, None), grey,
                               rtol=0, atol=0.05)


def test_a_colour_matrix_leaves_the_others_alone():
    pixels, on = torch.rand(8, 3, 4, 4) * 255, torch.arange(8) % 2 == 0
    step = transforms.ColorMatrix(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.3)
    got = step.pixels(pixels, torch.rand(8, 4), on, None)
    torch.testing.assert_close(got[~on], pixels[~on])
    assert ((got - pixels)[on].abs().amax((1, 2, 3)) > 1).all()


def test_the_hole_is_one_square_of_the_mean_wholly_inside():
    black = np.zeros_like(IMAGES)
    holes = np.abs(batched([Transform("coarse_dropout")], black) - np.round(255 * np.array(MEAN))).max(-1) < 1e-2
    assert (holes.sum((1, 2)) == 256).all()
    for hole in holes:
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert np.ptp(rows) == np.ptp(columns) == 15


@pytest.mark.parametrize("name", ["vertical_flip", "flip_both"])
def test_always_flipped_equals_the_reference(name):
    np.testing.assert_allclose(batched([Transform(name)]), reference([Transform(name)]), atol=0.51)


def test_an_enlarged_middle_equals_the_reference_and_opencv():
    step = Transform("enlarge_crop", 1.0, {"scale": 38 / 32})
    got = batched([step])
    np.testing.assert_allclose(got, reference([step]), atol=0.51)
    enlarged = np.stack([cv2.resize(image, (38, 38))[3:35, 3:35] for image in IMAGES])
    np.testing.assert_allclose(got, enlarged, atol=1.1)


@pytest.mark.parametrize(("angle", "shear", "x", "y"), [(15, 0, 0, 0), (-10, 2, 0, 0), (12, -1.5, 0, 0), (7, 0, .1, 0),
                                                        (-15, 1, -.06, .1)])
def test_an_affine_with_black_beyond_equals_the_reference(angle, shear, x, y):
    pipeline = A.Compose([A.Affine(rotate=(angle, angle), shear={"x": (shear, shear), "y": (0, 0)}, p=1, strict=True,
                                   translate_percent={"x": (x, x), "y": (y, y)}, border_mode=cv2.BORDER_CONSTANT)])
    expected = np.stack([pipeline(image=image)["image"] for image in IMAGES])
    drawn = torch.tensor([angle / 15, 0, x / 0.1, y / 0.1, shear / 2]) / 2 + 0.5
    step = transforms.Affine(rotate=15, shear=2, shift=0.1)
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float()
    got = augment._resample(pixels, step.matrix(drawn.expand(len(IMAGES), 5), 32), "zeros").permute(0, 2, 3, 1)
    assert np.abs(got.numpy() - expected).max() < 1.01


BIG = draw("cifar10", {"train": 16}, 1)["train_images"].repeat(3, 1).repeat(3, 2)  # 96 x 96


@pytest.mark.parametrize("size", [120, 80, 96])
def test_a_whole_image_resized_equals_the_reference(size):
    step = [Transform("resize", 1.0, {"size": size})]
    got, expected = batched(step, BIG), reference(step, BIG)
    assert got.shape == expected.shape == (16, size, size, 3)
    np.testing.assert_allclose(got, expected, atol=1.6)  # OpenCV's weights are multiples of 1/2048, its pixels whole


@pytest.mark.parametrize(("left", "top", "width", "height", "size"), [(10, 20, 40, 30, 80), (0, 0, 96, 96, 70),
                                                                      (50, 3, 33, 44, 64)])
def test_one_crop_resized_equals_opencv(left, top, width, height, size):
    """But for the outermost half pixel: there one resampling sees the picture beyond the crop."""
    drawn = torch.tensor([[(left + 0.5) / (97 - width), (top + 0.5) / (97 - height)]]).expand(16, 2)
    cropping = type("Fixed", (transforms.RandomResizedCrop,), {
        "_sides": lambda self, u, _: (torch.full((len(u),), float(width)), torch.full((len(u),), float(height)))})
    matrix = cropping(size=size).matrix(drawn, 96)
    got = augment._resample(torch.from_numpy(BIG).permute(0, 3, 1, 2).float(), matrix, None, size).permute(0, 2, 3, 1)
    crops = BIG[:, top:top + height, left:left + width]
    expected = np.stack([cv2.resize(np.ascontiguousarray(crop), (size, size)) for crop in crops])
    np.testing.assert_allclose(got.numpy()[:, 3:-3, 3:-3], expected[:, 3:-3, 3:-3], atol=1.6)


def test_turned_and_cropped_in_one_resampling_is_near_to_one_after_the_other():
    """Twice apply_spatial_transformer is a little softer; the places agree: the difference is small on a smooth picture."""
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 4) for image in BIG])
    steps = [Transform("affine", 1.0, {"rotate": 45}), Transform("random_resized_crop", 1.0, {"size": 80})]
    keys = augment.image_keys(0, 1, torch.arange(16))
    both = transforms.build_steps(steps)
    x = torch.from_numpy(smooth).permute(0, 3, 1, 2).float()
    for number, (_, step) in enumerate(both):
        u = augment.uniform(keys, number, 1 + step.draws)
        x = augment._resample(x, step.matrix(u[:, 1:], 96), step.border, getattr(step, "size", None))
    once = augment.denormalize(augment.BatchAugment(steps, MEAN, STD)(torch.from_numpy(smooth), keys), MEAN, STD)
    assert once.shape == (16, 80, 80, 3)
    assert np.abs(255 * once - x.permute(0, 2, 3, 1).numpy()).mean() < 1.0


@pytest.mark.parametrize("p", [0.5, 0.0])
def test_a_change_of_size_is_given_to_all_or_none(p):
    with pytest.raises(CourseError, match="must be 1"):
        batched([Transform("resize", p, {"size": 48})])
    with pytest.raises(CourseError, match="expansion"):
        augment.BatchAugment((), MEAN, STD, [Transform("random_resized_crop", 1.0, {"size": 48})])


@pytest.mark.parametrize("engine", [batched, reference])
def test_which_part_a_random_crop_shows(engine):
    """A picture whose red grows across and green downwards tells each crop's place and sides, over 2,000 draws.

    Area even from 0.08 to 1 of it, but those drawn anew that do not fit; the expected moments are counted by the
    definition with NumPy, and deviate by no more than 3 of a mean's deviations.
    """
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8)
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[..., 0], picture[..., 1] = ramp[None], ramp[:, None]
    got = engine([Transform("random_resized_crop", 1.0, {"size": 32})], np.repeat(picture[None], 2000, 0))
    step = 255 / 63
    share = step * 25 / 32  # of the width, between the fourth pixel and the fourth from behind
    found = np.array([[(image[16, -4, 0] - image[16, 3, 0]) / share, (image[-4, 16, 1] - image[3, 16, 1]) / share,
                       image[16, 15:17, 0].mean() / step] for image in got])  # width, height, middle across
    rng, expected = np.random.default_rng(0), []
    while len(expected) < 20_000:
        area, shape = 64 * 64 * rng.uniform(0.08, 1), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
        width, height = round((area * shape) ** 0.5), round((area / shape) ** 0.5)
        if width <= 64 and height <= 64:
            expected.append((width, height, rng.integers(0, 65 - width) + (width - 1) / 2))
    expected = np.array(expected, float)
    for k in range(3):
        error = 3 * expected[:, k].std() / 2000**0.5 + 0.15
        assert abs(found[:, k].mean() - expected[:, k].mean()) < error
        assert abs(found[:, k].std() - expected[:, k].std()) < error


@pytest.mark.parametrize("engine", [batched, reference])
class TestDistributions:
    """Both engines against the distribution that is meant, over 4,000 draws each."""

    COUNT = 4000

    def pictures(self, rows, columns):
        """A white rectangle on black, COUNT times."""
        out = np.zeros((self.COUNT, 32, 32, 3), np.uint8)
        out[:, rows, columns] = 255
        return out

    def test_where_holes_lie(self, engine):
        """17 x 17 places, equally likely, in half of the images; the deviation of a share is below 0.008."""
        black = np.zeros((self.COUNT, 32, 32, 3), np.uint8)
        covered = (engine([Transform("coarse_dropout", 0.5)], black)[..., 0] > 60).mean(0)
        reach = np.minimum(np.arange(32) + 1, 32 - np.arange(32)).clip(max=16) / 17  # share of places over a pixel
        np.testing.assert_allclose(covered, 0.5 * np.outer(reach, reach), atol=0.032)
        assert 0 < covered[0, 0] < 0.006  # 0.5 / 289 = 0.0017

    def test_how_far_images_are_shifted(self, engine):
        """At 32 pixels a shift below 2 pixels is cut to -1, 0 or 1: a quarter, a half, a quarter, each way."""
        step = Transform("shift_scale_rotate", 1.0, {"shift": 0.0625, "scale": 0, "rotate": 0})
        moved = engine([step], self.pictures(slice(10, 20), slice(10, 20)))[..., 0]
        for axis in (1, 2):
            first = (moved.sum(axis) > 100).argmax(1)
            shares = [(first == 10 + shift).mean() for shift in (-1, 0, 1)]
            np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.032)

    def test_how_much_images_are_scaled(self, engine):
        """The area of a square grows by 0.9 squared to 1.1 squared, the scale between them being equally likely."""
        step = Transform("shift_scale_rotate", 1.0, {"shift": 0, "scale": 0.1, "rotate": 0})
        area = engine([step], self.pictures(slice(8, 24), slice(8, 24)))[..., 0].sum((1, 2)) / 255
        scale = np.sqrt(area) / 16
        np.testing.assert_allclose([scale.mean(), scale.std(), np.ptp(scale)], [1, 0.2 / 12**0.5, 0.2],
                                   rtol=0.05, atol=0)

    def test_how_far_images_are_rotated(self, engine):
        """By the direction of a bar that points upwards from the centre: equally likely from -45 to 45 degrees."""
        step = Transform("shift_scale_rotate", 1.0, {"shift": 0, "scale": 0, "rotate": 45})
        mass = engine([step], self.pictures(slice(4, 10), slice(15, 17)))[..., 0]
        offset = np.arange(32) - 15.5
        across, up = (mass * offset).sum((1, 2)), -(mass * offset[:, None]).sum((1, 2))
        angle = np.degrees(np.arctan2(across, up))
        assert abs(angle.mean()) < 2  # the deviation of this mean is 0.4
        np.testing.assert_allclose([angle.std(), np.ptp(angle)], [90 / 12**0.5, 90], rtol=0.03)

    def test_how_often_a_step_acts(self, engine):
        """Shares with a deviation of 0.007."""
        left = self.pictures(slice(0, 32), slice(0, 16))
        flipped = engine([Transform("horizontal_flip", 0.3)], left)[:, 0, 0, 0] < 100
        np.testing.assert_allclose(flipped.mean(), 0.3, atol=0.03)
        red = left * np.array([1, 0, 0], np.uint8)
        grey = engine([Transform("to_gray", 0.7)], red)[:, 0, 0, 1] > 50
        np.testing.assert_allclose(grey.mean(), 0.7, atol=0.03)


@pytest.mark.parametrize("engine", [batched, reference])
class TestDistributionsOfColour:
    """Factors evenly drawn from 0 to 6, hue turns from -0.4 to 0.4, over 3,000 images of one colour."""

    def factors(self, engine, name, colour, channel):
        images = np.full((3000, 8, 8, 3), colour, np.uint8)
        return engine([Transform("color_jitter", 1.0, {name: 5})], images)[:, 0, 0, channel]

    def test_brightness(self, engine):
        """Times 0 to 6, as torchvision's ColorJitter(brightness=5) draws them."""
        got = self.factors(engine, "brightness", (40, 40, 40), 0) / 40
        np.testing.assert_allclose([got.mean(), got.std(), got.min(), got.max()], [3, 6 / 12**0.5, 0, 6], atol=0.1)

    def test_saturation(self, engine):
        """Away from grey by 0 to 6 times the distance, here of 10 from 100."""
        got = (self.factors(engine, "saturation", (100, 100, 110), 2) - 101.1) / 8.9
        np.testing.assert_allclose([got.mean(), got.std(), got.min(), got.max()], [3, 6 / 12**0.5, 0, 6], atol=0.15)

    def test_contrast(self, engine):
        """Away from the picture's mean grey by 0 to 6 times the distance."""
        images = np.full((3000, 8, 8, 3), 100, np.uint8)
        images[:, 4:] = 120
        got = (engine([Transform("color_jitter", 1.0, {"contrast": 5})], images)[:, 7, 0, 0] - 110) / 10
        np.testing.assert_allclose([got.mean(), got.std(), got.min(), got.max()], [3, 6 / 12**0.5, 0, 6], atol=0.15)

    def test_hue(self, engine):
        """Red turned by up to 0.4 of the circle: never within a tenth of cyan, and all else equally likely."""
        images = np.full((3000, 8, 8, 3), (200, 0, 0), np.uint8)
        got = engine([Transform("color_jitter", 1.0, {"hue": 0.4})], images)[:, 0, 0]
        hue = np.array([cv2.cvtColor(np.uint8(c.round())[None, None], cv2.COLOR_RGB2HSV)[0, 0, 0] for c in got]) / 180.0
        turn = (hue + 0.5) % 1 - 0.5
        np.testing.assert_allclose([turn.mean(), turn.std(), np.ptp(turn)], [0, 0.8 / 12**0.5, 0.8], atol=0.02)


EXPANSION = tuple(load_experiment("gtsrb_stn").expansion)


def test_each_kind_of_an_expansion_is_its_own_transform():
    """A batch of all transform_ids equals each kind alone; kind 0 is only normalised."""
    transform_ids = torch.arange(len(IMAGES)) * (len(EXPANSION) + 1) // len(IMAGES)
    keys = augment.image_keys(3, 1, torch.arange(len(IMAGES)))
    images = torch.from_numpy(IMAGES)
    engine = augment.BatchAugment((), MEAN, STD, EXPANSION)
    whole = engine(images, keys, transform_ids)
    for kind in range(len(EXPANSION) + 1):
        rows = transform_ids == kind
        alone = engine(images[rows], keys[rows], transform_ids[rows])
        torch.testing.assert_close(alone, whole[rows], rtol=0, atol=1e-5)
        changed = (alone - augment.normalize(images[rows], MEAN, STD)).abs().amax((1, 2, 3)) > 0.05
        assert changed.any() == (kind > 0)
    again = engine(images, augment.image_keys(3, 2, torch.arange(len(IMAGES))), transform_ids)
    drawn = torch.tensor([EXPANSION[kind - 1].name in ("affine", "color_jitter") and kind > 0 for kind in transform_ids])
    assert ((again - whole).abs().amax((1, 2, 3)) > 1e-3)[drawn].float().mean() > 0.9  # anew each epoch


def test_draws_depend_on_run_epoch_and_image_alone():
    first = batched(PUBLISHED)
    np.testing.assert_array_equal(first, batched(PUBLISHED))
    np.testing.assert_allclose(batched(PUBLISHED, IMAGES[:10]), first[:10], atol=1e-3)  # whatever the batch
    for other in (batched(PUBLISHED, epoch=1), batched(PUBLISHED, seed=1)):
        assert (np.abs(other - first).max((1, 2, 3)) > 1).mean() > 0.8


def test_the_number_generator():
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]  # SplitMix64's first two numbers from seed 0
    gamma = 0x9E3779B97F4A7C15
    state = torch.tensor([0, gamma - 2**64])
    assert [int(v) % 2**64 for v in augment._mix(state)] == known
    u = augment.uniform(augment.image_keys(0, 1, torch.arange(50_000)), 2, 4).double()
    assert u.min() >= 0 and u.max() < 1
    assert (u.mean(0) - 0.5).abs().max() < 0.006 and (u.var(0) - 1 / 12).abs().max() < 0.002
    assert (torch.corrcoef(u.T) - torch.eye(4)).abs().max() < 0.02


@pytest.mark.parametrize(("step", "said"), [
    (Transform("flip"), "horizontal_flip"),
    (Transform("coarse_dropout", 0.5, {"max_height": 16}), "Legal: size"),
    (Transform("coarse_dropout", 0.5, {"size": "16"}), "must be a number"),
    (Transform("horizontal_flip", 1.5), "between 0 and 1"),
])
def test_unlawful_steps_are_refused(step, said):
    with pytest.raises(CourseError, match=said):
        augment.BatchAugment([step], MEAN, STD)


def test_a_hole_larger_than_the_image_is_refused():
    with pytest.raises(CourseError, match="larger than the image"):
        batched([Transform("coarse_dropout", 1.0, {"size": 40})])


def test_how_much_larger_things_appear():
    """A resize by its ratio; a turn, a flip and colours not at all; a crop as torchvision's procedure, written out."""
    keys = augment.image_keys(0, 1, torch.arange(40_000))
    still = [Transform("affine", 1.0, {"rotate": 45}), Transform("horizontal_flip", 0.5), Transform("to_gray", 0.5)]
    resized = augment.BatchAugment([*still, Transform("resize", 1.0, {"size": 120})], MEAN, STD)
    torch.testing.assert_close(resized.magnification(keys[:9], 96), torch.full((9,), 1.25))
    assert (resized.side(96), augment.BatchAugment(still, MEAN, STD).side(96)) == (120, 96)
    crop = augment.BatchAugment([*still, Transform("random_resized_crop", 1.0, {"size": 80})], MEAN, STD)
    factors = crop.magnification(keys, 96)
    draw, expected = random.Random(0), []
    for _ in range(40_000):
        for _ in range(10):
            area, shape = 96 * 96 * draw.uniform(0.08, 1), math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
            width, height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if width <= 96 and height <= 96:
                break
        else:
            width = height = 96
        expected.append(80 / math.sqrt(width * height))
    assert float(factors.mean()) == pytest.approx(statistics.fmean(expected), rel=0.01)
    assert float(factors.std()) == pytest.approx(statistics.stdev(expected), rel=0.02)
