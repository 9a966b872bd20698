"""GTSRB from the Kaggle folder and from the benchmark's archives: the same arrays, and damage named by its file."""
import csv
import dataclasses
import hashlib
import io
import zipfile

import numpy as np
import pytest
from helpers import change_dataset
from PIL import Image

from course_utils.data import DATASETS
from course_utils.data.prepare import open_prepared, prepare
from course_utils.errors import CourseError

COLUMNS = ["Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"]
CLASSES = (20, *(k for k in range(43) if k != 20))  # in the order of Kaggle's Train.csv
TRAIN = [(label, track, frame) for label in CLASSES for track in range(2) for frame in range(2)]
TEST = [(7 * k) % 43 for k in range(43)]  # labels


def image(number):
    """Not square, larger than 32 pixels, different for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (40 + number % 7, 37, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ppm(number):
    image(number).save(buffer := io.BytesIO(), "ppm")
    return buffer.getvalue()


def write_kaggle_folder(folder):
    rows = {"Train": [(f"Train/{label}/{label:05d}_{track:05d}_{frame:05d}.png", label, number)
                      for number, (label, track, frame) in enumerate(TRAIN)],
            "Test": [(f"Test/{k:05d}.png", label, 1000 + k) for k, label in enumerate(TEST)]}
    for split, files in rows.items():
        (folder / split).mkdir(parents=True)
        with (folder / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow([*COLUMNS, "Path"])
            for path, label, number in files:
                (folder / path).parent.mkdir(exist_ok=True)
                image(number).save(folder / path)
                table.writerow([37, 40, 5, 5, 30, 30, label, path])
    return folder


def write_archives(folder):
    """The three archives; returns them with their MD5."""
    header, archives = ";".join(["Filename", *COLUMNS]), DATASETS["gtsrb"].archives
    folder.mkdir(exist_ok=True)
    files = [folder / archive.name for archive in archives]
    with zipfile.ZipFile(files[0], "w") as train:
        for label in CLASSES:
            home, lines = f"GTSRB/Final_Training/Images/{label:05d}", [header]
            for number, (own, track, frame) in enumerate(TRAIN):
                if own == label:
                    name = f"{track:05d}_{frame:05d}.ppm"
                    train.writestr(f"{home}/{name}", ppm(number))
                    lines.append(f"{name};37;40;5;5;30;30;{label}")
            train.writestr(f"{home}/GT-{label:05d}.csv", "\r\n".join(lines))
    with zipfile.ZipFile(files[1], "w") as test, zipfile.ZipFile(files[2], "w") as truth:
        for k in range(43):
            test.writestr(f"GTSRB/Final_Test/Images/{k:05d}.ppm", ppm(1000 + k))
        lines = [f"{k:05d}.ppm;37;40;5;5;30;30;{label}" for k, label in enumerate(TEST)]
        truth.writestr("GT-final_test.csv", "\r\n".join([header, *lines]))
    return with_md5(folder)


def with_md5(folder):
    return tuple(dataclasses.replace(archive, mirrors=(), md5=hashlib.md5((folder / archive.name).read_bytes())
                                     .hexdigest()) for archive in DATASETS["gtsrb"].archives)


def use(monkeypatch, **changes):
    change_dataset(monkeypatch, "gtsrb", counts={"train": len(TRAIN), "test": 43}, **changes)


def prepared(root):
    prepare("gtsrb", root, log=lambda _: None)
    return open_prepared("gtsrb", root)


def test_the_kaggle_folder_and_the_archives_give_the_same_arrays(tmp_path, monkeypatch):
    write_kaggle_folder(tmp_path / "kaggle" / "gtsrb")
    use(monkeypatch)
    arrays, meta = prepared(tmp_path / "kaggle")
    assert meta["classes"][14] == "stop" and len(meta["classes"]) == 43 and "Train.csv" in meta["source"]
    assert arrays["train_labels"][:5].tolist() == [20, 20, 20, 20, 0] and arrays["test_labels"].tolist() == TEST
    assert arrays["train_tracks"][:6].tolist() == [40, 40, 41, 41, 0, 0]  # two tracks per class, over all classes
    expected = np.asarray(image(5).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(arrays["train_images"][5], expected)
    right = write_archives(tmp_path / "archives")
    with pytest.raises(CourseError, match="MD5"):
        prepared(tmp_path / "archives")
    use(monkeypatch, archives=right)
    assert prepared(tmp_path / "archives")[1]["sha256"] == meta["sha256"]


def replace_in(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(("damage", "message"), [
    (lambda f: (f / "Train" / "7").rename(f / "Train" / "seven"), r"Train/7/.*\.png cannot be read as an image"),
    (lambda f: (f / "Train" / "7" / "00007_00001_00000.png").write_bytes(b"\x89PNG"), r"00007_00001_00000\.png cannot"),
    (lambda f: (f / "Test" / "00003.png").write_bytes((f / "Test" / "00003.png").read_bytes()[:900]), r"00003.*trunc"),
    (lambda f: (f / "Test" / "00003.png").unlink(), r"00003\.png cannot be read"),
    (lambda f: Image.new("1", (30_000, 30_000)).save(f / "Test" / "00003.png"), r"00003\.png .*decompression bomb"),
    (lambda f: replace_in(f / "Train.csv", ",20,", ",43,"), r"train_labels must be in 0\.\.42"),
    (lambda f: replace_in(f / "Train.csv", ",20,", ",-1,"), r"train_labels must be in 0\.\.42"),
    (lambda f: replace_in(f / "Train.csv", ",20,", ",stop,"), "not the published files"),
    (lambda f: replace_in(f / "Train.csv", "00020_00000_00000", "sign"), "sign.png cannot be read"),
    (lambda f: (f / "Test.csv").unlink(), r"not the published files.*Test\.csv"),
    (lambda f: replace_in(f / "Test.csv", "37,40", "37"), "not the published files"),
    (lambda f: Image.fromarray(np.full((40, 40), 30_000, np.uint16)).save(f / "Test" / "00003.png"),
     r"00003\.png cannot be read .*mode I;16, not 8 bits"),
])
def test_a_damaged_kaggle_folder_is_rejected(tmp_path, monkeypatch, damage, message):
    use(monkeypatch)
    folder = write_kaggle_folder(tmp_path / "gtsrb")
    damage(folder)
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(CourseError, match=message):
        prepare("gtsrb", tmp_path, log=lambda _: None)
    assert {path.name for path in folder.iterdir()} == before  # no partial files


@pytest.mark.parametrize("coding", ["utf-16", "utf-8-sig", "cr", "semicolons", "backslashes"])
def test_tables_as_spreadsheets_save_them_and_files_of_systems_are_read(tmp_path, monkeypatch, coding):
    use(monkeypatch)
    before = prepared(write_kaggle_folder(tmp_path / "plain" / "gtsrb").parent)[1]
    folder = write_kaggle_folder(tmp_path / coding / "gtsrb")
    for name in ("Train.csv", "Test.csv"):
        text = (folder / name).read_text()
        changed = {"cr": ("\n", "\r"), "semicolons": (",", ";"), "backslashes": ("/", "\\")}.get(coding)
        (folder / name).write_bytes(text.replace(*changed).encode() if changed else text.encode(coding))
    for path in (".ipynb_checkpoints", "Train/.ipynb_checkpoints", "Train/7/.ipynb_checkpoints"):
        (folder / path).mkdir()
    for path in ("Train/.DS_Store", "Train/7/._00007_00000_00000.png", "Train/Thumbs.db", "Test/desktop.ini"):
        (folder / path).write_bytes(b"?")
    assert prepared(folder.parent)[1]["sha256"] == before["sha256"]


@pytest.mark.parametrize("misplaced", ["archive", "gtsrb/archive", "gtsrb/GTSRB", "small letters"])
def test_files_that_lie_elsewhere_are_named_before_anything_is_downloaded(tmp_path, monkeypatch, misplaced):
    use(monkeypatch, archives=tuple(dataclasses.replace(archive, mirrors=()) for archive in DATASETS["gtsrb"].archives))
    if misplaced == "small letters":
        folder = write_kaggle_folder(tmp_path / "gtsrb")
        for path in [*folder.iterdir()]:
            path.rename(path.with_name(path.name.lower()))
    else:
        write_kaggle_folder(tmp_path / misplaced)
    with pytest.raises(CourseError, match=r"(?i)train\.csv looks like gtsrb: move it.*nothing was downloaded"):
        prepare("gtsrb", tmp_path, log=lambda _: None)


def test_of_torchvisions_folder_the_test_archives_are_used(tmp_path, monkeypatch):
    use(monkeypatch, archives=write_archives(tmp_path / "all"))
    expected, messages = prepared(tmp_path / "all")[1]["sha256"], []
    folder = tmp_path / "torchvision" / "gtsrb"
    (folder / "GTSRB" / "Training").mkdir(parents=True)
    train, *test = (archive.name for archive in DATASETS["gtsrb"].archives)
    for name in test:
        (tmp_path / "all" / name).rename(folder / name)
    with pytest.raises(CourseError, match=rf"Download {train}"):  # of it alone, from no mirror here
        prepare("gtsrb", folder.parent, messages.append)
    assert "26,640 training images are those of another competition" in " ".join(messages)
    (tmp_path / "all" / train).rename(folder.parent / train)
    assert prepared(folder.parent)[1]["sha256"] == expected


@pytest.mark.parametrize("member", ["Final_Test/Images/00003.ppm", "Final_Training/Images/00012/GT-00012.csv"])
def test_an_archive_without_a_member_is_rejected(tmp_path, monkeypatch, member):
    write_archives(tmp_path)
    for archive in DATASETS["gtsrb"].archives:
        with zipfile.ZipFile(tmp_path / archive.name) as whole:
            files = {name: whole.read(name) for name in whole.namelist() if not name.endswith(member)}
        with zipfile.ZipFile(tmp_path / archive.name, "w") as cut:
            for name, content in files.items():
                cut.writestr(name, content)
    use(monkeypatch, archives=with_md5(tmp_path))
    with pytest.raises(CourseError, match=member.rsplit("/", 1)[1]):
        prepare("gtsrb", tmp_path, log=lambda _: None)
    assert not (tmp_path / "gtsrb").exists()
