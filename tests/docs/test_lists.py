"""Tests that lists on the pages equal the lists in the code."""

import re

from orthohash_triton import methods
from orthohash_triton._base import moved
from tests.docs import pages


def first_column(text: str) -> list[str]:
    """Return the quoted names in the first column of the tables of a page."""
    cells = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_the_table_of_methods_lists_every_method():
    table = (pages.DOCS / "methods.md").read_text().partition("\n## ")[0]
    assert sorted(first_column(table)) == sorted(methods.names())


def test_the_changelog_lists_every_moved_name():
    deprecated = (pages.ROOT / "CHANGELOG.md").read_text().partition("### Deprecated")[2].partition("\n### ")[0]
    listed = dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", deprecated, re.MULTILINE))
    assert listed == moved.MODULES | moved.NAMES


def test_contributing_lists_every_environment_variable():
    sources = [path for folder in ("orthohash_triton", "kernels", "tests") for path in (pages.ROOT / folder).rglob("*.py")]
    used = {name for path in sources for name in re.findall(r"[\"'](ORTHOHASH_[A-Z_]+)[\"']", path.read_text())}
    table = (pages.ROOT / "CONTRIBUTING.md").read_text().partition("## Environment variables")[2].partition("\n## ")[0]
    assert used == {name for name in first_column(table) if name.startswith("ORTHOHASH_")}


def test_contributing_lists_every_make_target():
    makefile = (pages.ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    named = set(re.findall(r"`make ([a-z][\w-]*)", (pages.ROOT / "CONTRIBUTING.md").read_text()))
    assert named <= targets
