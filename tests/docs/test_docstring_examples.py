"""Tests that every public function and class has an example in its docstring, and that examples run as shown."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

from orthohash_triton import methods
from orthohash_triton.data import named
from tests.docs.pages import ROOT
from tests.public import public_objects

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PUBLIC = public_objects()


def has_example(value: object) -> bool:
    """Return whether the docstring of `value` itself has a section `Example:` or `Examples:` with `>>>` in it."""
    text = inspect.cleandoc(value.__doc__ or "")
    section = re.search(r"^Examples?:\n((?: .*\n?|\n)+)", text, re.MULTILINE)
    return section is not None and ">>> " in section[1]


def module_name(path: Path) -> str:
    """Return the name under which a file of the repository is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "kernels":
        parts = ("orthohash_triton", *parts)
    return ".".join(part for part in parts if part != "__init__")


def modules_with_examples() -> list[str]:
    """Return the modules that have `>>>` in their text."""
    paths = [path for folder in ("orthohash_triton", "kernels") for path in (ROOT / folder).rglob("*.py")]
    return sorted(module_name(path) for path in paths if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLIC)
def test_has_an_example(name: str) -> None:
    assert has_example(PUBLIC[name]), f"the docstring of {name} needs a section `Example:` with `>>>` lines and their output"


def test_a_docstring_without_an_example_is_noticed() -> None:
    def function() -> None:
        """Do something.

        Example: see the pages.
        """

    assert not has_example(function)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Each docstring runs with names of its own, one thread and an empty folder, and registers nothing for other tests."""
    monkeypatch.chdir(tmp_path)
    for registering in (methods, named):
        monkeypatch.setattr(registering, "_registry", registering._registry.copy())
    module = importlib.import_module(name)
    examples = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module, globs={}) if test.examples]
    assert examples, f"{name} has `>>>` in its text, but in no docstring that doctest finds"
    runner, report = doctest.DocTestRunner(optionflags=OPTIONS), []
    for test in examples:
        torch.manual_seed(0)
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)
