"""The transforms against Albumentations and OpenCV, their distributions, and what must not change them."""
import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from course_utils.augment import color, geometry, pipeline
from course_utils.augment.per_image import per_image_pipeline
from course_utils.config import Transform
from course_utils.data.loader import BatchLoader
from course_utils.data.synthetic import generate
from course_utils.errors import CourseError
from course_utils.variants import load_experiment

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
IMAGES = generate("cifar10", {"train": 64}, 0)["train_images"]
LARGE = IMAGES[:16].repeat(3, 1).repeat(3, 2)  # 96 x 96
EXPANSION = tuple(load_experiment("gtsrb_stn").expansion)


def augmented(augmentation, images=IMAGES, engine="torch"):
    """float (N, H, W, 3), 0 to 255."""
    if engine != "torch":
        augment = per_image_pipeline(engine, augmentation, MEAN, STD)
        return 255 * (np.stack([augment(image, key) for key, image in enumerate(images)]) * STD + MEAN)
    keys = pipeline.image_keys(0, 0, torch.arange(len(images)))
    x = pipeline.BatchAugment(augmentation, MEAN, STD)(torch.from_numpy(images), keys)
    return 255 * pipeline.denormalize(x, MEAN, STD)


def pixels(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("engine", ["albumentations", "torchvision"])
@pytest.mark.parametrize("step", [Transform("horizontal_flip"), Transform("vertical_flip"), Transform("flip_both"),
                                  Transform("to_gray"), Transform("enlarge_crop", 1.0, {"scale": 38 / 32}), None])
def test_transforms_without_random_numbers_are_equal_in_all_engines(engine, step):
    steps = [step] if step else []
    tolerance = 1e-3 if step is None else 0.51
    if engine == "torchvision" and step == Transform("to_gray"):
        tolerance = 1.03  # 0.2989 of red, truncated
    np.testing.assert_allclose(augmented(steps), augmented(steps, engine=engine), atol=tolerance)


ZEROS = geometry.Affine(rotate=15, shear=2, shift=0.1)
REFLECTED = geometry.ShiftScaleRotate(rotate=45, shift=0.0625, scale=0.1)


@pytest.mark.parametrize(("step", "angle", "scale", "x", "y", "shear"), [
    (REFLECTED, 30, 1, 0, 0, 0), (REFLECTED, -45, 1, 0, 0, 0), (REFLECTED, 0, 1.1, 0, 0, 0),
    (REFLECTED, 0, 1, 0.0625, -0.0625, 0), (REFLECTED, 25, 0.93, 0.05, -0.06, 0),
    (ZEROS, 15, 1, 0, 0, 0), (ZEROS, -10, 1, 0, 0, 2), (ZEROS, 12, 1, 0, 0, -1.5), (ZEROS, -15, 1, -.06, .1, 1)])
def test_affine_equals_albumentations(step, angle, scale, x, y, shear):
    """Equal parameters give equal images but for rounding to whole numbers, which Albumentations does."""
    border = {"zeros": cv2.BORDER_CONSTANT, "reflection": cv2.BORDER_REFLECT_101}[step.border]
    reference = A.Compose([A.Affine(scale=(scale, scale), rotate=(angle, angle), p=1, keep_ratio=True, strict=True,
                                    shear={"x": (shear, shear), "y": (0, 0)}, border_mode=border,
                                    translate_percent={"x": (x, x), "y": (y, y)})])
    expected = np.stack([reference(image=image)["image"] for image in IMAGES])
    signed = [angle / step.rotate, (scale - 1) / 0.1, x / step.shift, y / step.shift, shear / 2]  # -1 to 1
    matrix = step.matrix(torch.tensor(signed).expand(64, 5) / 2 + 0.5, 32)
    got = pipeline._resample(pixels(IMAGES), matrix, step.border, 32).permute(0, 2, 3, 1).numpy()
    assert np.abs(got - expected).mean() < 0.3
    assert np.abs(got - expected).max() < 1.01


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
def test_holes_are_uniformly_distributed(engine):
    """17 x 17 places, equally likely, in half of 4,000 images; the standard error of a share is below 0.008."""
    black = np.zeros((4000, 32, 32, 3), np.uint8)
    hole = augmented([Transform("coarse_dropout")], black[:64], engine) - np.round(255 * np.array(MEAN))
    assert ((np.abs(hole).max(-1) < 1e-2).sum((1, 2)) == 256).all()  # always one whole square inside the image
    share = (augmented([Transform("coarse_dropout", 0.5)], black, engine)[..., 0] > 60).mean(0)
    reach = np.minimum(np.arange(32) + 1, 32 - np.arange(32)).clip(max=16) / 17  # share of places over a pixel
    np.testing.assert_allclose(share, 0.5 * np.outer(reach, reach), atol=0.032)
    assert 0 < share[0, 0] < 0.006  # 0.5 / 289 = 0.0017


def defined_crops(size, count):
    """(count, 3): width, height and left of random crops by torchvision's definition, counted with NumPy."""
    rng, found = np.random.default_rng(0), []
    while len(found) < count:
        area, ratio = size**2 * rng.uniform(0.08, 1), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
        width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if width <= size and height <= size:
            found.append((width, height, rng.integers(0, size + 1 - width)))
    return np.array(found, float)


@pytest.mark.parametrize("engine", ["torch", "albumentations", "torchvision"])
def test_random_crops_are_distributed_as_defined(engine):
    """An image whose red grows to the right and green downwards shows each crop's place and sides, 2,000 times.

    Allowed: three standard errors of a mean.
    """
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8)
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0], image[..., 1] = ramp[None], ramp[:, None]
    images = np.repeat(image[None], 2000, 0)
    crops = augmented([Transform("random_resized_crop", 1.0, {"size": 32})], images, engine)
    step = 255 / 63
    share = step * 25 / 32  # of the width, between the fourth pixel and the fourth from behind
    found = np.array([[(crop[16, -4, 0] - crop[16, 3, 0]) / share, (crop[-4, 16, 1] - crop[3, 16, 1]) / share,
                       crop[16, 15:17, 0].mean() / step] for crop in crops])  # width, height, center
    expected = defined_crops(64, 20_000)
    expected[:, 2] += (expected[:, 0] - 1) / 2
    error = 3 * expected.std(0) / 2000**0.5 + 0.15
    assert (np.abs(found.mean(0) - expected.mean(0)) < error).all()
    assert (np.abs(found.std(0) - expected.std(0)) < error).all()


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
    (Transform("coarse_dropout", 0.5, {"size": "16"}), "must be a whole number"),
    (Transform("horizontal_flip", 1.5), "between 0 and 1"),
    (Transform("resize", 0.5, {"size": 48}), "must be 1"),
    *((Transform(name, 1.0, {setting: value}), f"{name}: {setting} = .* must be a .*number between")
      for name, setting, value in (
          ("random_resized_crop", "area", 5), ("random_resized_crop", "area", 0), ("random_resized_crop", "ratio", 0),
          ("resize", "size", 32.5), ("resize", "size", 0), ("resize", "size", 10**9), ("affine", "shear", 90),
          ("affine", "scale", 2), ("affine", "rotate", float("nan")), ("color_jitter", "hue", 2),
          ("enlarge_crop", "scale", 0), ("color_matrix", "contrast", True))),
    (Transform("horizontal_flip", "often"), "p = 'often' must be between 0 and 1"),
    (Transform("horizontal_flip", float("nan")), "between 0 and 1"),
])
def test_invalid_steps_are_rejected(step, message):
    with pytest.raises(CourseError, match=message):
        augmented([step])


@pytest.mark.parametrize("engine", ["torch", "albumentations", "torchvision"])
def test_a_hole_larger_than_the_image_is_refused_before_training(engine):
    steps = [Transform("resize", 1.0, {"size": 24}), Transform("coarse_dropout", 0.5, {"size": 25})]
    for settings in ({"augmentation": steps}, {"expansion": [Transform("coarse_dropout", 1.0, {"size": 40})]}):
        with pytest.raises(CourseError, match=r"coarse_dropout size .*: larger than the image"):
            BatchLoader(IMAGES, np.zeros(len(IMAGES), np.int64), 8, MEAN, STD, engine=engine, **settings)
    BatchLoader(IMAGES, np.zeros(len(IMAGES), np.int64), 8, MEAN, STD, engine=engine, augmentation=steps[::-1])


def test_an_expansion_that_changes_the_size_is_rejected():
    with pytest.raises(CourseError, match="expansion"):
        pipeline.BatchAugment((), MEAN, STD, [Transform("random_resized_crop", 1.0, {"size": 48})])


def test_magnification():
    """A resize by its ratio; rotation, flip and color not at all; a crop as defined."""
    keys = pipeline.image_keys(0, 1, torch.arange(40_000))
    steps = [Transform("affine", 1.0, {"rotate": 45}), Transform("horizontal_flip", 0.5), Transform("to_gray", 0.5)]
    resized = pipeline.BatchAugment([*steps, Transform("resize", 1.0, {"size": 120})], MEAN, STD)
    torch.testing.assert_close(resized.magnification(keys[:9], 96), torch.full((9,), 1.25))
    assert (resized.output_size(96), pipeline.BatchAugment(steps, MEAN, STD).output_size(96)) == (120, 96)
    crop = pipeline.BatchAugment([*steps, Transform("random_resized_crop", 1.0, {"size": 80})], MEAN, STD)
    factors, expected = crop.magnification(keys, 96), 80 / np.sqrt(defined_crops(96, 40_000)[:, :2].prod(1))
    assert float(factors.mean()) == pytest.approx(expected.mean(), rel=0.01)
    assert float(factors.std()) == pytest.approx(expected.std(), rel=0.02)
