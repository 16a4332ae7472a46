"""Tests without Triton (as on macOS and Windows), without extras, and with another start method or encoding."""

import ast
import errno
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import orthohash_triton as oht
from orthohash_triton._base import files
from tests.distributions import OPTIONAL

ROOT = Path(__file__).parent.parent

# Importing a module of these names fails as if the package were not installed.
BLOCK = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def python_without(names: tuple[str, ...], code: str, folder: Path) -> subprocess.CompletedProcess:
    script = folder / "script.py"
    script.write_text(BLOCK.format(names=set(names)) + code, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, script], cwd=folder, capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_every_op_without_triton(tmp_path: Path) -> None:
    """The doctor runs each op's CPU implementation and compares with the reference."""
    code = """
import json
from orthohash_triton.doctor import examine
report = examine("cpu")
assert "triton" not in sys.modules
print(json.dumps(report))
"""
    report = json.loads(python_without(("triton",), code, tmp_path).stdout)
    assert report["ok"]
    assert {check["impl"] for check in report["checks"]} == {"cpu", "torch"}
    assert {"hamming_topk", "pack_codes", "orthohash_loss", "cosine_codebook_loss", "pairwise_likelihood_loss"} <= {
        check["op"] for check in report["checks"]
    }


def test_training_and_search_without_triton(tmp_path: Path) -> None:
    code = """
import torch
import orthohash_triton as oht
from orthohash_triton.cli import main

options = "--dataset digits --bits 16 --epochs 1 --batch-size 64 --threads 1 --no-progress --json".split()
assert main(["train", *options, "--out", "run"]) == 0
assert main(["encode", "run", "digits", "--out", "codes.npy", "--quiet"]) == 0
assert main(["index", "codes.npy", "--out", "codes.ibxf", "--quiet"]) == 0
assert main(["search", "codes.ibxf", "codes.npy", "-k", "3", "--quiet"]) == 0
assert main(["search", "run", "digits", "-k", "3", "--quiet"]) == 0
assert "triton" not in sys.modules
try:
    oht.pack_codes(torch.eye(8), impl="triton")
except RuntimeError as error:
    assert "needs Triton, which cannot be imported" in str(error)
else:
    raise AssertionError('impl="triton" ran')
"""
    report = json.loads(python_without(("triton",), code, tmp_path).stdout)
    assert report["evaluation"]["map_at_all"] > 0.3  # chance is 0.1


def test_without_the_extras(tmp_path: Path) -> None:
    """Every module without Triton code can be imported, codes can be searched, and errors name a missing extra in one line."""
    np.save(tmp_path / "codes.npy", np.arange(64, dtype=np.uint8).reshape(16, 4))
    code = r"""
import contextlib, importlib, io, json, pkgutil, re
import orthohash_triton
from orthohash_triton.cli import main

# Device code, programs, and the web application that `browse.serve` imports.
HELD_BACK = r"orthohash_triton\.(kernels\.(?!cpu\b).*|(.*\.)?__main__|browse\.(_app|_connections|_uploads))"

for module in pkgutil.walk_packages(orthohash_triton.__path__, "orthohash_triton."):
    if not re.fullmatch(HELD_BACK, module.name):
        importlib.import_module(module.name)

def call(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    return status, out.getvalue(), err.getvalue()

answers = {
    "index": call("index", "codes.npy", "--out", "codes.ibxf"),
    "search": call("search", "codes.ibxf", "codes.npy", "-k", "2", "--limit", "10", "--json"),
    "info": call("info", "codes.ibxf"),
    "methods": call("methods", "--json"),
    "doctor": call("doctor", "--device", "cpu", "--json"),
    "table": call("search", "codes.ibxf", "codes.npy"),
    "train": call("train", "--dataset", "digits", "--out", "run"),
    "completion": call("completion", "bash"),
}
print(json.dumps(answers))
"""
    answers = json.loads(python_without(("triton", *OPTIONAL), code, tmp_path).stdout)
    for name in ("index", "search", "info", "methods", "doctor"):
        assert answers[name][0] == 0, answers[name]
    found = json.loads(answers["search"][1])["results"]
    assert [result["neighbours"][0] for result in found] == [{"id": i, "distance": 0} for i in range(10)]
    for name in ("table", "train", "completion"):
        status, out, err = answers[name]
        assert (status, out, err.count("\n")) == (2, "", 1), answers[name]
        assert 'pip install "' in err
        assert 'pip install ".[' in err


def pack_and_search(rows: np.ndarray) -> list[int]:
    codes = oht.pack_codes(torch.from_numpy(rows))
    return oht.hamming_topk(codes, codes, 1)[1].flatten().tolist()


def test_processes_that_are_spawned() -> None:
    """Processes are spawned, as on macOS and Windows, and import everything again."""
    rows = np.where(np.eye(8, dtype=bool), 1, -1).astype(np.float32)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(pack_and_search, (rows,)) == pack_and_search(rows) == list(range(8))


def test_a_file_that_windows_holds_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(errno.EACCES, "Access is denied")

    path = tmp_path / "gallery.ibxf"
    index = oht.HammingIndex(8)
    index.add(np.zeros((2, 1), np.uint8))
    index.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(files.os, "replace", refuse)
    index.add(np.ones((2, 1), np.uint8))
    with pytest.raises(PermissionError, match=r"cannot replace .*gallery\.ibxf, which is unchanged .*close it first"):
        index.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["gallery.ibxf"]


SOURCES = sorted([*(ROOT / "orthohash_triton").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
UNIX_ONLY = {"fcntl", "grp", "pwd", "pty", "resource", "termios", "tty", "curses", "syslog"}


def test_text_files_name_their_encoding() -> None:
    """The default encoding on Windows depends on the country."""
    assert [place for path in SOURCES for place in unnamed_encodings(path.read_text(encoding="utf-8"), path.name)] == []


def unnamed_encodings(source: str, name: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        is_method = isinstance(node.func, ast.Attribute)  # `text_files.read_text`, a function, finds the encoding itself
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        text = called in ("read_text", "write_text") if is_method else called == "open" and in_text(node)
        if text and "encoding" not in {keyword.arg for keyword in node.keywords}:
            found.append(f"{name}:{node.lineno}")
    return found


def in_text(call: ast.Call) -> bool:
    modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return not any(isinstance(part, ast.Constant) and "b" in str(part.value) for mode in modes for part in ast.walk(mode))


def test_no_module_of_unix_alone_is_imported_everywhere() -> None:
    """Such imports are forbidden at the top of a module, but allowed within a function."""
    found = {
        (path.name, name)
        for path in SOURCES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.partition(".")[0] in UNIX_ONLY
    }
    assert found == set()


def test_the_checks_of_sources_see_what_they_look_for() -> None:
    lines = ["open('a')", "open('a', 'w')", "open('a', 'rb' if x else 'wb')", "p.read_text()", "p.read_text(encoding='utf-8')"]
    assert unnamed_encodings("\n".join(lines), "x") == ["x:1", "x:2", "x:4"]
