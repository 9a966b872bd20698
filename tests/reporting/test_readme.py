"""Publishing runs, and READMEs whose numbers are those of the records."""
import json
import os
import shutil

import pytest
from helpers import finished_record

from course_utils import variants
from course_utils.__main__ import main
from course_utils.errors import CourseError
from course_utils.reporting import networks, readme, record, results_table, summary_markdown, weights, write_record
from course_utils.utils import REPO
from course_utils.variants import list_assignments, read_assignment

NAME = "cifar10_custom_resnet"
NOTEBOOK = "03_cifar10_custom_resnet.ipynb"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A copy of two READMEs and the variants, without results."""
    for path in ("README.md", f"assignments/{NAME}/README.md", f"assignments/{NAME}/variants.toml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text((REPO / path).read_text())
    for module in (record, readme, variants):
        monkeypatch.setattr(module, "ASSIGNMENTS", tmp_path / "assignments")
    for module in (readme, networks):
        monkeypatch.setattr(module, "REPO", tmp_path)
    return tmp_path


def make_run(folder, **settings):
    """The folder of a finished run."""
    (folder / "figures").mkdir(parents=True)
    made = finished_record(**settings)
    write_record(made, folder)
    (folder / "figures" / "curves.png").write_bytes(b"png")
    cell = {"cell_type": "code", "execution_count": 1, "outputs": [], "metadata": {"tags": ["injected-parameters"]},
            "source": ['DATA_DIR = "/home/me"\n', 'MODEL = "C:\\\\me"\n', "EPOCHS = 3"]}
    cell["outputs"] = [{"output_type": "display_data", "data": {"text/markdown": [summary_markdown(made)]}}]
    stored = {"output_path": "/home/me/x.ipynb", "parameters": {"DATA_DIR": "/home/me", "SEED": 0}}
    (folder / NOTEBOOK).write_text(json.dumps({"cells": [cell], "metadata": {"papermill": stored}}))
    return folder


def test_published_runs_appear_in_the_readmes(repository):
    for seed, correct in ((0, 70), (1, 74)):
        name = readme.publish(make_run(repository / f"run{seed}", seed=seed, correct=correct))
    assert name == "published-3epochs-seed1"
    assert [path.name for path in (repository / "images" / NAME).iterdir()] == ["published-3epochs-seed0-curves.png"]
    (path,) = (repository / "assignments" / NAME / "runs").glob("*.ipynb")  # the first seed's
    assert path.name == "published-3epochs-seed0.ipynb"
    notebook = path.read_text()
    assert "/home/me" not in notebook and "C:" not in notebook and "EPOCHS = 3" in notebook
    assert repository / "assignments" / NAME / "README.md" in readme.update_readmes()
    assert "seed" not in (repository / "README.md").read_text().partition("<!-- results")[2].partition("<!-- end")[0]
    own = (repository / "assignments" / NAME / "README.md").read_text()
    assert "| 72.00 ± 2.83 % (2 seeds)" in own.partition("<summary>Shortened runs")[2] and "3 of 24, schedule" in own
    page = (repository / "assignments" / NAME / "networks.md").read_text()
    assert "Total params: 6,573,130" in page and f"images/{NAME}/network-custom_resnet.svg" in page
    assert (repository / "images" / NAME / "network-custom_resnet.svg").is_file()
    assert "[1](results/published-3epochs-seed1.json)" in own and "(runs/published-3epochs-seed0.ipynb)" in own
    assert f"../../images/{NAME}/published-3epochs-seed0-curves.png" in own
    readme.publish(make_run(repository / "full", epochs=24))
    assert repository / "README.md" in readme.update_readmes()
    text = (repository / "README.md").read_text()
    row = next(line for line in text.splitlines() if "| target 90 % |" in line)
    assert row.endswith("| **70.00 %**, published, 1 seed | 1.2 M | 1.2 M | 6,573,130 | 24 min, CPU |")
    row = next(line for line in text.splitlines() if "<br>How far does a residual network" in line)
    assert "| 24 min, CPU | target 90 % → **70.00 %** |" in row
    assert (repository / "images" / "overview.png").exists()
    assert readme.find_problems() == [] and readme.update_readmes(check=True) == []
    changed_text = text.replace("70.00 ", "92.00 ")
    (repository / "README.md").write_text(changed_text)
    assert readme.update_readmes(check=True) == [repository / "README.md"]
    assert (repository / "README.md").read_text() == changed_text  # a check writes nothing


def test_problems_of_published_records_are_found(repository, capsys):
    assert main(["publish", str(make_run(repository / "run"))]) == 0
    assert main(["report", "--check"]) == 0
    path = repository / "assignments" / NAME / "results" / "published-3epochs-seed0.json"
    toml = repository / "assignments" / NAME / "variants.toml"
    valid, settings = path.read_text(), toml.read_text()

    def check(message, code=1):
        assert main(["report", "--check"]) == code
        assert message in capsys.readouterr().err

    path.write_text(valid.replace('"train_loss": 1.0', '"train_loss": 1.1', 1))
    check("edited or damaged")
    assert main(["report"]) == 2 and main(["compare", str(path), str(path)]) == 2
    path.write_text(valid)
    toml.write_text(settings.replace("batch_size = 512", "batch_size = 256"))
    check("differs in batch_size.")
    toml.write_text(settings)
    other = path.rename(path.with_name("published-24epochs-seed7.json"))
    check(f"is the record of {NAME}, published-3epochs-seed0.")
    check("published-3epochs-seed0.ipynb of cifar10_custom_resnet is missing.")
    other.rename(path)
    assert main(["report", "--check"]) == 0


@pytest.mark.parametrize(("key", "value"), [("execution_count", 3), ("outputs", [{"output_type": "error"}])])
def test_notebook_that_is_not_one_fresh_run_is_not_published(repository, capsys, key, value):
    folder = make_run(repository / "run")
    notebook = json.loads((folder / NOTEBOOK).read_text())
    notebook["cells"][0][key] = value
    (folder / NOTEBOOK).write_text(json.dumps(notebook))
    assert main(["publish", str(folder)]) == 2
    assert "is not one fresh run from top to bottom" in capsys.readouterr().err
    (folder / NOTEBOOK).write_text("{")
    with pytest.raises(CourseError, match="is not a notebook"):
        readme.publish(folder)


def test_only_a_variant_on_real_data_is_published(repository):
    with pytest.raises(CourseError, match="synthetic data: not a result"):
        readme.publish(make_run(repository / "smoke", profile="smoke", epochs=2))
    folder = make_run(repository / "run")
    made = json.loads((folder / "record.json").read_text())
    made["experiment"]["batch_size"] = 64
    write_record(made, folder)
    with pytest.raises(CourseError, match=r"differs in batch_size\. Define a variant of its own\."):
        readme.publish(folder)
    with pytest.raises(CourseError, match="is not a record"):
        readme.publish(repository / "nowhere")


def test_missing_markers_are_named(repository):
    (repository / "README.md").write_text("nothing")
    with pytest.raises(CourseError, match="exactly one pair of markers"):
        readme.update_readmes()


def test_published_records_have_no_problems():
    assert readme.find_problems() == []


def test_readmes_are_up_to_date():
    assert readme.update_readmes(check=True) == []


@pytest.mark.parametrize("assignment", list_assignments())
def test_notebook_shows_the_published_runs_of_today(assignment):
    """After ``publish`` the notebook is executed again."""
    path = REPO / "notebooks" / f"{read_assignment(assignment)['notebook']}.ipynb"
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", ())]
    shown = ["".join(output["data"]["text/markdown"]) for output in outputs
             if "text/markdown" in output.get("data", {})]
    assert results_table(assignment, links=False) in shown[0]


def test_the_notebook_of_another_run_is_not_published(repository):
    one, other = (make_run(repository / f"run{seed}", seed=seed) for seed in (0, 1))
    (other / NOTEBOOK).write_bytes((one / NOTEBOOK).read_bytes())
    with pytest.raises(CourseError, match="does not end with the summary of this record: it is of another run"):
        readme.publish(other)


def test_a_quoted_summary_and_links_are_not_published(repository):
    """A notebook shows a published run of its assignment beside its own."""
    run = make_run(repository / "run")
    table = json.loads((run / NOTEBOOK).read_text())
    shown = table["cells"][0]["outputs"][0]["data"]
    shown["text/markdown"] = [weights.QUOTED + " `x`** " + shown["text/markdown"][0]]
    (run / NOTEBOOK).write_text(json.dumps(table))
    with pytest.raises(CourseError, match="it is of another run"):
        readme.publish(run)
    other, linked = make_run(repository / "other", seed=1), make_run(repository / "linked")
    shutil.rmtree(linked / "figures")
    (linked / "figures").symlink_to(other / "figures")
    assert readme.publish(linked) and not list((repository / "images" / NAME).glob("*-curves.png"))


def test_titles_are_no_markup(repository):
    toml = repository / "assignments" / NAME / "variants.toml"
    toml.write_text(toml.read_text().replace('learn = "', 'learn = "a | b <!-- end of assignments --> '))
    readme.update_readmes()
    assert readme.update_readmes(check=True) == [] and r"a \| b \<!--" in (repository / "README.md").read_text()


def test_other_data_than_the_published_is_no_result(repository):
    run = make_run(repository / "run")
    made = json.loads((run / "record.json").read_text())
    made["data"]["sha256"]["test_images"] = "0" * 64
    write_record(made | {"data": made["data"] | {"title": "CIFAR-10, OTHER DATA than the published"}}, run)
    with pytest.raises(CourseError, match="is a run on CIFAR-10, OTHER DATA than the published: not a result"):
        readme.publish(run)
    assert not record.is_full_length(made | {"experiment": made["experiment"] | {"epochs": 24}})


def empty(path):
    path.write_text("")


def edit(path):
    path.write_text(path.read_text().replace("70.00", "97.00"))


def mark(path):
    path.write_text(path.read_text() + "=======\n")  # left by a merge


@pytest.mark.parametrize(("file", "harm", "message"), [
    ("runs/SHA256SUMS", mark, "cannot be checked"), ("weights/published.safetensors", empty, "cannot be checked"),
    ("runs/{}.ipynb", empty, "is not the file that was published"), ("runs/{}.ipynb", edit, "is not the file"),
    ("runs/{}.ipynb", os.remove, "is missing"), ("runs/SHA256SUMS", empty, "is not the file that was published"),
    ("../../images/" + NAME + "/{}-curves.png", empty, "is not the file that was published"),
    ("../../images/" + NAME + "/{}-curves.png", os.remove, "is missing")])
def test_changed_evidence_is_found(repository, file, harm, message):
    name = readme.publish(make_run(repository / "run"))
    assert readme.find_problems() == []
    (repository / "assignments" / NAME / "weights").mkdir(exist_ok=True)
    path = repository / "assignments" / NAME / file.format(name)
    harm(path)
    assert any(message in problem for problem in readme.find_problems())
