"""Tests that a message about a missing package names a command that works, although this package is in no package index."""

import ast
import re
import sys
from importlib import import_module, metadata

import pytest

from orthohash_triton._base import extras
from tools.modules import ROOT


def optional() -> dict[str, list[str]]:
    """Return the requirements of each extra, from pyproject.toml."""
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return toml.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def calls() -> list[tuple[str, list[str], str]]:
    """Return the place, the packages and the extra of every call of `install` in the package."""
    found = []
    for path in (ROOT / "orthohash_triton").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "install":
                packages = [ast.literal_eval(argument) for argument in node.args]
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", packages, ast.literal_eval(node.keywords[0].value)))
    return found


def test_every_hint_names_packages_of_its_extra() -> None:
    assert len(calls()) >= 15
    for place, packages, extra in calls():
        listed = {re.split(r"[^\w-]", requirement)[0] for requirement in optional()[extra]}
        assert packages, place
        assert set(packages) <= listed, place


def test_no_message_installs_this_package_from_an_index() -> None:
    texts = [
        node.value
        for path in (ROOT / "orthohash_triton").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [text for text in texts if re.search(r"pip install (-U )?\"?orthohash", text) and "fails" not in text] == []


def test_without_an_installation_there_are_no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    extras._requirements.cache_clear()
    try:
        assert extras.install("rich", extra="train").startswith('pip install "rich" (or')
    finally:
        extras._requirements.cache_clear()
