"""Tests that every function of the package that reads a file is declared as a reader (see `_base.reading`)."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from orthohash_triton._base.reading import READERS
from tools.modules import ROOT, module_of

PACKAGE = ROOT / "orthohash_triton"

# Calls that read a file, by the name of the function or method. `load` reads only as a function of one of OWNERS_OF_LOAD.
READING = {
    "read_text", "read_bytes", "open", "load", "load_file", "safe_open", "memmap", "fromfile", "loadtxt", "genfromtxt", "ZipFile",
    "from_file", "read_table", "read_csv", "read_schema", "ParquetFile", "InferenceSession",
}  # fmt: skip
OWNERS_OF_LOAD = {"np", "numpy", "torch", "json", "pickle", "yaml", "tomllib", "tomli", "onnx", "joblib"}
NOT_FILES = {"os", "webbrowser"}  # os.open returns a descriptor of a folder, webbrowser.open starts a browser

# Functions that read a file without being declared as a reader, and why.
EXCEPTIONS = {
    "_base.environment.cpu_model": "reads /proc, and has an answer for every failure",
    "_base.environment._cpu_flags": "reads /proc, and has an answer for every failure",
    "_base.environment._first_line": "reads /proc and /sys, and has an answer for every failure",
    "data.decoding.open_image": "its callers turn every exception into the reason why the image is left out",
    "data.decoding._content": "looks at the first bytes for such a reason",
    "models.onnx_export._session": "takes the bytes of a file that a reader has read",
    "models.pretrained_files._require_unused": "looks for a mark in a file that would be replaced, whatever it holds",
    "runs.partial_codes.__enter__": "appends to the codes of this encoding",
    "search._folder.remove_unnamed": "looks for the names of shards in a manifest, whatever else it holds",
    "search.faiss_io._open": "only opens a file, for readers",
}  # fmt: skip


def name_of(function: ast.expr) -> tuple[str, str]:
    """Return the owner and the name of a called function: ("np", "load"), ("", "open")."""
    if isinstance(function, ast.Attribute):
        return (function.value.id if isinstance(function.value, ast.Name) else ""), function.attr
    return "", function.id if isinstance(function, ast.Name) else ""


def reads(call: ast.Call) -> bool:
    """Return whether a call reads a file."""
    owner, name = name_of(call.func)
    if name not in READING or owner in NOT_FILES or (name == "load" and owner not in OWNERS_OF_LOAD):
        return False
    return not any(isinstance(text, ast.Constant) and text.value in ("w", "wb", "xb", "ab") for text in call.args[:2])


def is_declared(node: ast.AST) -> bool:
    """Return whether `node` is a function with the decorator, or a block `with naming(...)`."""
    if isinstance(node, ast.FunctionDef):
        return any(isinstance(given, ast.Call) and name_of(given.func)[1] == "reader" for given in node.decorator_list)
    if isinstance(node, ast.With):
        calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        return any(name_of(call.func)[1] in ("naming", "_reading") for call in calls)
    return False


def undeclared(node: ast.AST, module: str, function: str = "") -> Iterator[str]:
    """Yield "module.function" for every call below `node` that reads a file outside of what is declared."""
    for child in ast.iter_child_nodes(node):
        if is_declared(child):
            continue
        name = child.name if isinstance(child, ast.FunctionDef) else function
        if isinstance(child, ast.Call) and reads(child):
            yield f"{module}.{name}"
        yield from undeclared(child, module, name)


def all_undeclared() -> set[str]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        module = str(module_of(path.relative_to(ROOT).as_posix())).removeprefix("orthohash_triton.")
        found |= set(undeclared(ast.parse(path.read_text(encoding="utf-8")), module))
    return found


def test_every_function_that_reads_a_file_is_declared() -> None:
    """A new reader gets the decorator `reader`, and a target in tests/fuzz/targets.py."""
    assert all_undeclared() - EXCEPTIONS.keys() == set()


def test_no_exception_is_stale() -> None:
    assert EXCEPTIONS.keys() - all_undeclared() == set()


def test_an_undeclared_reader_is_seen() -> None:
    text = """
def read_sizes(path):
    with open(path) as file:
        return np.load(path), json.loads(file.read())

@reader("file of sizes")
def declared(path):
    return path.read_text()

def inside(path):
    with naming(path, "file"):
        return Image.open(path)

def write(path):
    open(path, "wb")
"""
    assert list(undeclared(ast.parse(text), "m")) == ["m.read_sizes", "m.read_sizes"]


def registered() -> set[str]:
    """Return the names of all readers, after importing every module of the package."""
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__main__.py":
            importlib.import_module(str(module_of(Path(path).relative_to(ROOT).as_posix())))
    return {name.removeprefix("orthohash_triton.") for name in READERS if name.startswith("orthohash_triton.")}


def test_the_registry_has_the_readers() -> None:
    assert {"_base.formats.read_npy", "data._tables.open_table", "search.faiss_io.MappedFile.__init__"} <= registered()
