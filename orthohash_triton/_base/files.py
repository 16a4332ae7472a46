"""Atomic file writing: after an interruption a file has either its old contents or its new contents, never a mixture."""

import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from .locks import is_at, try_lock
from .reading import naming_in_system_errors

_LONG_NAME = 150  # bytes of a name that stays readable in the name of a hidden file next to it; file systems allow 255 at most
_WRITERS = 4  # writers of one file at the same time whose temporary files are found in any case
_BINARY = getattr(os, "O_BINARY", 0)  # Windows translates line ends without it
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends.

    The bytes are written to a temporary file in the same folder, which is flushed to the disk and then renamed to `path`. If the
    block raises, the temporary file is removed and `path` is unchanged. If the process is killed, `path` is unchanged too; the
    temporary file `.<name>.<number>.tmp` remains until the next call for `path` removes it. A symbolic link is followed, not
    replaced. The new file has the permissions of the old one, and so has the temporary file from its creation.

    A device or a pipe is written to directly.

    Raises:
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: `path` is a folder.
        PermissionError: the file cannot be replaced; on Windows also if it is open, as an index loaded with `mmap=True` is.
        OSError: the folder is not writable, or the disk is full.
    """
    with naming_in_system_errors(path):
        if is_device_or_pipe(path):
            with open(path, "wb") as file:
                yield file
            return
        target = target_of(path)
        remove_temporary_files(target)
        with temporary_file(target) as (temporary, file):
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name != "posix":
                file.close()  # Windows does not rename open files; elsewhere the open file keeps others from removing it
            _replace(temporary, target)
        sync_folder(target.parent)


def is_device_or_pipe(path: str | os.PathLike[str]) -> bool:
    """Return whether something is at `path` that is neither a file nor a folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def target_of(path: str | os.PathLike[str]) -> Path:
    """Return the path of the file that writing to `path` replaces: its symbolic links are followed.

    Raises:
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: `path` is a folder.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {target.parent} does not exist. Create it first")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder. Choose the name of a file")
    return target


def hidden_beside(path: Path, ending: str) -> Path:
    """Return the path of a hidden file that belongs to `path`; its name ends in `ending`, and is short enough to be created.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton._base.files import hidden_beside
        >>> hidden_beside(Path("codes.npy"), "lock").name
        '.codes.npy.lock'
        >>> len(hidden_beside(Path("n" * 250), "lock").name)
        38
    """
    name = os.fsencode(path.name)
    readable = path.name if len(name) <= _LONG_NAME else sha256(name).hexdigest()[:32]
    return path.with_name(f".{readable}.{ending}")


@contextmanager
def temporary_file(target: Path, *, slots: Iterator[str] | None = None) -> Iterator[tuple[Path, BinaryIO]]:
    """Create a file next to `target` that only its owner and who may read `target` can read; yield its path and the open file.

    The file is closed at the end, and removed if the block raises. Files of dead processes in the same places are removed.

    Args:
        slots: endings of the names to try in this order. By default 0.tmp, 1.tmp, ...
    """
    temporary: Path | None = None
    try:
        temporary, descriptor = _create(target, slots or (f"{number}.tmp" for number in itertools.count()))
        with open(descriptor, "wb") as file:
            yield temporary, file
    except BaseException:
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()
        raise


def _create(target: Path, slots: Iterator[str]) -> tuple[Path, int]:
    """Create a file in the first free one of the `slots` next to `target`; return its path and the locked, open file."""
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mode = None
    for ending in slots:
        temporary = hidden_beside(target, ending)
        remove_if_dead(temporary)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY
            descriptor = os.open(temporary, flags, 0o666 if mode is None else mode & 0o777)
        except FileExistsError:
            continue  # another process or thread is writing it
        try:
            if try_lock(descriptor) is not False and is_at(temporary, descriptor):
                if mode is not None and os.name == "posix":
                    os.fchmod(descriptor, mode)  # which the process's umask may have reduced
                return temporary, descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # another process took it for a dead one before it was locked
    raise FileExistsError(f"cannot write {target}: another process is writing it. Wait until that has finished")


def remove_temporary_files(path: Path) -> None:
    """Remove the temporary files that dead processes have left next to `path`. The next `atomic_write` does so, too."""
    for number in itertools.count():
        temporary = hidden_beside(path, f"{number}.tmp")
        if os.path.lexists(temporary):
            remove_if_dead(temporary)
        elif number >= _WRITERS:
            return


def remove_if_dead(temporary: Path) -> None:
    """Remove a temporary file unless the process that writes it is alive, which then holds a lock on it."""
    try:
        descriptor = os.open(temporary, os.O_RDONLY | _NO_FOLLOW | _BINARY)
    except OSError:
        return  # usually there is none
    try:
        if os.name != "posix":
            os.close(descriptor)
            descriptor = -1
            with suppress(OSError):  # Windows does not remove files that are open elsewhere
                temporary.unlink()
        elif try_lock(descriptor) and is_at(temporary, descriptor):
            with suppress(FileNotFoundError):
                temporary.unlink()
    finally:
        if descriptor != -1:
            os.close(descriptor)


def _replace(temporary: Path, target: Path) -> None:
    try:
        os.replace(temporary, target)
    except PermissionError as error:
        raise PermissionError(
            f"cannot replace {target}, which is unchanged ({error.strerror}). If it is open in another program, or as an index "
            "loaded with mmap=True (Windows locks it then), close it first"
        ) from error


def sync_folder(folder: Path) -> None:
    """Flush the folder, so that the rename survives a power failure. Windows cannot open folders, so nothing is done there."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
