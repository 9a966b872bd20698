"""Published weights: those of a variant's first published run, as safetensors with a card, and their uses."""
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from IPython.display import Markdown
from PIL.Image import Resampling
from safetensors.torch import load_file, save_file
from torch import nn

from course_utils import plots
from course_utils.augment import BatchAugment, denormalize, image_keys
from course_utils.config import ASSIGNMENTS, Experiment, describe_differences
from course_utils.data.info import DATASETS
from course_utils.data.sources import read_image
from course_utils.errors import CourseError, unknown_name_error
from course_utils.models import build_model
from course_utils.models.spatial_transformer import apply_spatial_transformer
from course_utils.reporting.record import Record, published_records
from course_utils.reporting.tables import markdown_table, summary_markdown
from course_utils.training import Training, checkpoint
from course_utils.utils import REPO
from course_utils.variants import load_experiment

LARGEST = 8_000_000  # bytes of weights that are published
HALVED = 2_000_000  # bytes of weights above which a file holds them in half precision
QUOTED = "**From the published run"  # begins a quotation in another run's notebook
LICENSE = "MIT; the training images have licenses of their own and are not contained"


def final_weights(folder: Path, record: Record) -> dict[str, torch.Tensor] | None:
    """The evaluated weights of the finished run in ``folder``, from its last checkpoint, each a copy of its own as
    safetensors needs it; ``None``: there is none. Raises ``CourseError`` for a checkpoint of another run, or of an
    earlier epoch.
    """
    last, history = len(record["experiment"]["stages"]) + 1, record["history"]
    state = checkpoint.load_latest(folder / f"stage{last}" if last > 1 else folder)
    if state is None:
        return None
    losses = [row["train_loss"] for row in history if row.get("stage") == history[-1].get("stage")]
    if losses != [row["train_loss"] for row in state.get("history", ())]:
        raise CourseError(f"The checkpoint in {folder} is not the last of the run that its record describes.")
    weights = (state["best"] or state)["model"]
    return {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in weights.items()}


def export_weights(folder: Path, record: Record, name: str) -> Path | None:
    """Write the evaluated weights of the run in ``folder``, published as ``name``; ``None`` if they are too large.
    Large ones are rounded to half precision: of 2.4's 8,000 test images one changes its class by that, in float32.
    """
    exp, weights = record["experiment"], final_weights(folder, record)
    if weights is None or (size := sum(tensor.nbytes for tensor in weights.values())) > LARGEST:
        return None
    if size > HALVED:
        weights = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in weights.items()}
    path = ASSIGNMENTS / exp["assignment"] / "weights" / f"{exp['variant']}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {"assignment": exp["assignment"], "variant": exp["variant"], "run": name, "record": record["sha256"],
            "about": exp["about"], "result": summary_markdown(record).replace("**", ""), "license": LICENSE}
    save_file(weights, path, card)
    return path


def read_card(path: Path) -> dict[str, str]:
    """What ``path`` says about itself: assignment, variant, run, result, license. Raises ``CourseError``."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise CourseError(f"{path} is not a file of weights: {error}") from error


def load_weights(path: Path) -> tuple[nn.Module, Experiment]:
    """The trained network in ``path``, in eval mode on the CPU, and its experiment. Raises ``CourseError``."""
    card = read_card(path)
    if not card.keys() >= {"assignment", "variant"}:
        raise CourseError(f"{path} has no card of this course: it names neither assignment nor variant.")
    exp = load_experiment(card["assignment"], card["variant"])
    info = DATASETS[exp.dataset]
    model = build_model(exp.model, len(info.classes), info.image_size, **exp.model_settings)
    _load_into(model, path)
    return model.eval(), exp


def _load_into(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise CourseError(f"{path} holds weights of another network: {str(error).splitlines()[-1].strip()}") from error


def published_training(exp: Experiment, model: nn.Module) -> Training:
    """Load the variant's published weights into ``model``; return how they were trained, from the run's record. Raises
    ``CourseError`` for a variant without published weights, for weights of another run than the record's, and for
    settings that are not that run's.
    """
    home = ASSIGNMENTS / exp.assignment
    path = home / "weights" / f"{exp.variant}.safetensors"
    if not path.is_file():
        raise unknown_name_error(f"published weights of {exp.assignment}", exp.variant,
                                 [found.stem for found in (home / "weights").glob("*.safetensors")])
    card = read_card(path)
    record = published_records(exp.assignment).get(card.get("run", ""))
    if record is None or card["record"] != record["sha256"]:
        raise CourseError(f"{path} is not of the published run {card.get('run')}: publish it again.")
    chosen = dict.fromkeys(("profile", "precision"))  # may differ
    if differences := describe_differences(exp.as_dict() | chosen, record["experiment"] | chosen):
        raise CourseError(f"{path} was trained with other settings:\n  " + "\n  ".join(differences))
    _load_into(model, path)
    best = {"epoch": record["kept_epoch"]} if record["experiment"]["select_epoch"] == "best" else None
    return Training(record["history"], record["sessions"], best)


def published_figures(assignment: str, variant: str, kinds: tuple[str, ...]) -> list[Any]:
    """For a notebook: figures of the variant's published run on the real data, under its result in words."""
    runs = [(name, record) for name, record in published_records(assignment).items()
            if record["experiment"]["variant"] == variant]
    if not runs:
        return [Markdown(f"_{variant} has no published run yet._")]
    name, record = runs[0]
    paths = [REPO / "images" / assignment / f"{name}-{kind}.png" for kind in kinds]
    return [Markdown(f"{QUOTED} `{name}`**, whatever ran above. {summary_markdown(record)}"),
            *(plots.show_figure(path) for path in paths if path.is_file())]


@torch.no_grad()
def predict_picture(weights: Path, picture: Path, figure: Path, count: int = 3) -> list[tuple[str, float]]:
    """The ``count`` most probable classes of a picture file with their probabilities, 0 to 1. The whole picture is
    resized as the training images were; ``figure`` gets what the network saw. Raises ``CourseError`` for no picture.
    """
    model, exp = load_weights(weights)
    info = DATASETS[exp.dataset]
    image = read_image(picture).resize((info.image_size,) * 2, Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)[None])
    augment = BatchAugment(exp.all_stages[-1].test_transforms, info.mean, info.std)
    x = augment(pixels, image_keys(0, 0, torch.zeros(1, dtype=torch.int64)))
    probabilities = torch.softmax(model(x).flatten(1), 1)[0]
    seen = [denormalize(images, info.mean, info.std)[0] for images in (x, apply_spatial_transformer(model, x))]
    found = [(info.classes[k], float(probabilities[k])) for k in probabilities.argsort(descending=True)[:count]]
    plots.save_figure(plots.image_grid(np.stack(seen), [f"{image.width}x{image.height} pixels", "as classified"], 2,
                                       f"{found[0][0]}: {found[0][1]:.1%}"), figure)
    return found


def weights_table(assignment: str) -> str:
    """Markdown: the published weights of an assignment."""
    rows = [["weights", "size", "test accuracy"]]
    records = published_records(assignment)
    for path in sorted((ASSIGNMENTS / assignment / "weights").glob("*.safetensors")):
        run = records.get(read_card(path).get("run", ""))
        rows.append([f"[{path.stem}](weights/{path.name})", f"{path.stat().st_size / 1e6:.2f} MB",
                     f"{100 * run['final']['accuracy']:.2f} %" if run else "–"])
    return markdown_table(rows)


