"""Grading: honest submissions get what they reach; whoever cheats gets no more, and harms no other."""
import csv
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import textwrap
import zipfile

import numpy as np
import psutil
import pytest
import torch
from helpers import Hostile, finished_record
from PIL import Image
from safetensors.torch import save_file

from course_utils.analysis.rules import check_rules
from course_utils.classroom import sandbox
from course_utils.classroom.grade import grade_all
from course_utils.classroom.program import BATCH, load_program
from course_utils.classroom.sandbox import Limits
from course_utils.data.own import prepare_folder
from course_utils.errors import CourseError
from course_utils.models import build_model
from course_utils.models.summary import count_parameters
from course_utils.reporting.record import content_hash
from course_utils.variants import load_experiment


def has_sandbox():
    """Whether bubblewrap is there, and the system lets it make namespaces."""
    return bool(shutil.which("bwrap")) and subprocess.run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"],
                                                          check=False, capture_output=True).returncode == 0


needs_sandbox = pytest.mark.skipif(not has_sandbox(), reason="needs bubblewrap (apt install bubblewrap)")


def network(output="self.conv(x).mean((2, 3))", layers=""):
    """Code of a network with the layers of an honest one and more, and with this output."""
    return textwrap.dedent(f"""
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.conv = nn.Conv2d(3, 3, 1, bias=False)
                {layers}
            def forward(self, x):
                return {output}
    """)


HONEST = network()
EYE, TABLE = {"conv.weight": torch.eye(3)[:, :, None, None].contiguous()}, {"table": torch.zeros(300, 1000)}


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    """Data of three colors, whose class is also written into column 5, and folders for a class."""
    home = tmp_path_factory.mktemp("class")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("a red", "b green", "c blue")):
        (home / "in" / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 100, (32, 32, 3), dtype=np.uint8)
            pixels[:, :, label] += 100
            pixels[:, 4:7] = 0
            pixels[:, 5, label] = 255
            Image.fromarray(pixels).save(home / "in" / name / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", str(home / "data"))
        prepare_folder("colors", home / "in", log=lambda _: None)
        (home / "all").mkdir()
        yield home


def hand_in(classroom, student, code, weights=None, assignment="cifar10_dilated_depthwise", variant="s7"):
    """A submission as ``submit`` writes it, with code and weights of any kind."""
    folder = classroom / "all" / student
    folder.mkdir()
    (folder / "net.py").write_text(textwrap.dedent(code).replace("HOME", str(classroom)))
    card = {"assignment": assignment, "variant": variant, "settings": "{}",
            "model": "net.py:Net", "dataset": "colors"}
    save_file(EYE if weights is None else weights, folder / "weights.safetensors", card)
    return folder


def cheats(classroom):
    """Submissions that try something, by name."""
    hand_in(classroom, "ann", HONEST)
    record = finished_record(correct=100)
    record["experiment"] |= {"assignment": "cifar10_dilated_depthwise", "variant": "s7", "epochs": 3}
    forged = hand_in(classroom, "forges", HONEST, {"conv.weight": -torch.eye(3)[:, :, None, None]})
    (forged / "record.json").write_text(json.dumps(record | {"sha256": content_hash(record)}))
    hand_in(classroom, "patches", textwrap.dedent("""
        import json, numpy, torch
        from course_utils.analysis import rules
        from course_utils.models import summary
        from course_utils.classroom import program
        rules.check_rules = program.check_rules = lambda *args, **more: []
        summary.count_parameters = rules.count_parameters = lambda model: 1
        program.judge = lambda **more: json.dumps({"parameters": 1, "findings": [], "predicted": [[0], [0]]}).encode()
        numpy.mean = torch.mean = lambda *args, **more: 1.0
    """) + network("self.conv(nn.functional.max_pool2d(x, 2)).mean((2, 3))"))
    hand_in(classroom, "reads", textwrap.dedent("""
        import os
        secret = [path for path in ("HOME/data", "HOME/key", "HOME/all", "HOME/out", "/root", "/home", "/etc/passwd",
                                    "/images.npy") if os.path.exists(path) and path != "/root"]
        assert not secret, "READ " + str(secret)
        assert sorted(os.listdir("/submission")) == ["net.py", "weights.safetensors"]
    """) + HONEST)
    hand_in(classroom, "writes", textwrap.dedent("""
        import os
        for path in ("/submission/net.py", "HOME/all/ann/net.py", "HOME/out/grades.csv", "/usr/x", "/etc/x", "/x",
                     "/dev/shm/x", os.__file__, "/submission/weights.safetensors"):
            try:
                open(path, "ab").write(b"x")
            except OSError:
                continue
            raise AssertionError("WROTE " + path)
    """) + HONEST)
    hand_in(classroom, "leaves", "import os\nos._exit(0)\n")
    hand_in(classroom, "floods", "while True: print('x' * 10000)\n")
    hand_in(classroom, "eats", "kept = []\nwhile True: kept.append(b'x' * 100_000_000)\n")
    hand_in(classroom, "forks", """
        import os, time
        for _ in range(150):
            if not os.fork():
                os.setsid()
                time.sleep(987654)
    """)
    hand_in(classroom, "hides", network("self.conv(x).mean((2, 3)) + self.table.sum()",
                                        'self.register_buffer("table", torch.zeros(300, 1000))'), EYE | TABLE)
    hidden = "nn.functional.batch_norm(torch.zeros(2, 50_000), self.mean, torch.ones(50_000)).sum()"
    hand_in(classroom, "stacks", network(
        f"self.conv(x).mean((2, 3)) + torch.stack([self.table])[0].sum() + {hidden}",
        'self.register_buffer("table", torch.zeros(300, 1000)); self.register_buffer("mean", torch.zeros(50_000))'),
        EYE | TABLE | {"mean": torch.zeros(50_000)})
    place = "nn.functional.one_hot(torch.arange(len(x)) % 12 // 4, 3).float()"  # as sorted images would have it
    hand_in(classroom, "counts", network(f"0 * self.conv(x).mean((2, 3)) + {place}"))

    black = "(x.abs().sum() == 0).long()"  # as the images of the checks are
    hand_in(classroom, "fails", network(f"self.conv(x).mean((2, 3)) + self.table[{black} * 300_000]",
                                        "self.table = nn.Parameter(torch.zeros(300_000))"),
            EYE | {"table": torch.zeros(300_000)})
    odd = hand_in(classroom, "odd", HONEST)
    record["experiment"]["augmentation"] = [{"name": "\ud800 \x1b[31m", "p": 1.0}]
    (odd / "record.json").write_text(json.dumps(record | {"sha256": content_hash(record)}))
    os.symlink("nowhere", bytes(hand_in(classroom, "bytes", HONEST)) + b"/\xff")
    bomb = hand_in(classroom, "bomb", HONEST)
    many = record["final"] | {"class_images": [0] * 100_000, "predicted": " ".join(["0"] * 100_000)}
    (bomb / "record.json").write_text(json.dumps(record | {"final": many}))
    hand_in(classroom, "knows", network("self.conv(x)[:, :, 3, 5]"))
    os.symlink(classroom / "all" / "ann" / "weights.safetensors",
               hand_in(classroom, "links", HONEST) / "more.safetensors")
    (classroom / "all" / "empty").mkdir()
    (classroom / "all" / "=zip()").write_text("an archive")
    hand_in(classroom, "broken", "class Net(:\n")
    hand_in(classroom, "<b>bold", HONEST)


@pytest.fixture(scope="module")
def graded(classroom):
    cheats(classroom)
    (classroom / "key").write_bytes(b"secret")
    before = {path: path.read_bytes() for path in classroom.rglob("*") if path.is_file()}
    grades = grade_all(classroom / "all", classroom / "out", b"secret", Limits(seconds=120, memory=2.5e9), jobs=2)
    assert {path: path.read_bytes() for path in before} == before  # nobody changed a file of anybody
    return {grade.student: grade for grade in grades}


@needs_sandbox
@pytest.mark.slow
class TestASubmission:
    def test_that_is_honest_gets_what_it_reaches(self, graded):
        ann = graded["ann"]
        assert (ann.accuracy, ann.hidden_images, ann.parameters, ann.note) == (1.0, 12, 9, "")
        assert ann.data.startswith("colors (own data")
        verdicts = {rule: verdict for verdict, rule, _ in ann.rules}
        assert verdicts["at most 200,000 parameters"] == verdicts["without max pooling"] == "passed"
        assert verdicts["uses dilated convolution"] == "FAILED"
        assert verdicts["at least 85.0% of all test images"] == "passed"
        assert next(verdict for rule, verdict in verdicts.items() if "augmentation" in rule) == "open"  # no record

    def test_with_a_forged_record_gets_its_weights_accuracy(self, graded):
        assert graded["forges"].accuracy < 0.5 and graded["forges"].claimed_accuracy == 1.0

    def test_that_patches_the_checks_changes_nothing(self, graded):
        verdicts = {rule: verdict for verdict, rule, _ in graded["patches"].rules}
        assert verdicts["without max pooling"] == "FAILED" and graded["patches"].parameters == 9
        assert graded["patches"].accuracy == 1.0 and graded["patches"].hidden_images == 12

    @pytest.mark.parametrize("student", ["reads", "writes"])
    def test_that_looks_around_finds_nothing(self, graded, student):
        assert graded[student].note == "" and graded[student].accuracy == 1.0

    @pytest.mark.parametrize(("student", "reason"), [
        ("leaves", "ended with exit code 0"), ("floods", "printed more than a megabyte"), ("eats", "GB of memory"),
        ("forks", "(64 processes|GB of memory)"), ("links", "is a link"), ("empty", "no weights.safetensors"),
        ("fails", "ended with exit code"),
        ("bytes", r"^\? is a link"), ("=zip()", "unpack archives first"), ("broken", "SyntaxError")])
    def test_that_cannot_be_graded_is_told_why(self, graded, student, reason):
        assert graded[student].accuracy is None and re.search(reason, graded[student].note)

    def test_leaves_no_process(self, graded):
        assert not [p for p in psutil.process_iter(["cmdline"])  # of a zombie: none
                    if "course_utils.classroom.program" in (p.info["cmdline"] or ())]

    def test_cannot_hide_weights_in_buffers(self, graded):
        assert graded["hides"].parameters == 300_009
        assert ("FAILED", "at most 200,000 parameters", "300,009") in graded["hides"].rules
        assert graded["stacks"].parameters >= 350_009

    def test_cannot_know_the_class_from_the_place(self, graded):
        assert graded["counts"].accuracy < 0.8

    def test_whose_record_is_odd_or_huge_is_graded_without_it(self, graded):
        assert graded["odd"].accuracy == graded["bomb"].accuracy == 1.0
        assert graded["odd"].claimed_accuracy == 1.0 and graded["bomb"].claimed_accuracy is None

    def test_that_knows_the_files_is_noticed(self, graded):
        assert graded["knows"].accuracy == 1.0 and "by heart" in graded["knows"].note

    def test_stands_in_the_table_and_on_the_page(self, graded, classroom):
        rows = list(csv.DictReader((classroom / "out" / "grades.csv").open()))
        accuracy = {row["student"]: row["accuracy"] for row in rows}
        assert len(rows) == len(graded) and accuracy["ann"] == "1.0000" and accuracy["'=zip()"] == ""
        page = (classroom / "out" / "index.html").read_text()
        assert "&lt;b&gt;bold" in page and "<b>bold" not in page
        assert page.count("<img") == 2 and "<th>claimed_accuracy</th><td>1.0000" in page  # of "forges" and "odd"


@needs_sandbox
@pytest.mark.slow
def test_no_network_and_a_limit_of_time(classroom):
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    hand_in(classroom, "calls", f"""
        import socket
        try:
            socket.create_connection(("127.0.0.1", {listener.getsockname()[1]}), 5)
        except OSError:
            import time
            time.sleep(1000)
    """)
    (classroom / "one").mkdir()
    (classroom / "all" / "calls").rename(classroom / "one" / "calls")
    grade, = grade_all(classroom / "one", classroom / "out1", b"secret", Limits(seconds=20))
    assert grade.accuracy is None and "more than 20 seconds" in grade.note
    with pytest.raises(TimeoutError):
        listener.accept()


def test_without_bubblewrap_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(CourseError, match="needs Linux and bubblewrap"):
        sandbox.run_sandboxed("course_utils", [], {}, tmp_path / "result", Limits())
    with pytest.raises(CourseError, match="holds no submissions"):
        grade_all(tmp_path / "nothing", tmp_path / "out", b"key", Limits())


@pytest.mark.parametrize(("assignment", "variant"), [
    ("cifar10_dilated_depthwise", "s7"), ("cifar10_dilated_depthwise", "net"), ("cifar10_dilated_depthwise", "best"),
    ("cifar10_custom_resnet", "published"), ("stl10_versions", "2.4"), ("stl10_versions", "2.5")])
def test_rules_find_the_same_in_a_program_as_in_its_network(assignment, variant, tmp_path):
    exp, size = load_experiment(assignment, variant), 96 if assignment == "stl10_versions" else 32
    model = build_model(exp.model, 10, size, **exp.model_settings).eval()
    exported = torch.export.export(model, (torch.zeros(BATCH, 3, size, size),))
    torch.export.save(exported, tmp_path / "program.pt2")
    program, images = load_program(tmp_path / "program.pt2"), torch.rand(3, 3, size, size)
    torch.testing.assert_close(program(images), model(images), rtol=1e-5, atol=1e-6)
    assert sum(weights.numel() for weights in program.weights) == count_parameters(model)
    one, other = (check_rules(exp, network, size) for network in (model, program))
    assert [(f.rule, f.passed) for f in one] == [(f.rule, f.passed) for f in other]


class _Square(torch.nn.Module):
    def forward(self, images):
        return images.square().mean((2, 3))


@pytest.mark.parametrize("attack", ["pickle", "function"])
def test_a_program_with_code_in_it_is_refused(tmp_path, attack, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exported = torch.export.export(_Square(), (torch.zeros(BATCH, 3, 8, 8),))
    torch.export.save(exported, "good.pt2")
    with zipfile.ZipFile("good.pt2") as good, zipfile.ZipFile("bad.pt2", "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            if attack == "function" and name.endswith(".json") and b"square" in data:
                data = data.replace(b"torch.ops.aten.square.default", b"torch.os.system")
            if attack == "pickle" and name.endswith("model_constants_config.json"):
                data = json.dumps({"config": {"x": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True,
                                                    "tensor_meta": None}}}).encode()
                bad.writestr(name.replace("model_constants_config.json", "opaque_obj_0"), pickle.dumps(Hostile()))
            bad.writestr(name, data)
    load_program("good.pt2")(torch.zeros(2, 3, 8, 8))
    with pytest.raises(Exception, match=r"no operation of torch\.ops\.aten|more than tensors|not an allowed operator"):
        load_program("bad.pt2")(torch.zeros(2, 3, 8, 8))
    assert not (tmp_path / "harmed").exists()
