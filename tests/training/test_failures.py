"""What can go wrong in a training: each error names its cause, and a second run gives what the first would have."""
import contextlib
import hashlib
import os
import pickle

import pytest
import torch
from helpers import Hostile, file_size_limit, fit_toy, flip_a_byte, interrupt_at, toy_model

from course_utils.errors import CourseError, DivergenceError, OutOfMemoryError
from course_utils.training import checkpoint
from course_utils.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint

NOT_PLAIN = "holds something other than tensors, numbers and text: refused, no code in it was executed"


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def replaced_by(save):
    """Replaces a checkpoint deliberately, by what ``save(path)`` writes, with the SHA-256 of that in its name."""
    def damage(path):
        save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:checkpoint.DIGITS]
        path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}-{digest}.pt"))

    return damage


@pytest.mark.parametrize(("damage", "message"), [
    (truncate, "is damaged: its SHA-256 is not the one in its name"),
    (flip_a_byte, "is damaged: its SHA-256 is not the one in its name"),
    (replaced_by(lambda path: torch.save({"model": Hostile()}, path)), NOT_PLAIN),
    (replaced_by(lambda path: path.write_bytes(pickle.dumps(Hostile(), protocol=2))), NOT_PLAIN),
    (replaced_by(lambda path: torch.save([1, 2], path)), "is not a checkpoint: it holds a list"),
])
def test_a_bad_newest_checkpoint_is_skipped(tiny, tmp_path, monkeypatch, damage, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit_toy(tiny, folder=tmp_path, log=interrupt_at("4/4"))
    damage(list_checkpoints(tmp_path)[-1])
    lines = []
    resumed, training = fit_toy(tiny, folder=tmp_path, log=lines.append)
    assert "epoch-0003" in lines[0] and f"{message}. Looking for an earlier one." in lines[0]
    assert lines[1].startswith("Resumed after epoch 2 of 4.") and len(training.sessions) == 2
    assert torch.equal(resumed, fit_toy(tiny)[0])
    assert not (tmp_path / "harmed").exists()


def test_bad_checkpoints_do_not_push_out_intact_ones(tiny, tmp_path):
    """When all are bad the training starts again, and its first checkpoints count, although their epochs are lower."""
    fit_toy(tiny, folder=tmp_path)
    for path in list_checkpoints(tmp_path):
        truncate(path)
    with pytest.raises(KeyboardInterrupt):
        fit_toy(tiny, folder=tmp_path, log=interrupt_at("2/4"))
    assert [len(load_checkpoint(path)["history"]) for path in list_checkpoints(tmp_path)] == [1]
    assert torch.equal(fit_toy(tiny, folder=tmp_path)[0], fit_toy(tiny)[0])


def test_the_checkpoint_of_another_experiment_is_refused_with_the_differences(tiny, tmp_path):
    """A changed description is no other experiment, nor is a setting that was added since."""
    fit_toy(tiny.replace(about="other words"), folder=tmp_path)
    state = checkpoint.load_latest(tmp_path)
    del state["experiment"]["label_smoothing"]
    before = [save_checkpoint(tmp_path, 5, state), save_checkpoint(tmp_path, 6, state)]
    _, training = fit_toy(tiny, folder=tmp_path)
    assert len(training.history) == 4 and len(training.sessions) == 1
    with pytest.raises(CourseError, match=r"(?s)another experiment.*\(--restart\).*\n  weight_decay: found 0.0, requ"):
        fit_toy(tiny.replace(weight_decay=0.1), folder=tmp_path)
    assert list_checkpoints(tmp_path) == before
    save_checkpoint(tmp_path, 7, {"model": {}})  # not of a training
    with pytest.raises(CourseError, match=r"(?s)another experiment.*lr: found None, requested 0\.02"):
        fit_toy(tiny, folder=tmp_path)


def test_a_training_on_other_images_is_not_continued(tiny, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit_toy(tiny, folder=tmp_path, log=interrupt_at("2/4"))
    state = checkpoint.load_latest(tmp_path)
    save_checkpoint(tmp_path, 3, state | {"data": "0" * 64})
    with pytest.raises(CourseError, match="a training on other images"):
        fit_toy(tiny, folder=tmp_path)


def test_an_incomplete_checkpoint_is_one_sentence(tiny, tmp_path):
    fit_toy(tiny, folder=tmp_path)
    state = checkpoint.load_latest(tmp_path)
    for number, change in enumerate(({"model": {}}, {"optimizer": {}}, {"history": None, "sessions": None}), 5):
        save_checkpoint(tmp_path, number, state | change)
        if number < 7:
            with pytest.raises(CourseError, match="incomplete or of another network"):
                fit_toy(tiny, folder=tmp_path)


def raises(error):
    def harm(_):
        raise error

    return harm


@pytest.mark.parametrize(("harm", "error", "message"), [
    (lambda output: output * float("nan"), DivergenceError, r"NaN or infinite: epoch 2, step 3, learning rate \d.*e-"),
    (lambda output: output * -1e4, DivergenceError, r"loss of epoch 2 is \d.*, random guessing has 0\.693.*smaller"),
    (lambda output: output.new_ones(10**15), OutOfMemoryError,
     r"A step with 16 images does not fit into the \d+ GiB of .*: use a smaller batch_size .*can't allocate memory"),
    (raises(MemoryError("no")), OutOfMemoryError, r"A step with 16 images does not fit into the \d+ GiB"),
    (raises(torch.OutOfMemoryError("CUDA out of memory.\nMore")), OutOfMemoryError, r"CUDA out of memory\.$"),
    (raises(RuntimeError("DataLoader worker (pid 7) is killed")), CourseError, "fewer workers; the result is the same"),
    (raises(RuntimeError("DataLoader timed out after 120 seconds")), CourseError, "was killed or hangs"),
    (raises(ZeroDivisionError("student's own")), ZeroDivisionError, "student's own"),
])
def test_an_error_in_a_step_keeps_the_last_good_checkpoint(tiny, tmp_path, harm, error, message):
    """From step 3 of epoch 2 (of 4 steps each) on, the outputs of the network pass through ``harm``."""
    model, steps = toy_model(), 0

    def hook(module, _, output):
        nonlocal steps
        steps += module.training
        return harm(output) if module.training and steps >= 7 else output

    model.register_forward_hook(hook)
    with pytest.raises(error, match=message):
        fit_toy(tiny, model, folder=tmp_path)
    assert [len(load_checkpoint(path)["history"]) for path in list_checkpoints(tmp_path)] == [1]
    assert torch.equal(fit_toy(tiny, folder=tmp_path)[0], fit_toy(tiny)[0])


def test_a_full_disk_is_reported_and_the_training_can_resume(tiny, tmp_path):
    with contextlib.ExitStack() as full, pytest.raises(CourseError) as error:
        fit_toy(tiny, folder=tmp_path, log=lambda line: "epoch   2" in line and full.enter_context(file_size_limit(99)))
    assert all(part in str(error.value) for part in ("checkpoint of epoch 2", "File too large (", "MB free)"))
    assert sorted(path.name[:10] for path in tmp_path.iterdir() if path.is_file()) == ["epoch-0001", "progress.j"]
    assert torch.equal(fit_toy(tiny, folder=tmp_path)[0], fit_toy(tiny)[0])
