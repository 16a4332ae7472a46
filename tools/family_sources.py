"""Checksums of the sources that the results of a family of configurations depend on.

`tools/compile_matrix.py` writes them into its report, and `tools/support_table.py` compares them with the present sources.
"""

import ast
import functools
import hashlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Results depend on these files, besides the kernel and the compiler. CONFIGURATIONS lists what is compiled.
CHECKS = ("tests/compiled.py", "tests/instructions.py", "tests/overflow.py")
CONFIGURATIONS = "tests/kernels/configurations.py"


def sources() -> dict[str, str]:
    """Return a checksum of sixteen digits for each family of configurations, which changes if its results may change.

    It covers the family's part of CONFIGURATIONS, the kernel modules that the family uses with their imports, and the CHECKS, but
    no comments and docstrings. A new op with its own family does not change the checksums of other families.
    """
    tree = _parsed(ROOT / CONFIGURATIONS)
    defined = {name: node for node in tree.body for name in _defined_by(node)}
    modules = _imported_kernels(tree)
    checks = [_content(ROOT / name) for name in CHECKS]
    return {
        family: _digits([checks, *_parts(["_ends_of_ranges", "pairs", family], defined, modules)]) for family in _families(tree)
    }


def _parsed(path: Path) -> ast.Module:
    return _tree(path.read_text(encoding="utf-8"))


@functools.cache  # the families share most of their files
def _tree(text: str) -> ast.Module:
    return ast.parse(text)


def _content(path: Path) -> str:
    """Return a checksum of the code of a file."""
    return _content_of(path.read_text(encoding="utf-8"))


@functools.cache
def _content_of(text: str) -> str:
    return _digits(_shape(_tree(text)))


def _digits(parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _families(tree: ast.Module) -> list[str]:
    """Return the names of the functions in FAMILIES, a dict of lists."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and _defined_by(node) == ["FAMILIES"]:
            return [name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)]
    raise LookupError(f"{CONFIGURATIONS} defines no FAMILIES")


def _defined_by(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _imported_kernels(tree: ast.Module) -> dict[str, str]:
    """Return the kernel module behind each name that is imported from `orthohash_triton.kernels` or a module of it."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("orthohash_triton.kernels"):
            module = (node.module or "").removeprefix("orthohash_triton.kernels").lstrip(".")
            found |= {alias.asname or alias.name: module or alias.name for alias in node.names}
    return found


def _parts(names: list[str], defined: dict[str, ast.stmt], modules: dict[str, str]) -> list[Any]:
    """Return the syntax trees of `names`, of everything that they refer to, and of the kernel modules that these use."""
    seen: list[str] = []
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in seen and name in defined:
            seen.append(name)
            pending += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
            pending += [
                node.value.id
                for node in ast.walk(defined[name])
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            ]
        elif name not in seen and name in modules:
            seen.append(name)
    files = _with_imports({modules[name] for name in seen if name not in defined})
    own = [_shape(defined[name]) for name in sorted(seen) if name in defined]
    return [*own, *((file, _content(ROOT / "kernels" / f"{file}.py")) for file in files)]


def _with_imports(modules: set[str]) -> list[str]:
    """Return `modules` and all kernel modules that they import, directly or indirectly, by relative imports."""
    found: set[str] = set()
    pending = set(modules)
    while pending:
        module = pending.pop()
        found.add(module)
        for node in ast.walk(_parsed(ROOT / "kernels" / f"{module}.py")):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                imported = {node.module} if node.module else {alias.name for alias in node.names}
                pending |= {name for name in imported if name} - found
    return sorted(found)


def _shape(tree: Any) -> Any:
    """Return a syntax tree as plain values, without positions, docstrings and fields that depend on the version of Python."""
    if isinstance(tree, list):
        return [
            _shape(branch) for branch in tree if not (isinstance(branch, ast.Expr) and isinstance(branch.value, ast.Constant))
        ]
    if not isinstance(tree, ast.AST):
        return tree
    fields = [(name, _shape(value)) for name, value in ast.iter_fields(tree) if value not in (None, [])]
    return type(tree).__name__, fields
