"""Tests that imports lead to lower layers only, without cycles, and that private modules are used in their folder only."""

import ast
from pathlib import Path

import pytest

import orthohash_triton
from tools import modules as python_modules
from tools.modules import ROOT

PACKAGE = "orthohash_triton"

# Longest matching module prefix -> layer (see CONTRIBUTING.md). Modules of one layer may import each other.
FLOORS = {
    f"{PACKAGE}._base": 0,
    f"{PACKAGE}.kernels": 0,
    f"{PACKAGE}.reference": 1,
    f"{PACKAGE}.ops": 2,
    f"{PACKAGE}.nn": 3,
    f"{PACKAGE}.codebooks": 3,
    f"{PACKAGE}.projections": 3,
    f"{PACKAGE}.rotations": 3,
    f"{PACKAGE}.hierarchy": 3,
    f"{PACKAGE}.search": 3,
    f"{PACKAGE}.metrics": 3,
    f"{PACKAGE}.methods": 4,
    f"{PACKAGE}.data": 4,
    f"{PACKAGE}.plots": 5,
    f"{PACKAGE}.models": 5,
    f"{PACKAGE}.train": 6,
    f"{PACKAGE}.runs": 7,
    f"{PACKAGE}.report": 8,
    f"{PACKAGE}.browse": 8,
    f"{PACKAGE}.compare": 8,
    f"{PACKAGE}.demo": 8,
    f"{PACKAGE}.doctor": 8,
    f"{PACKAGE}.cli": 9,
    f"{PACKAGE}.__main__": 9,
}


def modules() -> dict[str, Path]:
    """Return the file of every module of the package, by installed name."""
    paths = [path for folder in (PACKAGE, "kernels") for path in (ROOT / folder).rglob("*.py")]
    return {str(python_modules.module_of(path.relative_to(ROOT).as_posix())): path for path in paths}


def floor(module: str) -> int | None:
    """Return the layer of `module`; None for other packages, and for the package's own __init__, which imports everything."""
    while module and module not in FLOORS:
        module = module.rpartition(".")[0]
    return FLOORS.get(module)


def imports(path: Path) -> set[str]:
    """Return the absolute names of everything that a file imports, also inside functions."""
    found = python_modules.imports(path, ast.parse(path.read_text(encoding="utf-8")))
    return {name if base is None else f"{base}.{name}" for base, name in found}


def violations(module: str, own: int, imported: set[str]) -> list[str]:
    return sorted(name for name in imported if (other := floor(name)) is not None and other > own)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module: str) -> None:
    own = floor(module)
    if module == PACKAGE:
        return
    assert own is not None, f"{module} stands on no floor: add it to FLOORS"
    assert violations(module, own, imports(modules()[module])) == []


def resolved(name: str, known: set[str]) -> str | None:
    """Return the module of this package that an import of `name` reads: `name`, or its parent if `name` is an attribute."""
    if name in known:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in known else None


def test_no_circle_of_imports() -> None:
    """Imports within functions count too. The package's own __init__ imports everything, and is left out."""
    known = {module: path for module, path in modules().items() if module != PACKAGE}
    arrows = {
        module: {target for name in imports(path) if (target := resolved(name, set(known))) and target != module}
        for module, path in known.items()
    }
    while leaves := [module for module, targets in arrows.items() if not targets & arrows.keys()]:
        for module in leaves:
            del arrows[module]
    assert not arrows, f"in a circle, or above one: {sorted(arrows)}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_private_modules_are_imported_in_their_own_folder_only(module: str) -> None:
    """A module `_x` belongs to the package that holds it."""
    known = modules()
    package = module if known[module].name == "__init__.py" else module.rpartition(".")[0]
    foreign = []
    for name in imports(known[module]):
        target = resolved(name, set(known))
        parts = (target or "").split(".")
        for position, part in enumerate(parts):
            if part.startswith("_") and not part.startswith("__"):
                holder = ".".join(parts[:position])
                if package != holder and not package.startswith(f"{holder}."):
                    foreign.append(name)
    assert foreign == []


@pytest.mark.parametrize("module", sorted(name for name in modules() if floor(name) == 0 and ".kernels" in name))
def test_kernels_import_nothing_of_the_package(module: str) -> None:
    outside = {name for name in imports(modules()[module]) if name.startswith(PACKAGE)}
    assert {name for name in outside if not name.startswith(f"{PACKAGE}.kernels")} == set()


def test_a_violation_is_seen() -> None:
    path = ROOT / PACKAGE / "ops" / "dispatch.py"
    assert f"{PACKAGE}.kernels.launch" in imports(path)  # `from ..kernels import launch`
    assert violations(f"{PACKAGE}.ops.x", 1, {f"{PACKAGE}.train.trainer", "torch", f"{PACKAGE}.kernels.launch"}) == [
        f"{PACKAGE}.train.trainer"
    ]


def test_this_tree_is_the_one_imported() -> None:
    assert Path(orthohash_triton.__file__).parent == ROOT / PACKAGE
