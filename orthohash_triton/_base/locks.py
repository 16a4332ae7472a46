"""A lock that does not stay locked in a forked process."""

import os
import threading
from types import TracebackType


class ForkSafeLock:
    """A re-entrant lock that is free in a child process, whichever thread of the parent held it at the fork.

    A plain lock that another thread holds during `os.fork` is never released in the child, because that thread does not exist
    there. Pickled or copied, the lock becomes a new one.

    Example:
        >>> from orthohash_triton._base.locks import ForkSafeLock
        >>> lock = ForkSafeLock()
        >>> with lock, lock:
        ...     print("held twice by one thread")
        held twice by one thread
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()

    def __enter__(self) -> "ForkSafeLock":
        if self._process != os.getpid():
            self._renew()  # a new child process has one thread, so nobody else renews at the same time
        self._lock.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type["ForkSafeLock"], tuple[()]]:
        return ForkSafeLock, ()
