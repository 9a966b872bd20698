"""A data set of the reader's own: folders of pictures."""
import json
import shutil

import numpy as np
import pytest
from helpers import finished_record
from PIL import Image

from course_utils.data import DATASETS, load_dataset, open_dataset
from course_utils.data.own import prepare_folder
from course_utils.data.prepare import prepare as prepare_published
from course_utils.errors import CourseError
from course_utils.reporting.readme import publish
from course_utils.reporting.record import is_published_data, write_record
from course_utils.reporting.run_folder import run_name
from course_utils.variants import load_experiment


def write_pictures(home, classes=("iris", "rose", "tulip"), count=10, size=(50, 40), seed=0):
    rng = np.random.default_rng(seed)
    for name in classes:
        (home / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / name / f"{number}.png")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def prepare(source, name="flowers"):
    lines = []
    prepare_folder(name, source, log=lines.append)
    return " ".join(lines)


def test_a_folder_of_classes_is_split_and_described(root, tmp_path):
    write_pictures(tmp_path / "in")
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / "rose" / "Thumbs.db").write_text("no picture")
    (tmp_path / "in" / ".cache").mkdir()
    assert "3 classes, 24 train, 6 test, 40x40 pixels" in prepare(tmp_path / "in")
    data = open_dataset("flowers")
    assert data.classes == ("iris", "rose", "tulip") and not data.is_synthetic
    assert np.bincount(data.train_labels).tolist() == [8, 8, 8] and np.bincount(data.test_labels).tolist() == [2, 2, 2]
    assert data.train_images.shape == (24, 40, 40, 3)
    np.testing.assert_allclose(data.mean, data.train_images.mean((0, 1, 2)) / 255, atol=1e-9)
    np.testing.assert_allclose(data.std, data.train_images.std((0, 1, 2)) / 255, atol=1e-9)
    assert data.title.startswith("flowers (own data, ")


def test_the_split_depends_on_the_pixels_alone(root, tmp_path):
    write_pictures(tmp_path / "in")
    write_pictures(tmp_path / "again")
    for number, path in enumerate(sorted((tmp_path / "again" / "rose").iterdir(), reverse=True)):
        path.rename(path.with_name(f"x{number}.png"))
    prepare(tmp_path / "in")
    prepare(tmp_path / "again", "again")
    for part in ("train_images", "test_images"):
        one, other = ({image.tobytes() for image in getattr(open_dataset(name), part)} for name in ("flowers", "again"))
        assert one == other


def test_equal_pictures_are_never_on_both_sides(root, tmp_path):
    write_pictures(tmp_path / "in")
    for path in list((tmp_path / "in").glob("*/*.png")):
        (path.parent / "copies").mkdir(exist_ok=True)
        (path.parent / "copies" / path.name).write_bytes(path.read_bytes())
    assert "Warning" not in prepare(tmp_path / "in")
    data = open_dataset("flowers")
    train, test = ({image.tobytes() for image in images} for images in (data.train_images, data.test_images))
    assert len(train) == 24 and len(test) == 6 and not train & test


def test_a_given_test_folder_is_kept_and_shared_pictures_are_named(root, tmp_path):
    write_pictures(tmp_path / "in" / "train")
    write_pictures(tmp_path / "in" / "val", count=4, seed=1)
    for number in range(4):
        shutil.copy(tmp_path / "in" / "train" / "rose" / f"{number}.png", tmp_path / "in" / "val" / "rose")
    assert "Warning: 4 pictures" in prepare(tmp_path / "in")
    assert len(open_dataset("flowers").test_labels) == 12


def test_names_of_splits_may_have_capitals_and_hidden_folders_are_no_data(root, tmp_path):
    write_pictures(tmp_path / "in" / "Training")
    write_pictures(tmp_path / "in" / "Test", count=4, seed=1)
    for hidden in (".thumbnails", "@eaDir", "__MACOSX"):
        shutil.copytree(tmp_path / "in" / "Training" / "rose", tmp_path / "in" / "Training" / "rose" / hidden)
    (tmp_path / "in" / "Training" / "rose" / "folder.png").mkdir()
    shutil.copytree(tmp_path / "in" / "Training" / "rose", tmp_path / "in" / "Training" / "_other")
    shutil.copytree(tmp_path / "in" / "Test" / "rose", tmp_path / "in" / "Test" / "_other")
    prepare(tmp_path / "in")
    counts = np.bincount(open_dataset("flowers").train_labels)
    assert len(counts) == 4 and len(set(counts.tolist())) == 1 and len(open_dataset("flowers").test_labels) == 16


def test_a_meta_file_of_another_program_is_no_data_set(root, tmp_path):
    for name, text in (("other", "5"), ("more", '{"mean": 1}'), ("list", "[]")):
        (root / name).mkdir(parents=True)
        (root / name / "meta.json").write_text(text)
        with pytest.raises(CourseError, match=f"Unknown data set: '{name}'.*Legal: cifar10, gtsrb, stl10"):
            load_experiment("gtsrb_stn", dataset=name) and open_dataset(name)
    write_pictures(tmp_path / "in")
    prepare(tmp_path / "in")
    with pytest.raises(CourseError, match="Unknown data set to download: 'flowers'"):
        prepare_published("flowers", tmp_path / "elsewhere", lambda _: None)


def test_pictures_become_squares_upright_and_of_the_median_size(root, tmp_path):
    for name, color in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(5):
            image = Image.new("RGB", (400, 300), color)
            image.paste((0, 255, 0), (0, 0, 400, 100))  # the upper third, after the rotation that EXIF asks for
            exif = Image.Exif()
            exif[0x0112] = 3  # upside down
            image.paste((9, 9, 9), (180, 200, 190 + 10 * number, 210))  # five different pictures
            image.rotate(180).save(tmp_path / "in" / name / f"{number}.png", exif=exif)
    prepare(tmp_path / "in")
    image = open_dataset("flowers").train_images[0]
    assert image.shape == (96, 96, 3)
    assert image[10, 48].tolist() == [0, 255, 0] and image[80, 48].tolist() == [0, 0, 200]


@pytest.mark.parametrize(("assignment", "variant", "size"), [
    ("gtsrb_stn", "lenet", 32), ("cifar10_custom_resnet", "published", 32), ("stl10_versions", "2.5", 96)])
@pytest.mark.parametrize("profile", ["smoke", "mini", "full"])
def test_any_variant_takes_it(root, tmp_path, assignment, variant, size, profile):
    write_pictures(tmp_path / "in")
    prepare(tmp_path / "in")
    exp = load_experiment(assignment, variant, profile, dataset="flowers")
    assert exp.data == "real" and exp.split == "random"
    data = load_dataset(exp)
    assert data.train_images.shape == (24, size, size, 3) and data.train_images.dtype == np.uint8
    assert "flowers" in run_name(exp) and "synthetic" not in run_name(exp)
    assert run_name(exp) != run_name(load_experiment(assignment, variant, profile))


def test_a_result_on_it_is_never_published(root, tmp_path):
    write_pictures(tmp_path / "in")
    prepare(tmp_path / "in")
    record = finished_record()
    record["experiment"]["dataset"] = "flowers"
    record["data"] = {"title": "flowers", "sha256": dict(DATASETS["flowers"].sha256)}
    assert not is_published_data(record)
    write_record(record, tmp_path)
    with pytest.raises(CourseError, match="not a result"):
        publish(tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "Flowers", "my flowers", "../flowers", ""])
def test_names_that_are_refused(root, tmp_path, name):
    write_pictures(tmp_path / "in")
    with pytest.raises(CourseError, match="cannot be the name"):
        prepare_folder(name, tmp_path / "in")


def test_what_is_no_such_folder(root, tmp_path):
    with pytest.raises(CourseError, match=r"There is no folder .*nowhere"):
        prepare(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CourseError, match=r"at least two classes.*Found: none"):
        prepare(tmp_path / "empty")
    write_pictures(tmp_path / "half" / "Val")
    write_pictures(tmp_path / "half" / "test")
    with pytest.raises(CourseError, match=r"half has .*, but no folder train"):
        prepare(tmp_path / "half")
    write_pictures(tmp_path / "one", ["rose"])
    with pytest.raises(CourseError, match="Found: rose"):
        prepare(tmp_path / "one")
    write_pictures(tmp_path / "heic")
    (tmp_path / "heic" / "lily").mkdir()
    (tmp_path / "heic" / "lily" / "1.heic").write_bytes(b"a format of telephones")
    with pytest.raises(CourseError, match="lily holds no pictures"):
        prepare(tmp_path / "heic")
    write_pictures(tmp_path / "few", count=1)
    with pytest.raises(CourseError, match="'iris' has no train images"):
        prepare(tmp_path / "few")
    write_pictures(tmp_path / "other" / "train")
    write_pictures(tmp_path / "other" / "test", ["rose", "lily"])
    with pytest.raises(CourseError, match="test: lily, rose"):
        prepare(tmp_path / "other")
    write_pictures(tmp_path / "broken")
    (tmp_path / "broken" / "rose" / "3.png").write_bytes(b"no picture")
    with pytest.raises(CourseError, match=r"3\.png cannot be read as a picture"):
        prepare(tmp_path / "broken")
    assert not root.exists()  # nothing is left half-prepared


def test_it_is_prepared_once_and_an_edit_is_noticed(root, tmp_path):
    write_pictures(tmp_path / "in")
    prepare(tmp_path / "in")
    with pytest.raises(CourseError, match="prepared already"):
        prepare(tmp_path / "in")
    np.save(root / "flowers" / "test_labels.npy", np.zeros(6, np.int64))
    with pytest.raises(CourseError, match="SHA-256 differs"):
        open_dataset("flowers")
    with pytest.raises(CourseError, match=r"Unknown data set: 'flower'.*cifar10, flowers, gtsrb"):
        open_dataset("flower")
    assert "mean" in json.loads((root / "flowers" / "meta.json").read_text())
