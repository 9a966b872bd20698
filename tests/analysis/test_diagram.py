"""Diagrams of networks: every block with its layers, its parameters and the shape of its output."""
import pytest

from course_utils.analysis.diagram import network_diagram
from course_utils.models import build_model


def texts(name, size, classes=10):
    figure = network_diagram(build_model(name, classes), (1, 3, size, size), "t")
    return [text.get_text() for text in figure.axes[0].texts]


def test_blocks_have_layers_parameters_and_shapes():
    found = texts("custom_resnet", 32)
    assert "input\n3×32×32" in found and "prep\nconv 3×3\n1,856 parameters" in found
    assert "layer3_r\n2× conv 3×3\n4,720,640 parameters" in found and found.count("+ x") == 2
    assert [text for text in found if text[:1].isdigit()] == [
        "64×32×32", "128×16×16", "128×16×16", "256×8×8", "512×4×4", "512×4×4", "512×1×1", "10"]


@pytest.mark.parametrize(("name", "size", "expected"), [
    ("s7", 32, "block2\n3× conv 3×3, depthwise\n3× conv 1×1\n9,952 parameters"),
    ("s7", 32, "transition1\nconv 3×3, dilation 2\nconv 3×3\n18,560 parameters"),
    ("grouped_resnet", 96, "+ x, in each of 6 blocks"),
    ("vgg16", 32, "avgpool\nglobal mean"),  # inside of the wrapper
])
def test_kinds_of_layers(name, size, expected):
    assert expected in texts(name, size)
