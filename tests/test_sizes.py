"""Tests that files have fewer than 500 lines, and functions that are no kernels fewer than 60."""

import ast
from collections.abc import Iterator

from tools.modules import ROOT

LINES_OF_A_FILE = 500
LINES_OF_A_FUNCTION = 60  # without its docstring
COMPILERS = ("triton.jit", "compiled", "inlined")  # decorators of kernels
FOLDERS = ("orthohash_triton", "kernels", "tools", "bench", "examples")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Yield name and number of lines of each function that neither Triton nor Numba compiles."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_kernel(node):
            documented = ast.get_docstring(node, clean=False) is not None
            docstring = lines(node.body[0]) if documented else 0
            yield node.name, lines(node) - docstring


def lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith(COMPILERS) for decorator in node.decorator_list)


def test_sizes() -> None:
    """A file that is too long has a part with a purpose of its own, which belongs into another file."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in SOURCES}
    assert len(texts) > 300
    assert {path: long for path, text in texts.items() if (long := len(text.splitlines())) >= LINES_OF_A_FILE} == {}
    found = {(path, *function) for path, text in texts.items() for function in functions(text)}
    assert sorted(function for function in found if function[2] >= LINES_OF_A_FUNCTION) == []


def test_what_counts() -> None:
    """Docstrings and kernels do not count; a function inside another one does."""
    kernel = "@triton.jit(repr=3)\ndef kernel():\n" + "    x = 1\n" * 60
    function = 'def f():\n    """One\n    two."""\n    def g():\n        """Say."""\n        return 1\n'
    assert list(functions(kernel + function)) == [("f", 4), ("g", 2)]
