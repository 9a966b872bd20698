"""The site: ``make site`` builds it with Sphinx from README, pages and committed notebooks. Nothing is executed."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
project = README.partition("\n")[0].lstrip("# ")
repository = re.search(r"colab/?\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob", README)[1]  # OWNER/NAME

extensions = ["myst_nb", "sphinx-mathjax-offline"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "docs/*.md", "notebooks/*.ipynb", "assignments/*/*.md",
                    "assignments/*/solutions.ipynb", "assignments/*/runs/*.ipynb"]
exclude_patterns = ["docs/_site", ".venv*"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {"repository_url": f"https://github.com/{repository}", "use_repository_button": True,
                      "launch_buttons": {"colab_url": "https://colab.research.google.com"}, "home_page_in_toc": True}


def _tree(caption: str, pages: list[Path], titles: bool = False) -> str:
    """A table of contents; with ``titles`` a page is called by its file's name, since all runs have the same title."""
    names = [str(path.relative_to(ROOT).with_suffix("")) for path in pages]
    lines = [f"{Path(name).name} <{name}>" if titles else name for name in names]
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", *lines, "```", ""])


def _add_contents(app: object, name: str, source: list[str]) -> None:
    """The side bar's contents, after the README's text: GitHub would show them as code."""
    if name == root_doc:
        source[0] += _tree("Notebooks", sorted(ROOT.glob("notebooks/*.ipynb")))
        source[0] += _tree("Assignments", sorted(ROOT.glob("assignments/*/README.md")))
        source[0] += _tree("Networks", sorted(ROOT.glob("assignments/*/networks.md")))
        source[0] += _tree("Solutions", sorted(ROOT.glob("assignments/*/solutions.ipynb")))
        source[0] += _tree("Using it", [*sorted(ROOT.glob("docs/*.md")), ROOT / "CONTRIBUTING.md"])
        for folder in sorted(ROOT.glob("assignments/*/runs")):
            source[0] += _tree(f"Runs of {folder.parent.name}", sorted(folder.glob("*.ipynb")), titles=True)


def _add_index(app: object, error: Exception | None) -> None:
    if error is None:
        Path(app.outdir, "index.html").write_text('<meta http-equiv="refresh" content="0; url=README.html">')


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _add_index)
