"""Handing in a run: its weights, its record, and the file of a custom network."""
import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from course_utils.config import is_custom
from course_utils.errors import CourseError
from course_utils.reporting.record import read_record
from course_utils.reporting.weights import final_weights
from course_utils.variants import file_hash, load_experiment, model_files

WEIGHTS, RECORD = "weights.safetensors", "record.json"


def submit(folder: Path, out: Path) -> Path:
    """Write what is graded of the finished run in ``folder`` to the new folder ``out``. Raises ``CourseError``."""
    record = read_record(folder / RECORD)
    exp, weights = record["experiment"], final_weights(folder, record)
    if weights is None:
        raise CourseError(f"{folder} has no checkpoint: its weights cannot be handed in.")
    usual = load_experiment(exp["assignment"], exp["variant"]).model  # with its folder, which a record leaves out
    model = usual if Path(usual).name == exp["model"] else exp["model"]
    if is_custom(model) and file_hash(model) != exp["model_file"]:
        raise CourseError(f"{exp['model']} was edited after the run: run it again, then hand it in.")
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise CourseError(f"{out} exists already: name a new folder.") from None
    card = {name: exp[name] for name in ("assignment", "variant", "model")}
    save_file(weights, out / WEIGHTS, card | {"settings": json.dumps(exp["model_settings"]), "dataset": exp["dataset"]})
    shutil.copyfile(folder / RECORD, out / RECORD)
    files = model_files(model) if is_custom(model) else []
    for path in files:  # the first is the network's own, the others lie beside it or in packages there
        (place := out / path.relative_to(files[0].parent)).parent.mkdir(exist_ok=True, parents=True)
        shutil.copyfile(path, place)
    return out
