"""Tests that functions of kernels/ that Python itself runs have annotations, so that mypy checks them (see pyproject.toml)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "kernels").rglob("*.py"))

# Decorators of functions that Python runs; every other decorator compiles its function.
PYTHON_DECORATORS = ("cache", "lru_cache", "contextmanager", "staticmethod", "classmethod", "property", "overload")


def is_compiled(function: ast.FunctionDef) -> bool:
    names = [ast.unparse(decorator).partition("(")[0].rpartition(".")[2] for decorator in function.decorator_list]
    return any(name not in PYTHON_DECORATORS for name in names)


def host_functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yield the functions that are not compiled, nor inside one that is."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            if is_compiled(node):
                continue
            yield node
        yield from host_functions(node)


def is_annotated(function: ast.FunctionDef) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    arguments += [argument for argument in (function.args.vararg, function.args.kwarg) if argument]
    typed = [argument for argument in arguments if argument.annotation or argument.arg in ("self", "cls")]
    return len(typed) == len(arguments) and (function.returns is not None or function.name == "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_host_functions_are_annotated(path: Path) -> None:
    functions = host_functions(ast.parse(path.read_text(encoding="utf-8")))
    unannotated = [f"{path.name}:{function.lineno} {function.name}" for function in functions if not is_annotated(function)]
    assert unannotated == []


def test_an_unannotated_function_is_noticed() -> None:
    tree = ast.parse("@triton.jit\ndef kernel(x):\n    pass\ndef plain(x) -> int:\n    pass\ndef typed(x: int) -> int:\n    pass")
    assert [function.name for function in host_functions(tree)] == ["plain", "typed"]
    assert [is_annotated(function) for function in host_functions(tree)] == [False, True]
