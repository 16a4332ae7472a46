"""Child processes that are killed at every call that changes files, to see what they leave behind.

The child is forked, so that it needs no imports, and counts the calls itself: opening for writing, writing, flushing to the disk,
cutting, renaming, removing, changing permissions, locking and making folders. It kills itself at the chosen one, and in the
middle of a write.
"""

import builtins
import io
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")

_EVENTS = {"os.rename", "os.remove", "os.truncate", "os.chmod", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "fcntl.flock"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_LIMIT = 2000  # calls; an action that needs more is too large for these tests


def kill_at_every_call(act: Callable[[], object], prepare: Callable[[], object], check: Callable[[], object]) -> int:
    """Run `prepare`, `act` in a child that is killed at its first call, and `check`; then at its second call, and so on.

    The last child is not killed and ends by itself. Return the number of children that were killed.

    Nothing is flushed to the disk, because that changes what a power failure leaves behind, but not what a kill does.
    """
    flush = os.fsync
    os.fsync = lambda descriptor: None
    try:
        return _kill_at_every_call(act, prepare, check)
    finally:
        os.fsync = flush


def _kill_at_every_call(act: Callable[[], object], prepare: Callable[[], object], check: Callable[[], object]) -> int:
    for last in itertools.count(1):
        assert last < _LIMIT
        prepare()
        killed = _run(act, last)
        try:
            check()
        except BaseException as error:
            error.add_note(f"after a kill at call {last}") if hasattr(error, "add_note") else None
            raise
        if not killed:
            return last - 1
    raise AssertionError("unreachable")


def _run(act: Callable[[], object], last: int) -> bool:
    """Run `act` in a child that is killed at call number `last`; return whether it was."""
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            _Calls(last).install()
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"the action failed (exit status {code}) before call {last}"
    return code != 0


class _Calls:
    """A count of the calls that change files."""

    def __init__(self, last: int) -> None:
        self.left = last

    def install(self) -> None:
        """Count all such calls of this process from now on."""
        sys.addaudithook(self._audit)
        opened, fsync = builtins.open, os.fsync
        calls = self

        class CountedFile(io.FileIO):
            def write(self, data: Any) -> int:
                if calls.left == 1:
                    super().write(memoryview(data).cast("B")[: len(memoryview(data).cast("B")) // 2])
                calls.count()
                return super().write(data)

        def counted_open(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wxa+"):
                return opened(file, mode, *arguments, **options)
            raw = CountedFile(file, mode.replace("b", ""))
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

        def counted_fsync(descriptor: int) -> None:
            calls.count()
            fsync(descriptor)

        builtins.open = io.open = counted_open  # type: ignore[assignment]
        os.fsync = counted_fsync

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS or (event == "open" and arguments[2] & _WRITING):
            self.count()
