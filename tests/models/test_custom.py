"""A custom network can be used everywhere, and its errors are reported with the line of the student's file."""
import sys
import textwrap

import pytest
import torch
from helpers import toy_loader

from course_utils import config
from course_utils.__main__ import main
from course_utils.errors import CourseError
from course_utils.models import build_model
from course_utils.reporting.run_folder import run_name
from course_utils.training.lr_finder import find_lr
from course_utils.training.trainer import fit
from course_utils.variants import load_experiment

GOOD = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, num_classes=10, width=8):
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3)
            self.fc = nn.Linear(width, num_classes)

        def forward(self, x):
            x = self.conv(x).relu().mean((2, 3))
            return self.fc(x)
"""
MODULE = "from torch import nn\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, text=GOOD, name="my_net.py"):
    (folder / name).write_text(textwrap.dedent(text))


@pytest.mark.parametrize("argument", ["num_classes", "classes"])
def test_custom_network_is_built_with_classes_and_settings(here, argument):
    write(here, GOOD.replace("num_classes", argument))
    model = build_model("my_net.py:Net", 7, 96, width=4)
    assert model.training and model.conv.out_channels == 4
    assert model(torch.zeros(5, 3, 96, 96)).shape == (5, 7)
    assert not list(here.glob("__pycache__"))


def test_edited_file_is_read_again_and_makes_another_experiment(here):
    write(here)
    before = load_experiment("cifar10_dilated_depthwise", model="my_net.py:Net")
    assert before.model_settings == {} and len(before.model_file) == 64
    assert run_name(before) == "s7-my_net-Net-200epochs-seed0"
    write(here, GOOD.replace("width=8", "width=9"))
    assert build_model("my_net.py:Net", 10).conv.out_channels == 9
    assert load_experiment("cifar10_dilated_depthwise", model="my_net.py:Net").model_file != before.model_file


def test_errors_in_an_imported_module_name_its_own_line(here, monkeypatch):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(here))])
    write(here, f"{MODULE}def head(n):\n    return nn.Linear(n)\n", "head_of_mine.py")
    write(here, GOOD.replace("import torch\n", "import torch\n    from head_of_mine import head\n").replace(
        "nn.Linear(width, num_classes)", "head(width)"))
    with pytest.raises(CourseError, match=r"head_of_mine\.py, line 3, in head:\n    return nn\.Linear\(n\)"):
        build_model("my_net.py:Net", 10)
    write(here, "def f(:\n", "broken_of_mine.py")
    write(here, GOOD.replace("import torch\n", "import broken_of_mine\n"))
    with pytest.raises(CourseError, match=r"broken_of_mine\.py, line 1:\n    def f"):
        build_model("my_net.py:Net", 10)


def test_records_contain_no_folder(here):
    write(here)
    exp = load_experiment("cifar10_dilated_depthwise", model=f"{here}/my_net.py:Net")
    assert exp.as_dict()["model"] == "my_net.py:Net" and str(here) not in exp.table()
    assert load_experiment("cifar10_dilated_depthwise", model="my_net.py:Net").model_file == exp.model_file


def test_trial_run_does_not_change_the_random_state(here):
    write(here, GOOD.replace("x = self.conv(x)", "torch.rand(1); x = self.conv(x)"))
    torch.manual_seed(0)
    build_model("my_net.py:Net", 10)
    tried = torch.rand(1)
    torch.manual_seed(0)
    torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 10)
    assert torch.equal(tried, torch.rand(1))


@pytest.mark.parametrize(("text", "message"), [
    (GOOD.replace("self.conv(x)", "self.cnov(x)"), r"my_net\.py, line 12, in forward:\n    x = self\.cnov\(x\).*\n"
                                                   r"AttributeError: .*cnov"),
    (GOOD.replace("(3, width, 3)", "(1, width, 3)"), r"line 12, in forward:\n    x = self\.conv\(x\).*\nRuntimeError"),
    (GOOD.replace("nn.Linear(width, num_classes)", "nn.Linear(width)"), r"line 9, in __init__:\n    self\.fc"),
    (GOOD.replace("import torch\n", "import torhc\n"), r"line 2, in <module>:\n    import torhc\nModule"),
    (GOOD.replace("def forward(self, x):", "def forward(self, x)"), r"my_net\.py, line 11:\n    .*\nSyntaxError: "),
    (GOOD.replace("class Net", "class Network"), r"Unknown network of my_net\.py: 'Net'\. .*'Network'"),
    (GOOD.replace("num_classes=10, width=8", "depth, width"), "missing 2 required .*'depth' and 'width'"),
    (GOOD.replace("self.fc(x)", "x"), r"Net of my_net\.py returns \(2, 8\) for 2 images of 32x32 pixels; it must "
                                      r"return \(2, 10\)"),
    (GOOD.replace("self.fc(x)", "[x]"), r"returns list for 2 images"),
    (GOOD.replace("self.fc(x)", "self.fc(x).squeeze()"), r"returns \(10,\) for 1 image of"),
    (GOOD.replace("self.fc(x)", "self.fc(x) if self.training else x"), r"returns \(2, 8\)"),
    (f"{MODULE}class Net(nn.Module):\n    def forward(self, x):\n        return x\n", "no trainable parameters"),
    ("Net = 3\n", "Net of my_net.py is a int: it must be a class"), ("def Net():\n    return 3\n", "makes a int"),
    (f"{MODULE}Net = nn.Sequential(nn.Flatten())\n", "Net of my_net.py is a Sequential: it must be"),
])
def test_faulty_network_is_reported_in_one_message(here, text, message):
    write(here, text)
    with pytest.raises(CourseError, match=message) as caught:
        build_model("my_net.py:Net", 10)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # no traceback of the package
    assert caught.value._render_traceback_() == [f"CourseError: {caught.value}"]


def test_system_exit_is_not_an_error(here):
    write(here, "raise SystemExit\n")
    with pytest.raises(SystemExit):
        build_model("my_net.py:Net", 10)


@pytest.mark.parametrize(("name", "message"), [
    ("my_net.py", "FILE.py:CLASS"), ("my_net:Net", "FILE.py:CLASS"), ("my_net.py:", "FILE.py:CLASS"),
    ("other.py:Net", r"there is no .*other\.py")])
def test_wrong_names_are_rejected(here, name, message):
    with pytest.raises(CourseError, match=message):
        load_experiment("cifar10_dilated_depthwise", model=name)
    with pytest.raises(CourseError, match=message):
        build_model(name, 10)


@pytest.mark.parametrize("train", [
    lambda exp, model, loader, folder: fit(exp, model, loader, loader, exp.lr, log=lambda _: None),
    lambda exp, model, loader, folder: find_lr(exp, model, loader, folder=folder)], ids=["fit", "find_lr"])
def test_error_that_occurs_only_in_training_names_its_line(here, tiny, train):
    write(here, GOOD.replace("return self", "assert len(x) < 3, 'too many'; return self"))
    exp = tiny.replace(model="my_net.py:Net")
    model = build_model(exp.model, 2, 8)
    with pytest.raises(CourseError, match=r"my_net\.py, line 13, in forward:\n.*\nAssertionError: too many"):
        train(exp, model, toy_loader(exp.batch_size), here)


def test_train_method_that_returns_nothing_and_network_that_cannot_be_copied(here):
    write(here, GOOD + """
        def train(self, mode=True):
            super().train(mode)

    class Kept(Net):
        def __init__(self, num_classes=10):
            super().__init__(num_classes)
            self.twice = self.fc.weight * 2
""")
    assert build_model("my_net.py:Net", 10)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    with pytest.raises(CourseError, match=r"my_net\.py: RuntimeError: Only Tensors created explicitly"):
        build_model("my_net.py:Kept", 10)


def test_file_beside_the_notebooks_is_found(here, monkeypatch):
    (here / "notebooks").mkdir()
    (here / "elsewhere").mkdir()
    write(here / "notebooks", name="beside.py")
    monkeypatch.setattr(config, "REPO", here)
    monkeypatch.chdir(here / "elsewhere")
    assert config.locate_model("beside.py:Net") == (here / "notebooks/beside.py", "Net")


def test_command_line_checks_a_custom_network(here, capsys):
    write(here)
    assert main(["check", "cifar10_dilated_depthwise", "--model", "my_net.py:Net"]) == 1
    out = capsys.readouterr().out
    assert "FAILED  receptive field of at least 45" in out and "FAILED  uses dilated convolution" in out
    assert main(["check", "cifar10_dilated_depthwise", "--model", "none.py:Net"]) == 2
    assert "there is no" in capsys.readouterr().err
