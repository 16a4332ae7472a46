"""Atomic file writing: after an interruption a file has either its old contents or its new contents, never a mixture."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends.

    The bytes are written to a temporary file in the same folder, which is flushed to the disk and then renamed to `path`. If the
    block raises, the temporary file is removed and `path` is unchanged. If the process is killed, `path` is unchanged too, but a
    temporary file named `.<name>.<random>.tmp` may remain. A symbolic link is followed, not replaced. The new file has the
    permissions of the old one.

    Raises:
        FileNotFoundError: the folder does not exist.
        PermissionError: the file cannot be replaced; on Windows also if it is open, as an index loaded with `mmap=True` is.
        OSError: the folder is not writable, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {target.parent} does not exist. Create it first")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        _replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def _replace(temporary: Path, target: Path) -> None:
    try:
        os.replace(temporary, target)
    except PermissionError as error:
        raise PermissionError(
            f"cannot replace {target}, which is unchanged ({error.strerror}). If it is open in another program, or as an index "
            "loaded with mmap=True (Windows locks it then), close it first"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Flush the folder, so that the rename survives a power failure. Windows cannot open folders, so nothing is done there."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
