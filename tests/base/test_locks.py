import json
import os
import subprocess
import sys
import threading
import warnings

import pytest

from orthohash_triton._base import locks
from orthohash_triton._base.locks import owned

from ..kills import needs_fork

WAITING = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("locks", {source!r})  # without the package, which imports PyTorch
sys.modules["locks"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
with module.owned(Path({lock!r}), "the folder"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "lock"


def test_another_process_holds_it_until_it_is_killed(lock):
    with subprocess.Popen(
        [sys.executable, "-c", WAITING.format(source=locks.__file__, lock=str(lock))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"held\n"
        expected = rf"the folder is being written by process {process.pid} on .* \(since .*\)\. Wait until that has finished"
        with pytest.raises(BlockingIOError, match=expected), owned(lock, "the folder"):
            pass
        process.kill()
        process.wait(timeout=30)
    assert lock.exists()  # which no longer locks anything
    with owned(lock, "the folder"):
        assert json.loads(lock.read_bytes())["process"] == os.getpid()
    assert not lock.exists()


def test_another_thread_holds_it(lock):
    refused = []

    def try_it():
        try:
            with owned(lock, "the folder"):
                pass
        except BlockingIOError as error:
            refused.append(str(error))

    with owned(lock, "the folder"):
        with owned(lock, "the folder"):  # the same thread may
            pass
        assert lock.exists()
        thread = threading.Thread(target=try_it)
        thread.start(), thread.join()
    assert len(refused) == 1
    assert f"process {os.getpid()}" in refused[0]


def test_it_is_released_after_an_error(lock):
    with pytest.raises(ZeroDivisionError), owned(lock, "the folder"):
        raise ZeroDivisionError
    with owned(lock, "the folder"):
        pass
    assert not lock.exists()


@needs_fork
def test_a_forked_child_does_not_keep_it(lock):
    """The child lives on after its parent has released the lock."""
    read, write = os.pipe()
    with owned(lock, "the folder"):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    with owned(lock, "the folder"):
        pass
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    os.close(read)


@needs_fork
def test_a_forked_child_does_not_own_what_its_parent_owns(lock):
    with owned(lock, "the folder"):
        child = os.fork()
        if child == 0:
            try:
                with owned(lock, "the folder"):
                    os._exit(1)
            except BlockingIOError:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert lock.exists()


def test_a_file_system_without_locks_is_named(lock, monkeypatch):
    monkeypatch.setattr(locks, "try_lock", lambda descriptor: None)
    with (
        pytest.warns(RuntimeWarning, match="has no locks: make sure that no other process writes the folder"),
        owned(lock, "the folder"),
    ):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.undo()
        with owned(lock, "the folder"):
            pass
