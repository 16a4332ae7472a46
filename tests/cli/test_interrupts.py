"""Tests of Ctrl-C: from the first second on, every command ends with status 130 and one line that says what to do."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from orthohash_triton import cli
from orthohash_triton._base import run_folder
from orthohash_triton.cli import methods
from orthohash_triton.cli._command import command_parsers

ARGUMENTS = {
    "browse": ["run"],
    "compare": ["--out", "out"],
    "completion": ["bash"],
    "demo": [],
    "doctor": [],
    "duplicates": ["photos"],
    "encode": ["run", "digits", "--out", "codes.npy"],
    "evaluate": ["run"],
    "export": ["run", "--out", "model"],
    "features": ["--out", "features"],
    "index": ["codes.npy", "--out", "codes.ibxf"],
    "info": ["."],
    "methods": [],
    "report": ["run"],
    "search": ["codes.ibxf", "codes.npy"],
    "train": ["--out", "run"],
}
AT_THE_FIRST_IMPORT = """
import importlib.abc, os, signal, sys

class CtrlC(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
from orthohash_triton.cli import main

for line in sys.stdin.read().splitlines():
    print(line.split()[0], main(line.split()), flush=True)
"""


def test_every_command_has_arguments_here() -> None:
    assert set(ARGUMENTS) == set(command_parsers(cli.make_parser()))


def test_the_command_line_is_imported_without_torch() -> None:
    code = "import sys, orthohash_triton.cli as cli; cli.make_parser(); print({'torch', 'numpy', 'numba'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "set()\n"


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process on Windows")
def test_ctrl_c_while_torch_is_imported(tmp_path: Path) -> None:
    lines = "".join(f"{' '.join([name, *words])}\n" for name, words in ARGUMENTS.items())
    command = [sys.executable, "-c", AT_THE_FIRST_IMPORT]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} 130" for name in ARGUMENTS]
    told = done.stderr.splitlines()
    assert len(told) == len(ARGUMENTS), done.stderr
    assert all("interrupted; " in line for line in told)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_the_work_of_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(methods, "print_table", interrupted)
    assert cli.main(["methods"]) == 130
    assert capsys.readouterr().err == "orthohash methods: interrupted; nothing was written\n"


def advice(*arguments: object) -> str:
    """Return what Ctrl-C would print at this moment of a command with `arguments`."""
    options: argparse.Namespace = cli.make_parser().parse_args(list(map(str, arguments)))
    return options.after_interrupt(options)


def test_the_advice_of_train(tmp_path: Path) -> None:
    assert "start again" in advice("train", "--out", tmp_path)
    (tmp_path / run_folder.CHECKPOINT).touch()
    assert advice("train", "--out", tmp_path) == f"continue with: orthohash train --resume {tmp_path}"
    (tmp_path / run_folder.CONFIG).touch()
    (tmp_path / run_folder.CHECKPOINT).unlink()
    assert f"orthohash evaluate {tmp_path}" in advice("train", "--out", tmp_path)


def test_the_advice_of_encode(tmp_path: Path) -> None:
    import torch

    from orthohash_triton.data import Dataset
    from orthohash_triton.models import HashModel
    from orthohash_triton.runs import encode_to

    class Interrupted(HashModel):
        def encode(self, *arguments: object, **settings: object) -> torch.Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls > 1:
                raise KeyboardInterrupt
            return super().encode(*arguments, **settings)

    out = tmp_path / "codes.npy"
    assert advice("encode", "run", "digits", "--out", out) == "nothing was written"
    samples = Dataset(torch.randn(9, 8), torch.zeros(9, dtype=torch.int64), ("any",), "toy")
    with pytest.raises(KeyboardInterrupt):
        encode_to(Interrupted("features", 16, (8,)), samples, out, batch_size=4, progress=False)
    assert "--resume" in advice("encode", "run", "digits", "--out", out)


def test_the_advice_of_compare(tmp_path: Path) -> None:
    assert "start again" in advice("compare", "--out", tmp_path)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "csq-16-0.json").touch()
    assert "continue with the same command" in advice("compare", "--out", tmp_path)
