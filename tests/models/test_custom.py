"""A custom network can be used everywhere, and its errors are reported with the line of the student's file."""
import hashlib
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from helpers import toy_loader

from course_utils import config, variants
from course_utils.__main__ import main
from course_utils.errors import CourseError
from course_utils.evaluation import predict
from course_utils.models import build_model
from course_utils.reporting.run_folder import run_name
from course_utils.training.lr_finder import find_lr
from course_utils.training.trainer import fit
from course_utils.variants import experiment_table, load_experiment

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
    assert exp.as_dict()["model"] == "my_net.py:Net" and str(here) not in experiment_table(exp)
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
    (GOOD.replace("self.fc(x)", "x"), r"Net of my_net\.py returns \(3, 8\) for 3 images of 32x32 pixels; it must "
                                      r"return \(3, 10\)"),
    (GOOD.replace("self.fc(x)", "[x]"), r"returns list for 3 images"),
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


FLAT = GOOD.replace(".mean((2, 3))", "; x = x.view(len(x), -1)").replace("Linear(width", "Linear(width * 36")


@pytest.mark.parametrize("view", [FLAT, FLAT.replace("x.view(len(x), -1)", "x.view(x.size(0), x.size(1) * 36)")])
def test_network_that_cannot_take_channels_last_trains_in_the_ordinary_layout(here, tiny, view):
    """A view of a convolution's result has other strides in channels_last, which training uses otherwise."""
    write(here, view)
    model = build_model("my_net.py:Net", 2, 8)
    loader = toy_loader(tiny.batch_size)
    find_lr(tiny.replace(lr_finder_steps=10), model, loader)
    training = fit(tiny, model, loader, loader, tiny.lr, log=lambda _: None)
    assert [part["memory_format"] for part in training.sessions] == ["contiguous_format"]
    assert model.conv.weight.is_contiguous() and training.history[-1]["train_loss"] < 0.7
    write(here)
    assert build_model("my_net.py:Net", 2, 8).takes_channels_last


def test_an_attribute_called_channels_last_is_the_students_own(here):
    write(here, GOOD.replace("self.fc = ", "self.channels_last = True; self.fc = ").replace("self.fc(x)", "self.cf(x)"))
    with pytest.raises(CourseError, match=r"AttributeError: .*cf"):
        build_model("my_net.py:Net", 10)
    write(here, GOOD.replace("self.fc = ", "self.channels_last = False; self.fc = "))
    assert build_model("my_net.py:Net", 10).channels_last is False


@pytest.mark.parametrize("keep", [
    "self.more = [nn.Linear(width, width) for _ in range(3)]", "self.more = (nn.Linear(width, width),)",
    "self.more = {0: nn.Linear(width, width)}",
    "self.more = [lambda x, w=torch.ones(width, width, requires_grad=True): x @ w]",  # no nn.Parameter
    "self.more = [nn.Linear(width, width).requires_grad_(False)]"])
def test_layers_in_a_python_list_are_refused(here, keep):
    """Nobody would train or count them."""
    loop = "for layer in getattr(self.more, 'values', lambda: self.more)(): x = layer(x)"
    write(here, GOOD.replace("self.fc = ", f"{keep}\n            self.fc = ").replace(
        "return self", f"{loop}\n            return self"))
    with pytest.raises(CourseError, match=r"[0-9]+ weights are used that are not among .* nn\.ModuleList"):
        build_model("my_net.py:Net", 10)
    held = f"{keep.partition('=')[0]}= nn.ModuleList([nn.Linear(width, width)])"
    write(here, GOOD.replace("self.fc = ", f"{held}\n            self.fc = ").replace(
        "return self", "x = self.more[0](x)\n            return self"))
    build_model("my_net.py:Net", 10)


def test_modules_beside_the_file_are_its_own_and_part_of_its_fingerprint(tmp_path):
    hashes, models = set(), [f"{tmp_path / name / 'my_net.py'}:Net" for name in ("ann", "bob")]
    for folder, width in (("ann", 5), ("bob", 6), ("ann", 7)):  # the third time, ann's was edited
        (tmp_path / folder).mkdir(exist_ok=True)
        write(tmp_path / folder, GOOD.replace("import torch\n", "import torch, layers\n").replace(
            "width=8):", "width=8):\n            width = layers.WIDTH"))
        write(tmp_path / folder, "from sizes import SIZES\nWIDTH = SIZES[0]\n", "layers.py")
        write(tmp_path / folder, f"SIZES = [{width}]\n", "sizes.py")  # imported by an import
        model = models[folder == "bob"]
        assert build_model(model, 10).conv.out_channels == width
        hashes.add(variants.file_hash(model))
    assert len(hashes) == 3
    alone = tmp_path / "alone"
    alone.mkdir()
    write(alone)
    digest = hashlib.sha256((alone / "my_net.py").read_bytes()).hexdigest()
    assert variants.file_hash(f"{alone / 'my_net.py'}:Net") == digest  # as published records have it


@pytest.mark.parametrize("change", [
    ("return self.fc(x)", "return torch.nn.functional.dropout(self.fc(x), 0.5)", "other results for the same images"),
    ("return self.fc(x)", "return self.fc(x) + torch.rand(1)", "other results for the same images"),
    ("x = self.conv(x)", "x = nn.functional.batch_norm(self.conv(x), None, None, training=True)",
     "or batch norm without running statistics"),
    ("return self.fc(x)", "return self.fc(x).softmax(1)", "returns probabilities. The loss expects logits")])
def test_what_is_hardly_meant_is_a_warning(here, change):
    old, new, message = change
    write(here, GOOD.replace(old, new))
    with pytest.warns(UserWarning, match=message):
        build_model("my_net.py:Net", 10)


def test_good_networks_are_not_warned_of(here, recwarn):
    for last in ("return self.fc(x)", "return self.fc(x).log_softmax(1)", "return self.fc(x).sigmoid()"):
        write(here, GOOD.replace("return self.fc(x)", last))
        build_model("my_net.py:Net", 10)
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


def test_lazy_layers_and_weight_norm_train_and_compiled_networks_are_refused(here, tiny):
    loader = toy_loader(tiny.batch_size)
    for new in ("nn.LazyConv2d(width, 3)", "nn.utils.parametrizations.weight_norm(nn.Conv2d(3, width, 3))",
                "nn.utils.spectral_norm(nn.Conv2d(3, width, 3))"):
        write(here, GOOD.replace("nn.Conv2d(3, width, 3)", new))
        model = build_model("my_net.py:Net", 2, 8)
        assert sum(p.numel() for p in model.parameters()) >= 3 * 9 * 8 + 18
        find_lr(tiny.replace(lr_finder_steps=10), model, loader)
        fit(tiny, model, loader, loader, tiny.lr, log=lambda _: None)
        predict(model, loader)
    for new in ("Made = lambda num_classes=10: torch.compile(Net(num_classes))",
                "Made = lambda num_classes=10: torch.jit.trace(Net(num_classes), torch.zeros(1, 3, 8, 8))",
                "Made = lambda num_classes=10: nn.Sequential(torch.jit.script(nn.Conv2d(3, 3, 1)), Net(num_classes))"):
        write(here, GOOD + f"\n    {new}\n")
        with pytest.raises(CourseError, match="scripted or compiled: return the network itself"):
            build_model("my_net.py:Made", 2, 8)
    write(here, GOOD.replace("nn.Conv2d(3, width, 3)", "nn.utils.weight_norm(nn.Conv2d(3, width, 3))"))
    with pytest.warns(FutureWarning):  # the old way
        model = build_model("my_net.py:Net", 2, 8)
    assert fit(tiny, model, loader, loader, tiny.lr, log=lambda _: None).history[-1]["train_loss"] < 0.7


@pytest.mark.parametrize("line", ["sys.exit()", "raise SystemExit", "quit()", "exit(0)", "sys.exit('done')"])
def test_leaving_is_an_error(here, line, capsys):
    """``check`` would end with the exit code 0 of a network that keeps the rules."""
    write(here, f"import sys\n{line}\n")
    with pytest.raises(CourseError, match=r"my_net\.py, line 2, in <module>:\n.*\nSystemExit"):
        build_model("my_net.py:Net", 10)
    write(here, GOOD.replace("return self", f"import sys; {line}; return self"))
    assert main(["check", "cifar10_dilated_depthwise", "--model", "my_net.py:Net"]) == 2
    assert "SystemExit" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("line", [
    "os._exit(0)", "os.abort()", "os.kill(os.getpid(), 9)", "os.execv('/bin/true', ['true'])"])
def test_leaving_that_no_exception_shows_is_an_error_as_well(here, line, capsys):
    write(here, GOOD.replace("return self", f"import os; {line}; return self"))
    assert main(["check", "cifar10_dilated_depthwise", "--model", "my_net.py:Net"]) == 2
    assert "my_net.py:Net ended the program while it was checked" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("network", "code"), [(["--model", "my_net.py:Net"], 1), (["--variant", "best"], 0)])
def test_the_command_itself_checks_a_network_from_a_file(here, network, code):
    """Started by ``python -m``, where a process of its own finds no function of ``__main__``."""
    write(here)
    command = [sys.executable, "-m", "course_utils", "check", "cifar10_dilated_depthwise", *network]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(config.REPO)})
    assert done.returncode == code and " open" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.slow
def test_exit_code_that_is_changed_at_exit_does_not_count(here):
    write(here, GOOD + "\n    import atexit, os\n    atexit.register(os._exit, 0)\n")
    assert main(["check", "cifar10_dilated_depthwise", "--model", "my_net.py:Net"]) == 1


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
    write(here, GOOD.replace("return self", "assert len(x) < 4, 'too many'; return self"))
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


@pytest.mark.parametrize("use", ["x * self.own[:, None, None]", "x + self.own.view(1, -1, 1, 1)",
                                 "x + self.own.expand(len(x), 8).unsqueeze(-1).unsqueeze(-1)",
                                 "x * torch.stack([self.own, self.own]).mean()",
                                 "x + (self.own @ self.fc.weight.t()).mean()"])
def test_views_of_a_networks_own_parameters_are_its_parameters(here, use):
    write(here, GOOD.replace("self.fc = ", "self.own = nn.Parameter(torch.ones(width)); self.fc = ").replace(
        "self.conv(x)", f"self.conv(x); x = {use}; x = x"))
    build_model("my_net.py:Net", 10, 8)


@pytest.mark.parametrize(("text", "message"), [
    (GOOD.replace("def forward", "@torch.no_grad()\n        def forward"), "No gradient reaches the weights"),
    (GOOD.replace("return self.fc(x)", "return torch.tensor(self.fc(x).tolist())"), "No gradient reaches the weights"),
    (GOOD.replace("return self.fc(x)", "return nn.functional.one_hot(self.fc(x).argmax(1), 10).float()"),
     "No gradient reaches the weights"),
    (GOOD.replace("x = self.conv(x)", "self.conv2 = nn.Conv2d(3, 8, 3); x = self.conv2(x)"), "weights are used that"),
    (GOOD.replace("self.fc = ", "self.memory = 0.0; self.fc = ").replace(
        "return self.fc(x)", "self.memory = self.memory + x.sum(); return self.fc(x) + self.memory"), "a second time"),
    (GOOD.replace("self.fc = ", "self.seen = None; self.fc = ").replace(
        "return self.fc(x)", "if self.seen is None or not self.training: self.seen = torch.zeros(len(x), 1)\n"
                             "            return self.fc(x) + self.seen"), "size of tensor"),
    (GOOD.replace("self.fc = ", "self.more = [nn.Parameter(torch.ones(8))] * 2; self.fc = ").replace(
        "return self.fc(x)", "return self.fc(x + torch.stack(self.more).sum(0))"), "weights are used that are"),
    (f"{GOOD}\n    Made = lambda num_classes=10: (net := Net(num_classes)).compile() or net\n",
     "scripted or compiled")])
def test_what_the_trial_cannot_train_is_refused(here, text, message):
    write(here, text)
    with pytest.raises(CourseError, match=message):
        build_model("my_net.py:Made" if "Made" in text else "my_net.py:Net", 10, 8)


def test_a_network_that_needs_float32_is_warned_of(here):
    write(here, GOOD.replace("return self", "x = x + torch.from_numpy(x.detach().numpy()) * 0; return self"))
    with pytest.warns(UserWarning, match=r"cannot be trained in bfloat16 \(TypeError: .*PRECISION = 'fp32'"):
        build_model("my_net.py:Net", 10)


@pytest.mark.parametrize("extra", ["self.old = nn.Linear(3, 3)", "self.conv.weight.requires_grad = False"])
def test_frozen_and_unused_weights_train_with_an_l1_penalty(here, tiny, extra):
    write(here, GOOD.replace("self.fc = ", f"{extra}; self.fc = "))
    loader = toy_loader(tiny.batch_size)
    model = build_model("my_net.py:Net", 2, 8)
    fit(tiny.replace(l1=0.001), model, loader, loader, tiny.lr, log=lambda _: None)


def test_modules_that_are_imported_late_and_packages_are_each_networks_own(tmp_path):
    hashes = set()
    for folder, width in (("ann", 5), ("bob", 6), ("ann", 7)):
        (tmp_path / folder / "blocks").mkdir(parents=True, exist_ok=True)
        write(tmp_path / folder, GOOD.replace("super().__init__()", "super().__init__()\n            "
              "from blocks.sizes import WIDTH as width\n            from late import EXTRA; width += EXTRA"))
        write(tmp_path / folder / "blocks", f"WIDTH = {width}\n", "sizes.py")
        write(tmp_path / folder, "EXTRA = 1\n", "late.py")
        model = f"{tmp_path / folder / 'my_net.py'}:Net"
        assert build_model(model, 10).conv.out_channels == width + 1
        hashes.add(variants.file_hash(model))
    assert len(hashes) == 3
    (tmp_path / "carl").mkdir()
    write(tmp_path / "carl", GOOD.replace("import torch\n", "import torch, late\n"))
    with pytest.raises(CourseError, match="No module named 'late'"):  # he forgot it
        build_model(f"{tmp_path / 'carl' / 'my_net.py'}:Net", 10)


@pytest.mark.slow
@pytest.mark.parametrize(("line", "code", "message"), [
    ("self.n = getattr(self, 'n', 0) + 1\n            if self.n > 4: import sys; sys.exit(0)", 2, "SystemExit"),
    ("import threading; threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()", 1, "FAILED")])
def test_check_ends_whatever_the_network_does(here, line, code, message, capfd):
    write(here, GOOD.replace("x = self.conv", f"{line}\n            x = self.conv"))
    assert main(["check", "cifar10_dilated_depthwise", "--model", "my_net.py:Net"]) == code
    assert message in "".join(capfd.readouterr())
