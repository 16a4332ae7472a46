"""How kernel tests meet a device.

A test marked `kernel` asks for `impl="triton"` on tensors of the `device` fixture. It runs
- on a GPU where there is one,
- in Triton's interpreter under TRITON_INTERPRET=1 (a process of its own: the variable changes what `@triton.jit` returns),
- through any executor named by `--executor module:function`, called as kernels/launch.py describes,
and is skipped, with this reason, where there is none of the three.
"""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from orthohash_triton.kernels import launch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--executor", metavar="MODULE:FUNCTION", help="run Triton kernels through this function, on CPU tensors")


def pytest_configure(config: pytest.Config) -> None:
    _forget_stale_machine_code()
    name = config.getoption("--executor")
    if name:
        module, _, function = name.partition(":")
        installed = launch.executor(getattr(importlib.import_module(module), function))
        installed.__enter__()
        config.add_cleanup(lambda: installed.__exit__(None, None, None))


def _forget_stale_machine_code() -> None:
    """Numba's cache knows the file of a function but not the files of what it calls: an edit there would go unnoticed."""
    folder = Path(launch.__file__).parent / "cpu"
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for cached in (folder / "__pycache__").glob("*.nb[ic]"):
        if cached.stat().st_mtime < newest:
            cached.unlink(missing_ok=True)


@pytest.hookimpl(tryfirst=True)  # before -m selects: on a GPU `pytest -m gpu` takes the kernels' tests too
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gpu = torch.cuda.is_available()
    for item in items:
        if "kernel" in item.keywords and gpu and not launch.accepts_any_device():
            item.add_marker(pytest.mark.gpu)
        if "kernel" in item.keywords and not (gpu or launch.accepts_any_device()):
            item.add_marker(pytest.mark.skip(reason="Triton kernels need a GPU, TRITON_INTERPRET=1 or --executor"))
        if "gpu" in item.keywords and not gpu:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    on_gpu = "kernel" in request.keywords and torch.cuda.is_available() and not launch.accepts_any_device()
    return torch.device("cuda" if on_gpu or "gpu" in request.keywords else "cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For many small steps, which threads only slow down where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def poisoned(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In kernel tests fresh memory holds NaN or a sentinel, so that an element nobody wrote is seen."""
    if "kernel" in request.keywords and not os.environ.get("ORTHOHASH_TEST_UNPOISONED"):
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            monkeypatch.setattr(owner, name, _poisoning(getattr(owner, name)))


def _poisoning(allocate):
    def poisoned_allocate(*args, **kwargs):
        fresh = allocate(*args, **kwargs)
        if fresh.device.type == "meta" or fresh.numel() == 0:
            return fresh
        if fresh.dtype.is_floating_point:
            return fresh.detach().fill_(float("nan")).requires_grad_(fresh.requires_grad)
        return fresh if fresh.dtype == torch.bool else fresh.fill_(113)

    return poisoned_allocate
