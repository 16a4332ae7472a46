"""Tests that the figures equal the output of their scripts, and that each is used on a page."""

import importlib.util
import re
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from tests.docs import pages

pytest.importorskip("matplotlib")

FIGURES = pages.DOCS / "figures"
SCRIPTS = ("codes", "loss", "search")
LARGEST = 150_000  # bytes


def load(script: str):
    sys.path.insert(0, str(FIGURES))
    try:
        spec = importlib.util.spec_from_file_location(f"figures_{script}", FIGURES / f"{script}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FIGURES))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_draw_the_figures(script, tmp_path):
    drawn = load(script).draw(tmp_path)
    assert drawn
    for path in drawn:
        assert words(path) == words(FIGURES / path.name), f"run python docs/figures/{script}.py"


def words(path) -> list[str]:
    """Return the text elements of a figure, which do not depend on the version of Matplotlib."""
    return [element.text for element in ElementTree.parse(path).iter() if element.tag.endswith("}text")]


def test_figures_are_small_and_used_and_take_the_colour_of_the_page():
    used = {name for path in pages.PAGES for name in re.findall(r"figures/([\w-]+\.svg)", path.read_text())}
    assert {path.name for path in FIGURES.glob("*.svg")} == used
    for path in FIGURES.glob("*.svg"):
        text = path.read_text()
        assert len(text) < LARGEST
        assert "currentColor" in text
        assert "<style" not in text
        assert "http" not in text.replace("http://www.w3.org/", "")
