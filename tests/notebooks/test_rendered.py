"""Every committed notebook as an HTML page: all its figures are there, and no warnings or tracebacks."""
import base64
import json
import re
import struct

import pytest
from nbconvert import HTMLExporter
from notebook_files import NOTEBOOKS, PUBLISHED, assert_no_paths

from course_utils import plots
from course_utils.utils import REPO

WIDEST = 1650  # pixels: a wider figure is scaled down until its text is illegible


def images(path):
    """The PNG images in the outputs of a notebook, and in how many pixels each is shown, if that is said."""
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", ())]
    return [(base64.b64decode("".join(output["data"]["image/png"])),
             output["metadata"].get("image/png", {}).get("width")) for output in outputs
            if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PUBLISHED], ids=lambda p: p.stem)
def test_it_renders_completely(path, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(HTMLExporter().from_filename(str(path))[0])
    text = page.read_text()
    assert len(re.findall("<img [^>]*data:image/png;base64,", text)) == len(images(path)) >= 8
    assert_no_paths(page)
    for debris in ("Traceback (most recent call last)", "Warning:", "it/s]", "%|",
                   'data-mime-type="application/vnd.jupyter.stderr"'):
        assert debris not in text.partition("</head>")[2], debris


def test_pages_load_quickly():
    sizes = {path: path.stat().st_size for path in (*NOTEBOOKS, *PUBLISHED)}
    assert {path for path, size in sizes.items() if size > 900_000} == set()
    assert {path for path in REPO.glob("images/**/*.*") if path.stat().st_size > plots.LARGEST} == set()


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PUBLISHED], ids=lambda p: p.stem)
def test_its_figures_are_white_and_not_too_wide(path):
    """A white background looks the same on a dark page; a transparent one would leave black text on black."""
    from io import BytesIO

    from PIL import Image

    for png, shown in images(path):
        width, _ = struct.unpack(">II", png[16:24])
        assert (shown or width) <= WIDEST and shown in (None, width // 2)
        corner = Image.open(BytesIO(png)).convert("RGBA").getpixel((0, 0))
        assert corner == (255, 255, 255, 255)
