"""Tests that every public name is documented in the reference exactly once."""

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest

from tests.docs import pages
from tests.public import public_modules

# The page of the command line shows its commands instead of its functions; `compare` declares no `__all__`.
MODULES = sorted({module.__name__ for module in public_modules()} - {"orthohash_triton.cli"} | {"orthohash_triton.compare"})


def described(path: Path) -> list[str]:
    """Return the names that a page of the reference documents."""
    return re.findall(r"^::: ([\w.]+)$", path.read_text(), re.MULTILINE)


REFERENCE = sorted((pages.DOCS / "reference").glob("*.md"))
DOCUMENTED = {name for path in REFERENCE for name in described(path)}


def what(name: str) -> object:
    """Return the object with a dotted name; an attribute of a module takes precedence over a submodule of the same name."""
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute, None)
    return importlib.import_module(name) if found is None else found


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module):
    """A name is documented if any of its aliases is; a submodule is documented through its functions."""
    documented = {id(what(name)) for name in DOCUMENTED}
    public = importlib.import_module(module)
    names = public.__all__ if hasattr(public, "__all__") else ("compare", "table")
    missing = [name for name in names if id(getattr(public, name)) not in documented and f"{module}.{name}" not in MODULES]
    assert not missing


def test_documented_names_exist_once():
    assert sum(len(described(path)) for path in REFERENCE) == len(DOCUMENTED)
    for name in DOCUMENTED:
        found = what(name)
        assert found is not None
        package = hasattr(sys.modules.get(name.rpartition(".")[0]), "__path__")
        named_file = importlib.util.find_spec(name) if package else None
        assert named_file is None or inspect.ismodule(found), (
            f"the reference would show the file {name}, not what it is called for"
        )
