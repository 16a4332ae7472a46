"""Limits on processor time and memory for a block of code."""

import contextlib
import re
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

SECONDS = 5.0
"""Processor time in seconds after which a reader hangs. Other programs on the machine do not count."""

FREE_BYTES = 64 * 2**20
"""Memory that every reader may allocate, whatever the size of its file."""

FACTOR = 10
"""Further memory that a reader may allocate, in multiples of the size of its files."""


class Hang(BaseException):
    """Raised in a block that takes too long. It is no Exception, so that the block does not handle it."""


@contextlib.contextmanager
def limited(size: int, free_bytes: int = FREE_BYTES) -> Iterator[None]:
    """Limit a block that reads files of `size` bytes to SECONDS, and to FACTOR * size + `free_bytes` of further memory.

    An allocation beyond the limit fails in the block; see `out_of_memory`. On systems other than Linux memory is not limited.
    """
    with _limited_memory(FACTOR * size + free_bytes), _limited_time():
        yield


def out_of_memory(error: BaseException | None) -> bool:
    """Return whether `error` or its cause is an allocation that failed."""
    while error is not None:
        text = str(error)
        if isinstance(error, MemoryError) or "can't allocate memory" in text or "bad_alloc" in text or "bad allocation" in text:
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextlib.contextmanager
def _limited_memory(more: int) -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    # Address space that is reserved but not accessible, of which malloc takes 64 MiB for each thread, does not count as data.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """Return the number of bytes of data of this process."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        found: Any = re.search(r"^VmData:\s*(\d+) kB", file.read(), re.MULTILINE)
    return 1024 * int(found[1])
