"""Shared set-up of the tests: the device of kernel tests, seeds, poisoned memory, and how tests are spread over processes.

A test marked `kernel` uses `impl="triton"` on tensors of the `device` fixture. It runs
- on a GPU, if there is one;
- in Triton's interpreter under TRITON_INTERPRET=1, in a process of its own: the variable changes what `@triton.jit` returns;
- through the executor that `--executor module:function` names, which is called as kernels/launch.py describes.
It is skipped where none of the three is available.
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
    """Delete Numba's cached machine code if a file of kernels/cpu is newer.

    Numba compares the cache with the file of a function only, so that an edit of a function that it calls would go unnoticed.
    """
    folder = Path(launch.__file__).parent / "cpu"
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for cached in (folder / "__pycache__").glob("*.nb[ic]"):
        if cached.stat().st_mtime < newest:
            cached.unlink(missing_ok=True)


@pytest.hookimpl(tryfirst=True)  # before -m selects: on a GPU `pytest -m gpu` takes the kernels' tests too
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gpu = torch.cuda.is_available()
    for item in items:
        if _has(item, "kernel") and gpu and not launch.accepts_any_device():
            item.add_marker(pytest.mark.gpu)
        if _has(item, "kernel") and not (gpu or launch.accepts_any_device()):
            item.add_marker(pytest.mark.skip(reason="Triton kernels need a GPU, TRITON_INTERPRET=1 or --executor"))
        if _has(item, "gpu") and not gpu:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
    items.sort(key=lambda item: not _takes_long(item))  # with --dist loadfile, their files start first


def _has(item: pytest.Item, marker: str) -> bool:
    """Return whether a test has a marker. `item.keywords` also has the names of the folders that the test is in."""
    return item.get_closest_marker(marker) is not None


def _takes_long(item: pytest.Item) -> bool:
    """Return whether a test is marked as slow, or shares a fixture, which is shared because it takes long to make."""
    fixtures = [found[-1] for found in item._fixtureinfo.name2fixturedefs.values()]  # type: ignore[attr-defined]
    return _has(item, "slow") or any(fixture.scope in ("module", "package") for fixture in fixtures)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    on_gpu = _has(request.node, "kernel") and torch.cuda.is_available() and not launch.accepts_any_device()
    return torch.device("cuda" if on_gpu or _has(request.node, "gpu") else "cpu")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Limit PyTorch to one thread, which is faster for many small steps on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def poisoned(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill fresh memory with NaN or a sentinel in kernel tests, so that an element that a kernel did not write is noticed."""
    if _has(request.node, "kernel") and not os.environ.get("ORTHOHASH_TEST_UNPOISONED"):
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
