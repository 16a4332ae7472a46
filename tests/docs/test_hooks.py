"""Tests of docs/hooks.py and docs/docstrings.py, which transform pages and docstrings."""

import importlib.util

import pytest

from tests.docs import pages

pytest.importorskip("griffe")
pytest.importorskip("mkdocs")
pytest.importorskip("latex2mathml")


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"site_{name}", pages.DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_columns_become_lists():
    rest = "Args:\n    x: a  number."
    text = f"What it does.\n\nrows, bits  how many\n    of each\nname        of `it`\n\nskip  them\n\n{rest}"
    lists = "- `rows`, `bits`: how many\n  of each\n- `name`: of `it`\n\n<!-- -->\n\n- `skip`: them"
    assert load("docstrings").as_lists(text) == f"What it does.\n\n{lists}\n\n{rest}"


def test_sentences_stay():
    text = "Two words.  And more, in a paragraph\nthat goes on."
    assert load("docstrings").as_lists(text) == text


def test_links_to_files_of_the_repository_lead_into_the_site():
    hooks = load("hooks")
    assert hooks.in_the_site("[a](../bench/results/a.csv) [b](../../bench/results/b/README.md#x) [c](../../examples/c.py)") == (
        "[a](results/a.csv) [b](../results/b/README.md#x) [c](../examples/c.py)"
    )


def test_formulae_become_mathml():
    found = load("hooks").on_page_content('<p>A <span class="arithmatex">\\(a &lt; b\\)</span>.</p>')
    assert found.startswith('<p>A <math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">')
    assert "<mo>&#x0003C;</mo>" in found
    assert "arithmatex" not in found


def test_every_command_is_described():
    text = load("hooks").commands()
    for name in ("train", "encode", "search", "report"):
        assert f"## orthohash {name}\n" in text
        assert f"usage: orthohash {name}" in text
