"""The examples run, as a reader would run them, and show what they say."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"lightning_module.py": "lightning", "search_with_faiss.py": "faiss"}


def run(name: str, *arguments: str, launcher: tuple[str, ...] = ()) -> str:
    """What the example prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / name), "--quick", *arguments],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def losses(output: str) -> torch.Tensor:
    return torch.tensor([float(loss) for loss in re.findall(r"step \d+: loss (\S+)", output)])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain_loop.py", r"mAP 0\.[89]\d+"),
        ("lightning_module.py", r"'map': 0\.[89]\d+"),
        ("torch_compile.py", r"compiled: loss \d\.\d+ at the first step, 0\.\d+ at the last"),
        ("search_with_faiss.py", r"(?s)the same ids, in the order of equal distances too: True.*FAISS's file, with its ids"),
        ("retrieval_with_filters.py", r"after selling five: 995 articles"),
    ],
)
def test_example(name: str, shown: str) -> None:
    if name in NEEDS and not find_spec(NEEDS[name]):
        pytest.skip(f"needs {NEEDS[name]}")
    output = run(name)
    assert re.search(shown, output), output


def test_two_changed_lines_leave_the_losses_as_they_were() -> None:
    with ThreadPoolExecutor() as pool:
        before, after = (losses(output) for output in pool.map(run, ["original_script.py"] * 2, ["--before", "--quick"]))
    assert len(before) == 5
    assert abs(before[0] - after[0]) < 1e-5
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def test_two_processes_compute_what_one_does() -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(run, "ddp.py", launcher=launcher) for launcher in ((), torchrun)]
        alone, together = (losses(output.result()) for output in both)
    assert len(alone) == 5
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)


def test_the_index_names_every_example() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert set(re.findall(r"\]\((\S+)\)", (EXAMPLES / "README.md").read_text())) == files


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 80
