"""The kit for a machine without internet: data and results arrive as they were sent, and files are compared."""
import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.gpu_machine import machine, pack
from course_utils.data.prepare import open_prepared, write_prepared


@pytest.fixture
def there(tmp_path, monkeypatch):
    home = tmp_path / "home"
    for name, path in {"HOME": home, "OUTPUTS": home / "outputs", "DATA": home / "data", "LOG": home / "log"}.items():
        monkeypatch.setattr(machine, name, path)
    (tmp_path / "here").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path / "here")
    return home


def test_a_data_set_arrives_byte_for_byte(tmp_path, there):
    rng = np.random.default_rng(0)
    arrays = {"train_tracks": np.arange(7)}
    for split, count in (("train", 7), ("test", 3)):
        arrays |= {f"{split}_images": rng.integers(0, 256, (count, 32, 32, 3), np.uint8),
                   f"{split}_labels": rng.integers(0, 2, count)}
    write_prepared(tmp_path / "data" / "tiny", arrays, ("a", "b"), "nowhere")
    files = list(pack._dataset(tmp_path / "data" / "tiny"))
    for number, some in enumerate((files[:2], files[2:])):  # in two parts
        assert not (there / "data" / "tiny" / "meta.json").exists()
        folder = tmp_path / f"part{number}"
        folder.mkdir()
        for name, content in some:
            (folder / name).write_bytes(content)
        machine.unpack(folder)
    found, meta = open_prepared("tiny", there / "data")
    assert meta == json.loads((tmp_path / "data" / "tiny" / "meta.json").read_text())
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array)


def test_finished_and_unfinished_runs_come_back(tmp_path, there):
    for name, state in (("done", "done"), ("half", "running")):
        folder = there / "outputs" / "assignment" / name
        (folder / "figures").mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps({"state": state}))
        for file in ("record.json", "01.ipynb", "figures/curves.png", "epoch-0001-aa.pt", "epoch-0002-bb.pt"):
            (folder / file).write_bytes(name.encode())
    machine.collect()
    machine.collect(unfinished=True)
    pack.take(tmp_path / "out")
    found = sorted(str(path.relative_to("outputs/assignment")) for path in pack.Path("outputs").rglob("*.*"))
    assert found == ["done/01.ipynb", "done/figures/curves.png", "done/record.json", "done/status.json",
                     "half/epoch-0002-bb.pt"]
    archive = next((tmp_path / "out").glob("*.xz"))
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(SystemExit, match="damaged"):
        pack.take(tmp_path / "out")


def test_a_queue_runs_what_has_its_data_and_enough_time(tmp_path, there, monkeypatch, capsys):
    (there / "data" / "here").mkdir(parents=True)
    (there / "data" / "here" / "meta.json").touch()
    (there / "began").write_text(str(machine.time.time()))
    touch = ["-c", "import sys, pathlib; pathlib.Path(sys.argv[1]).touch()"]
    jobs = [{"command": [*touch, str(tmp_path / name)], "data": data, "minutes": minutes}
            for name, data, minutes in (("one", "here", 0.1), ("two", "", 0.1), ("long", "here", 99))]
    pack.Path("queue.json").write_text(json.dumps({"seconds": 60, "groups": [{"width": 2, "jobs": jobs}]}))
    pack.Path("commit").write_text("0123456789")
    machine.queue()
    assert (tmp_path / "one").exists() and (tmp_path / "two").exists() and not (tmp_path / "long").exists()
    assert "END OF QUEUE 0123456" in capsys.readouterr().out


def test_packing_shrinks_the_work_tree_and_restoring_undoes_it(tmp_path, there, monkeypatch):
    def git(*arguments):
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout

    notebook = {"cells": [{"cell_type": "code", "source": [], "outputs": [{"x": 1}], "execution_count": 3}]}
    for path, text in {"images/a.png": "image", "assignments/a/runs/r.ipynb": "run", "code.py": "pass\n",
                       "notebooks/n.ipynb": json.dumps(notebook)}.items():
        pack.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pack.Path(path).write_text(text)
    pack.Path("../queue.json").write_text("{}")
    git("init", "-q")
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "all")
    pack.Path(".pack/base").mkdir(parents=True)
    pack.Path(".pack/base/x.whl").touch()  # nothing is downloaded
    pack.Path(".pack/part1").mkdir()
    pack.pack(pack.Path("../queue.json"), tmp_path, "3.12")
    assert not pack.Path("images/a.png").exists() and git("status", "--porcelain") == ""
    manifest = json.loads(pack.Path(".pack/base/manifest.json").read_text())
    assert sorted(manifest["files"]) == ["code.py", "notebooks/n.ipynb"]
    assert json.loads(pack.Path("notebooks/n.ipynb").read_text())["cells"][0]["outputs"] == []
    pack.restore()
    assert pack.Path("images/a.png").read_text() == "image" and git("status", "--porcelain") == ""
    pack.Path("code.py").write_text("changed")
    with pytest.raises(SystemExit, match="Commit first"):
        pack.pack(pack.Path("../queue.json"), tmp_path, "3.12")


def test_the_machine_s_commands_need_nothing_but_the_tree():
    """``start`` is called before anything is installed there."""
    subprocess.run([sys.executable, "-S", "-c", "import benchmarks.gpu_machine.machine"], check=True,
                   cwd=pack.HOME.parents[1])
