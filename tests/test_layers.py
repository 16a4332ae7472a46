"""Imports go down only: kernels <- ops <- (nn, codebooks, search, metrics) <- (methods, data) <- train <- cli."""

import ast
from pathlib import Path

import pytest

import orthohash_triton

ROOT = Path(__file__).parent.parent
PACKAGE = "orthohash_triton"

# Module prefix (the longest that matches) -> floor. Modules of one floor may import each other.
FLOORS = {
    f"{PACKAGE}.kernels": 0,
    f"{PACKAGE}.reference": 0,
    f"{PACKAGE}._files": 0,
    f"{PACKAGE}._environment": 0,
    f"{PACKAGE}.ops": 1,
    f"{PACKAGE}.nn": 2,
    f"{PACKAGE}.codebooks": 2,
    f"{PACKAGE}.projections": 2,
    f"{PACKAGE}.rotations": 2,
    f"{PACKAGE}.hierarchy": 2,
    f"{PACKAGE}.search": 2,
    f"{PACKAGE}.metrics": 2,
    f"{PACKAGE}.methods": 3,
    f"{PACKAGE}.data": 3,
    f"{PACKAGE}.train": 4,
    f"{PACKAGE}._figures": 5,
    f"{PACKAGE}._picture": 5,
    f"{PACKAGE}.encoding": 5,
    f"{PACKAGE}._profiles": 5,
    f"{PACKAGE}._samples": 5,
    f"{PACKAGE}.report": 5,
    f"{PACKAGE}.browse": 5,
    f"{PACKAGE}.compare": 5,
    f"{PACKAGE}.demo": 5,
    f"{PACKAGE}.doctor": 5,
    f"{PACKAGE}.cli": 6,
    f"{PACKAGE}.__main__": 6,
}


def modules() -> dict[str, Path]:
    """Every module of the package, by its installed name."""
    found = {}
    for folder, name in ((ROOT / PACKAGE, PACKAGE), (ROOT / "kernels", f"{PACKAGE}.kernels")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([name, *(part for part in parts if part != "__init__")])] = path
    return found


def floor(module: str) -> int | None:
    """The floor of `module`; None for the package's own __init__, which gathers everything, and for other packages."""
    while module and module not in FLOORS:
        module = module.rpartition(".")[0]
    return FLOORS.get(module)


def imports(module: str, path: Path) -> set[str]:
    """Absolute names of what `module` imports, anywhere in its text."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def violations(module: str, own: int, imported: set[str]) -> list[str]:
    return sorted(name for name in imported if (other := floor(name)) is not None and other > own)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module: str) -> None:
    own = floor(module)
    if module == PACKAGE:
        return
    assert own is not None, f"{module} stands on no floor: add it to FLOORS"
    assert violations(module, own, imports(module, modules()[module])) == []


@pytest.mark.parametrize("module", sorted(name for name in modules() if floor(name) == 0 and ".kernels" in name))
def test_kernels_import_nothing_of_the_package(module: str) -> None:
    outside = {name for name in imports(module, modules()[module]) if name.startswith(PACKAGE)}
    assert {name for name in outside if not name.startswith(f"{PACKAGE}.kernels")} == set()


def test_a_violation_is_seen() -> None:
    path = ROOT / PACKAGE / "ops" / "_dispatch.py"
    assert f"{PACKAGE}.kernels.launch" in imports(f"{PACKAGE}.ops._dispatch", path)  # `from ..kernels import launch`
    assert violations(f"{PACKAGE}.ops.x", 1, {f"{PACKAGE}.train.trainer", "torch", f"{PACKAGE}.kernels.launch"}) == [
        f"{PACKAGE}.train.trainer"
    ]


def test_this_tree_is_the_one_imported() -> None:
    assert Path(orthohash_triton.__file__).parent == ROOT / PACKAGE
