"""Tests that every example runs as a script and prints the expected results."""

import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.processes import run_script

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"lightning_module.py": "lightning", "search_with_faiss.py": "faiss"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs an example with `--quick` and returns its output.

    It runs the script in this process, since importing PyTorch in another one takes longer than the example.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)

    def run_example(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, "--quick", *arguments])
        capsys.readouterr()
        with torch.random.fork_rng(devices=[]):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_example


def losses(output: str) -> torch.Tensor:
    return torch.tensor([float(loss) for loss in re.findall(r"step \d+: loss (\S+)", output)])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain_loop.py", r"mAP 0\.[89]\d+"),
        ("lightning_module.py", r"'map': 0\.[89]\d+"),
        ("torch_compile.py", r"compiled: loss \d\.\d+ at the first step, 0\.\d+ at the last"),
        ("search_with_faiss.py", r"(?s)the same ids, also in the order of equal distances: True.*FAISS's file, with its ids"),
        ("retrieval_with_filters.py", r"after selling five: 995 articles"),
    ],
)
def test_example(name: str, shown: str, run) -> None:
    if name in NEEDS and not find_spec(NEEDS[name]):
        pytest.skip(f"needs {NEEDS[name]}")
    output = run(name)
    assert re.search(shown, output), output


def test_two_changed_lines_do_not_change_the_losses(run) -> None:
    before, after = losses(run("original_script.py", "--before")), losses(run("original_script.py"))
    assert len(before) == 5
    assert abs(before[0] - after[0]) < 1e-5
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def test_two_processes_compute_the_losses_of_one(run, tmp_path: Path) -> None:
    alone = losses(run("ddp.py"))
    together = losses(run_script(EXAMPLES / "ddp.py", "--quick", processes=2, folder=tmp_path))
    assert len(alone) == 5
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)


def test_the_index_names_every_example() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert set(re.findall(r"\]\((\S+)\)", (EXAMPLES / "README.md").read_text())) == files


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 80
