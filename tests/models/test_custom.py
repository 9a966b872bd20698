"""A network of one's own: it takes every place of the course's, and its errors are told by the student's line."""
import re
import sys
import textwrap

import pytest
import torch
from helpers import toy_loader

from course_utils.models import custom as own
from course_utils.training import lr_finder as range_test, trainer as train
from course_utils.__main__ import main
from course_utils.errors import CourseError
from course_utils.variants import load_experiment
from course_utils.models import build_model
from course_utils.reporting.record import run_name

GOOD = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, classes=10, width=8):
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3)
            self.fc = nn.Linear(width, classes)

        def forward(self, x):
            x = self.conv(x).relu().mean((2, 3))
            return self.fc(x)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, text=GOOD, name="my_net.py"):
    (folder / name).write_text(textwrap.dedent(text))


def test_it_is_built_like_any_other(here):
    write(here)
    model = build_model("my_net.py:Net", 7, 96, width=4)
    assert model.training and model.conv.out_channels == 4
    assert model(torch.zeros(5, 3, 96, 96)).shape == (5, 7)
    assert not list(here.glob("__pycache__"))


def test_an_edit_is_seen_at_once_and_makes_another_experiment(here):
    write(here)
    before = load_experiment("cifar10_dilated_depthwise", model="my_net.py:Net")
    assert before.model_settings == {} and len(before.model_file) == 64
    assert run_name(before) == "s7-my_net-Net-200epochs-seed0"
    write(here, GOOD.replace("width=8", "width=9"))
    assert build_model("my_net.py:Net", 10).conv.out_channels == 9
    assert load_experiment("cifar10_dilated_depthwise", model="my_net.py:Net").model_file != before.model_file


def test_a_module_beside_it_may_be_imported_and_is_told_by_its_own_line(here, monkeypatch):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(here))])
    write(here, "from torch import nn\ndef head(n):\n    return nn.Linear(n)\n", "head_of_mine.py")
    write(here, GOOD.replace("import torch\n", "import torch\n    from head_of_mine import head\n").replace(
        "nn.Linear(width, classes)", "head(width)"))
    with pytest.raises(CourseError, match=r"head_of_mine\.py, line 3, in head:\n    return nn\.Linear\(n\)"):
        build_model("my_net.py:Net", 10)
    write(here, "def f(:\n", "broken_of_mine.py")
    write(here, GOOD.replace("import torch\n", "import broken_of_mine\n"))
    with pytest.raises(CourseError, match=r"broken_of_mine\.py, line 1:\n    def f"):
        build_model("my_net.py:Net", 10)


def test_a_record_names_no_folder(here):
    write(here)
    exp = load_experiment("cifar10_dilated_depthwise", model=f"{here}/my_net.py:Net")
    assert exp.as_dict()["model"] == "my_net.py:Net" and str(here) not in exp.table()
    assert own.absolute("my_net.py:Net") == exp.model


def test_building_draws_as_if_it_had_not_been_tried(here):
    """What the trial run draws (dropout in a careless forward) is given back: the weights' seed stays the student's."""
    write(here, GOOD.replace("x = self.conv(x)", "torch.rand(1); x = self.conv(x)"))
    torch.manual_seed(0)
    build_model("my_net.py:Net", 10)
    tried = torch.rand(1)
    torch.manual_seed(0)
    torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, 10)
    assert torch.equal(tried, torch.rand(1))


@pytest.mark.parametrize(("text", "said"), [
    (GOOD.replace("self.conv(x)", "self.cnov(x)"), r"my_net\.py, line 12, in forward:\n    x = self\.cnov\(x\).*\n"
                                                   r"AttributeError: .*cnov"),
    (GOOD.replace("(3, width, 3)", "(1, width, 3)"), r"line 12, in forward:\n    x = self\.conv\(x\).*\nRuntimeError"),
    (GOOD.replace("nn.Linear(width, classes)", "nn.Linear(width)"), r"line 9, in __init__:\n    self\.fc"),
    (GOOD.replace("import torch\n", "import torhc\n"), r"line 2, in <module>:\n    import torhc\nModule"),
    (GOOD.replace("def forward(self, x):", "def forward(self, x)"), r"my_net\.py, line 11:\n    .*\nSyntaxError: "),
    (GOOD.replace("class Net", "class Network"), r"Unknown network of my_net\.py: 'Net'\. .*'Network'"),
    (GOOD.replace("width=8", "width").replace("classes=10", "classes"), r"Net needs width: "),
    (GOOD.replace("classes=10, width=8", "depth, width"), r"Net needs depth, width: "),
    (GOOD.replace("self.fc(x)", "x"), r"Net of my_net\.py gives \(2, 8\) for two images of 32x32 pixels; it must give "
                                      r"\(2, 10\)"),
    (GOOD.replace("self.fc(x)", "[x]"), r"gives list for two images"),
    ("from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n", "no parameters"),
    ("Net = 3\n", "must be a class"),
    ("def Net():\n    return 3\n", "makes a int"),
    ("from torch import nn\nNet = nn.Sequential(nn.Flatten())\n", "Net of my_net.py is a Sequential: it must be"),
    ("from torch import relu as Net\n", "must be a class of torch.nn.Module"),
    (GOOD.replace("return self.fc(x)", "return self.fc(x) if not self.training else self.fcc(x)"),
     r"line 13, in forward:\n.*\nAttributeError"),
    (GOOD.replace("return self.fc(x)", "return self.fc(x) if self.training else x"), r"gives \(2, 8\)"),
    (GOOD.replace("return self.fc(x)", "return self.fc(x).squeeze()"), r"gives \(10,\) for one image of"),
    (GOOD.replace("x = self.conv(x)", "x = self.conv(x.view(2, 3, 32, 32))"), r"line 12, in forward:\n    x = self"),
    ("raise SystemExit\n", None),
])
def test_what_is_wrong_is_said_in_one_clear_sentence(here, text, said):
    write(here, text)
    if said is None:  # not an error: whoever asks to end, ends
        with pytest.raises(SystemExit):
            build_model("my_net.py:Net", 10)
        return
    with pytest.raises(CourseError) as caught:
        build_model("my_net.py:Net", 10)
    assert re.search(said, str(caught.value)), caught.value
    shown = caught.value.__suppress_context__ or caught.value.__context__ is None
    assert shown  # no lines of ours, nor of torch, above the student's


@pytest.mark.parametrize(("name", "said"), [
    ("my_net.py", "FILE.py:CLASS"), ("my_net:Net", "FILE.py:CLASS"), ("my_net.py:", "FILE.py:CLASS"),
    ("other.py:Net", r"there is no .*other\.py"),
])
def test_a_name_that_leads_nowhere(here, name, said):
    with pytest.raises(CourseError, match=said):
        load_experiment("cifar10_dilated_depthwise", model=name)
    with pytest.raises(CourseError, match=said):
        build_model(name, 10)


@pytest.mark.parametrize("act", ["fit", "range test"])
def test_what_goes_wrong_only_in_training_is_told_by_its_line(here, tiny, machine, act):
    write(here, GOOD.replace("return self", "assert len(x) < 3, 'too many'; return self"))
    exp = tiny.replace(model="my_net.py:Net")
    model = build_model(exp.model, 2, 8)
    batches = toy_loader(exp.batch_size)
    with pytest.raises(CourseError, match=r"my_net\.py, line 13, in forward:\n.*\nAssertionError: too many"):
        if act == "fit":
            train.fit(exp, model, batches, batches, exp.lr, machine, log=lambda _: None)
        else:
            range_test.find_lr(exp, model, batches, machine)


def test_a_mode_that_returns_nothing_and_a_network_that_cannot_be_copied(here, tiny, machine):
    write(here, GOOD + """
        def train(self, mode=True):
            super().train(mode)

    class Kept(Net):
        def __init__(self, classes=10):
            super().__init__(classes)
            self.twice = self.fc.weight * 2
""")
    assert build_model("my_net.py:Net", 10)(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    with pytest.raises(CourseError, match=r"my_net\.py: RuntimeError: Only Tensors created explicitly"):
        build_model("my_net.py:Kept", 10)
    model, batches = build_model("my_net.py:Net", 2, 8), toy_loader(16)
    train.fit(tiny.replace(model="my_net.py:Net", epochs=2), model, batches, batches, 0.01, machine, log=lambda _: None)


def test_a_file_beside_the_notebooks_is_found(here, monkeypatch):
    (here / "notebooks").mkdir()
    write(here / "notebooks", name="beside.py")
    monkeypatch.setattr(own, "REPO", here)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert own.locate("beside.py:Net") == (here / "notebooks/beside.py", "Net")


def test_a_notebook_shows_the_message_alone(here):
    write(here, GOOD.replace("self.conv(x)", "self.cnov(x)"))
    with pytest.raises(CourseError) as caught:
        build_model("my_net.py:Net", 10)
    shown = "\n".join(caught.value._render_traceback_())
    assert shown.startswith("CourseError: my_net.py, line 12") and "course_utils" not in shown


def test_the_command_line_checks_it(here, capsys):
    write(here)
    assert main(["check", "cifar10_dilated_depthwise", "--model", "my_net.py:Net"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"FAILED +receptive field of at least 45 +32\n", out)
    assert re.search(r"FAILED +uses dilated convolution +none\n", out)
    assert main(["check", "cifar10_dilated_depthwise", "--model", "none.py:Net"]) == 2
    assert "there is no" in capsys.readouterr().err
