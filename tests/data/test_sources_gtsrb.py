"""GTSRB from the Kaggle folder and from the benchmark's archives: the same arrays, and faults named by their file."""
import csv
import dataclasses
import hashlib
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from course_utils.data import prepare as acquire, sources
from course_utils.errors import CourseError

SOURCE = sources.SOURCES["gtsrb"]
COLUMNS = ["Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"]
CLASSES = (20, *(k for k in range(43) if k != 20))  # in the order of Kaggle's Train.csv
TRACKS, FRAMES = 2, 2
COUNTS = {"train": 43 * TRACKS * FRAMES, "test": 43}


def picture(number):
    """Not square, larger than 32 pixels, different for every number."""
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (40 + number % 7, 37, 3), dtype=np.uint8))


def train_files():
    """(label, track, frame, number) in the order of the published table."""
    each = [(label, track, frame) for label in CLASSES for track in range(TRACKS) for frame in range(FRAMES)]
    return [(*file, number) for number, file in enumerate(each)]


def kaggle(folder):
    rows = {"Train": [], "Test": []}
    for label, track, frame, number in train_files():
        rows["Train"].append((f"Train/{label}/{label:05d}_{track:05d}_{frame:05d}.png", label, number))
    rows["Test"] = [(f"Test/{k:05d}.png", (7 * k) % 43, 1000 + k) for k in range(43)]
    for split, files in rows.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow([*COLUMNS, "Path"])
            for path, label, number in files:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                picture(number).save(folder / path)
                table.writerow([37, 40, 5, 5, 30, 30, label, path])


def archives(folder):
    def ppm(number):
        buffer = io.BytesIO()
        picture(number).save(buffer, "ppm")
        return buffer.getvalue()

    names = [archive.name for archive in SOURCE.archives]
    with zipfile.ZipFile(folder / names[0], "w") as train:
        for label in CLASSES:
            lines = [";".join(["Filename", *COLUMNS])]
            for own, track, frame, number in train_files():
                if own == label:
                    name = f"{track:05d}_{frame:05d}.ppm"
                    train.writestr(f"GTSRB/Final_Training/Images/{label:05d}/{name}", ppm(number))
                    lines.append(f"{name};37;40;5;5;30;30;{label}")
            train.writestr(f"GTSRB/Final_Training/Images/{label:05d}/GT-{label:05d}.csv", "\r\n".join(lines))
    with zipfile.ZipFile(folder / names[1], "w") as test, zipfile.ZipFile(folder / names[2], "w") as truth:
        lines = [";".join(["Filename", *COLUMNS])]
        for k in range(43):
            test.writestr(f"GTSRB/Final_Test/Images/{k:05d}.ppm", ppm(1000 + k))
            lines.append(f"{k:05d}.ppm;37;40;5;5;30;30;{(7 * k) % 43}")
        truth.writestr("GT-final_test.csv", "\r\n".join(lines))
    return tuple(dataclasses.replace(archive, mirrors=(), md5=hashlib.md5((folder / archive.name).read_bytes())
                                     .hexdigest()) for archive in SOURCE.archives)


@pytest.fixture
def small(monkeypatch):
    """GTSRB's source with few images and no mirrors."""
    few = tuple(dataclasses.replace(archive, mirrors=()) for archive in SOURCE.archives)
    monkeypatch.setitem(acquire.SOURCES, "gtsrb", dataclasses.replace(SOURCE, counts=COUNTS, archives=few))


def prepared(root):
    acquire.prepare("gtsrb", root, log=lambda _: None)
    return acquire.open_prepared("gtsrb", root)


def test_the_kaggle_folder(tmp_path, small):
    (tmp_path / "gtsrb").mkdir()
    kaggle(tmp_path / "gtsrb")
    arrays, meta = prepared(tmp_path)
    assert meta["classes"][14] == "stop" and len(meta["classes"]) == 43 and "Kaggle folder" in meta["source"]
    assert arrays["train_labels"][:5].tolist() == [20, 20, 20, 20, 0]
    assert arrays["train_tracks"][:6].tolist() == [40, 40, 41, 41, 0, 0]  # two tracks a class, over all classes
    expected = np.asarray(picture(5).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(arrays["train_images"][5], expected)
    assert np.array_equal(arrays["test_labels"], 7 * np.arange(43) % 43)


def test_the_archives_give_the_same_arrays(tmp_path, small, monkeypatch):
    for name in ("kaggle", "archives"):
        (tmp_path / name).mkdir()
    kaggle(tmp_path / "kaggle")
    with pytest.raises(CourseError, match=r"(?s)gtsrb/Train\.csv.*GTSRB_Final_Test_GT\.zip.*by hand"):
        prepared(tmp_path / "archives")
    right = archives(tmp_path / "archives")
    with pytest.raises(CourseError, match="MD5"):
        prepared(tmp_path / "archives")
    monkeypatch.setitem(acquire.SOURCES, "gtsrb", dataclasses.replace(SOURCE, counts=COUNTS, archives=right))
    assert prepared(tmp_path / "archives")[1]["sha256"] == prepared(tmp_path / "kaggle")[1]["sha256"]


def replace_in(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(("harm", "said"), [
    (lambda f: (f / "Train" / "7").rename(f / "Train" / "seven"), r"missing \['7'\], too many \['seven'\]"),
    (lambda f: (f / "Train" / "43").mkdir(), r"missing \[\], too many \['43'\]"),
    (lambda f: (f / "Train" / "7" / "00007_00001_00000.png").write_bytes(b"\x89PNG"), r"00007_00001_00000\.png cannot"),
    (lambda f: (f / "Test" / "00003.png").write_bytes((f / "Test" / "00003.png").read_bytes()[:900]), "truncated"),
    (lambda f: (f / "Test" / "00003.png").unlink(), r"Test\.csv names .*00003\.png, which is not there"),
    (lambda f: replace_in(f / "Train.csv", ",20,", ",43,"), r"Train\.csv, line 2: ClassId 43 .*outside 0\.\.42"),
    (lambda f: replace_in(f / "Train.csv", ",20,", ",-1,"), "outside"),
    (lambda f: replace_in(f / "Train.csv", ",20,", ",stop,"), "line 2"),
    (lambda f: replace_in(f / "Test.csv", "Test/00002.png", "../Test/00002.png"), "outside .* refused"),
    (lambda f: (f / "Test.csv").unlink(), r"Test\.csv cannot be read"),
    (lambda f: replace_in(f / "Test.csv", "00002.png", "00001.png") or replace_in(f / "Test.csv", "37,40", "37"),
     "line 2"),
])
def test_a_faulty_kaggle_folder_is_refused(tmp_path, small, harm, said):
    home = tmp_path / "gtsrb"
    home.mkdir()
    kaggle(home)
    before = {path.name for path in home.iterdir()}
    harm(home)
    before = {path.name for path in home.iterdir()}
    with pytest.raises(CourseError, match=said):
        acquire.prepare("gtsrb", tmp_path)
    assert {path.name for path in home.iterdir()} == before  # nothing half-prepared stays behind


@pytest.mark.parametrize("member", ["Final_Test/Images/00003.ppm", "Final_Training/Images/00012/GT-00012.csv"])
def test_an_archive_that_lacks_a_member_is_refused(tmp_path, small, monkeypatch, member):
    right = archives(tmp_path)
    for archive in right:
        with zipfile.ZipFile(tmp_path / archive.name) as whole:
            files = {name: whole.read(name) for name in whole.namelist() if not name.endswith(member)}
        with zipfile.ZipFile(tmp_path / archive.name, "w") as cut:
            for name, content in files.items():
                cut.writestr(name, content)
    now = tuple(dataclasses.replace(a, md5=hashlib.md5((tmp_path / a.name).read_bytes()).hexdigest()) for a in right)
    monkeypatch.setitem(acquire.SOURCES, "gtsrb", dataclasses.replace(SOURCE, counts=COUNTS, archives=now))
    with pytest.raises(CourseError, match=member.rsplit("/", 1)[1]):
        acquire.prepare("gtsrb", tmp_path)
    assert not (tmp_path / "gtsrb").exists()
