"""The page of an assignment's networks: a diagram and the layer table of each."""
import inspect
from pathlib import Path

from course_utils import plots
from course_utils.analysis.diagram import network_diagram
from course_utils.config import Experiment
from course_utils.data.info import DATASETS
from course_utils.models import build_model
from course_utils.models.summary import count_parameters, summary
from course_utils.reporting.tables import raw
from course_utils.utils import REPO
from course_utils.variants import load_experiment, read_assignment


def networks_of(assignment: str) -> dict[str, Experiment]:
    """By the name of its diagram, the first variant of each network, without those that only add a transformer."""
    found: dict[str, Experiment] = {}
    for variant in read_assignment(assignment)["variants"]:
        exp = load_experiment(assignment, variant)
        if not exp.model.endswith("_stn"):
            found.setdefault(Path(exp.model).name.replace(".py:", "-"), exp)
    return found


def networks_page(assignment: str, draw: bool = False) -> str:
    """The page as Markdown; with ``draw`` its diagrams are written too, as SVG."""
    parts = [f"# Networks: {raw(read_assignment(assignment)['title'])}",
             "Written by `python -m course_utils report`. Shapes are channels × height × width.\n\nBack to the "
             "[assignment](README.md)."]
    for name, exp in networks_of(assignment).items():
        info = DATASETS[exp.dataset]
        model = build_model(exp.model, len(info.classes), info.image_size, **exp.model_settings)
        shape, picture = (1, 3, info.image_size, info.image_size), f"images/{assignment}/network-{name}.svg"
        if draw:
            plots.save_svg(network_diagram(model, shape, name), REPO / picture)
        about, table = inspect.cleandoc(type(model).__doc__ or ""), summary(model, shape, depth=4)
        parts += [f"## {name}", f"{about}\n\n{count_parameters(model):,} parameters.", f"![{name}](../../{picture})",
                  f"<details><summary>Layer table</summary>\n\n```\n{table}\n```\n\n</details>"]
    return "\n\n".join(parts) + "\n"
