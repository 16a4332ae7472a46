"""Tests that old names still work, and warn at the line that uses them."""

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from orthohash_triton._base import moved


def run(tmp_path: Path, code: str) -> str:
    """Run `code` in a fresh process, where no old name has been looked up, and return what it printed, warnings included."""
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "always", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


WAYS = """\
from orthohash_triton.train import load_run
from orthohash_triton.train import load_run as again
import orthohash_triton.train.backbones
import orthohash_triton.train.model as model
from orthohash_triton.train.runs import *
from orthohash_triton.train import original
import orthohash_triton.train
pretrained = orthohash_triton.train.pretrained
from orthohash_triton.encoding import encode_to, read_codes
export_run = pretrained.export_run

import orthohash_triton.models.backbones, orthohash_triton.models.model, orthohash_triton.models.original
import orthohash_triton.models.pretrained, orthohash_triton.runs.code_files, orthohash_triton.runs.export
import orthohash_triton.runs.run
assert load_run is again is orthohash_triton.runs.load_run
assert orthohash_triton.train.backbones is orthohash_triton.models.backbones
assert model is orthohash_triton.models.model
assert make_way is orthohash_triton.runs.run.make_way
assert original is orthohash_triton.models.original
assert pretrained is orthohash_triton.models.pretrained
assert read_codes is orthohash_triton.runs.code_files.read_codes
assert export_run is orthohash_triton.runs.export.export_run
"""
WARNED = [  # line of the script, old name, new name
    (1, "train.load_run", "runs.load_run"),
    (3, "train.backbones", "models.backbones"),
    (4, "train.model", "models.model"),
    (5, "train.runs", "runs.run"),
    (6, "train.original", "models.original"),
    (8, "train.pretrained", "models.pretrained"),
    (9, "encoding", "runs.encoding"),
    (9, "runs.encoding.read_codes", "runs.code_files.read_codes"),
    (10, "models.pretrained.export_run", "runs.export.export_run"),
]


def test_every_way_to_use_an_old_name_warns_once_at_its_line(tmp_path: Path) -> None:
    printed = run(tmp_path, WAYS)
    expected = [
        f"{tmp_path / 'script.py'}:{line}: DeprecationWarning: orthohash_triton.{old} has moved to orthohash_triton.{new}; "
        "change the import"
        for line, old, new in WARNED
    ]
    assert [line for line in printed.splitlines() if "DeprecationWarning" in line] == expected


def test_names_that_never_existed(tmp_path: Path) -> None:
    code = """\
import orthohash_triton.train
try:
    orthohash_triton.train.nowhere
except AttributeError as error:
    print(error)
try:
    import orthohash_triton.train.nowhere
except ModuleNotFoundError as error:
    print(error)
from orthohash_triton.train import model
try:
    model.nowhere
except AttributeError as error:
    print(error)
"""
    printed = run(tmp_path, code).splitlines()
    assert "module 'orthohash_triton.train' has no attribute 'nowhere'" in printed
    assert "No module named 'orthohash_triton.train.nowhere'" in printed
    assert "module 'orthohash_triton.models.model' has no attribute 'nowhere'" in printed


@pytest.mark.parametrize("old", sorted(moved.MODULES))
def test_every_moved_module_exists(old: str) -> None:
    importlib.import_module(moved.MODULES[old])


@pytest.mark.parametrize("old", sorted(moved.NAMES.keys() - moved.MODULES.keys()))
def test_every_moved_name_is_found_by_its_old_module(old: str) -> None:
    module, _, name = old.rpartition(".")
    owner, _, new_name = moved.NAMES[old].rpartition(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(owner), new_name)


def test_no_shim_hides_a_module_that_exists() -> None:
    package = Path(moved.__file__).parent.parent
    for old in moved.MODULES:
        path = package.joinpath(*old.split(".")[1:])
        assert not path.with_suffix(".py").exists()
        assert not path.is_dir()
