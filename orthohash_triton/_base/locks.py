"""A lock that is open in every forked process, and locks on files, which the system releases when a process ends."""

import json
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType

if os.name == "posix":
    import fcntl
else:
    import msvcrt

_LOCKED_BYTE = 2**30  # Windows locks ranges of bytes, against reading too; this one is behind everything that a lock file holds


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


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed; return whether that succeeded, or None if its file system has no locks.

    False means that the file is locked by another process, or by another thread that opened the file itself.
    """
    try:
        if os.name == "posix":
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            finally:
                os.lseek(descriptor, 0, os.SEEK_SET)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


@dataclass
class _Hold:
    """A lock file that a thread of this process holds, how many times over."""

    descriptor: int
    thread: int
    times: int = 1


_holds: dict[str, _Hold] = {}


def _close_inherited() -> None:
    """Close the lock files of the parent in a forked child, so that they do not stay locked when the parent ends."""
    for hold in _holds.values():
        with suppress(OSError):
            os.close(hold.descriptor)
    _holds.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


@contextmanager
def owned(lock: Path, what: str) -> Iterator[None]:
    """Hold the lock file `lock` during the block. It says which process holds it, and is removed at the end.

    The system releases the lock when its process ends, however it ends, so a lock file that a killed process has left does not
    lock anything. The thread that holds a lock may hold it a second time.

    Args:
        what: the object that the lock protects, as a message begins: "runs/photos".

    Raises:
        BlockingIOError: another process or thread holds the lock.
        OSError: the lock file cannot be created.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton._base.locks import owned
        >>> with owned(Path("lock"), "the folder"):
        ...     print(Path("lock").exists())
        True
        >>> Path("lock").exists()
        False
    """
    key = os.path.realpath(lock)
    hold = _holds.get(key)
    if hold is not None and hold.thread == threading.get_ident():
        hold.times += 1
    else:
        hold = _holds[key] = _Hold(_acquire(lock, what), threading.get_ident())
    try:
        yield
    finally:
        hold.times -= 1
        if hold.times == 0 and _holds.get(key) is hold:  # a forked child that leaves the block holds nothing
            _release(lock, _holds.pop(key).descriptor)


def _acquire(lock: Path, what: str) -> int:
    """Create or open the lock file, lock it, and write who holds it; return the open file."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            locked = try_lock(descriptor)
            if locked is False:
                raise BlockingIOError(
                    f"{what} is being written by {_holder(descriptor)}. Wait until that has finished, stop it, or choose another "
                    "name"
                )
            if locked is None:
                warnings.warn(
                    f"the file system of {lock.parent} has no locks: make sure that no other process writes {what}",
                    RuntimeWarning,
                    stacklevel=4,
                )
            if locked is None or is_at(lock, descriptor):
                _write_holder(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner removed it between the opening and the locking


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())


def _holder(descriptor: int) -> str:
    """Return who holds a lock file, in words."""
    try:
        holder = json.loads(os.read(descriptor, 4096))
        return f"process {holder['process']} on {holder['host']} (since {holder['since']})"
    except (ValueError, KeyError, TypeError, OSError):
        return "another process"  # which has not written its name yet


def _release(lock: Path, descriptor: int) -> None:
    """Remove the lock file while it is locked, and close it. Windows removes only closed files."""
    if os.name != "posix":
        os.close(descriptor)
    with suppress(OSError):
        lock.unlink()
    if os.name == "posix":
        os.close(descriptor)
