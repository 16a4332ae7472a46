"""A number of bytes that the threads of the process share, and the return of freed memory to the system."""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any


class MemoryBudget:
    """A number of bytes of which threads take shares. A thread waits until its share is free.

    A share that is larger than the budget is granted when no other share is taken, so that no thread waits for ever.

    Args:
        total: bytes of all shares together.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)  # a child has none of the threads that would return their shares

    def _reset(self) -> None:
        """Return all shares."""
        self._taken = 0
        self._returned = threading.Condition()

    @contextmanager
    def share(self, size: int) -> Iterator[None]:
        """Take `size` bytes for the duration of the block, after waiting until they are free."""
        size = min(size, self.total)
        with self._returned:
            self._returned.wait_for(lambda: self._taken + size <= self.total)
            self._taken += size
        try:
            yield
        finally:
            with self._returned:
                self._taken -= size
                self._returned.notify_all()


def return_memory() -> None:
    """Return freed memory to the system, where the allocator is that of the GNU C library.

    It keeps the memory that each thread has freed for that thread, so that eight threads that decode one large image after the
    other would hold the memory of eight.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@lru_cache(maxsize=1)
def _malloc_trim() -> Any:
    """Return the function malloc_trim of the C library, or None if it has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
