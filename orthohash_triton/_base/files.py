"""Files that are either the old one or the new one, never half of one."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and then renamed over `path`. If the
    block raises, the temporary file is removed and what stood at `path` stays; if the process is killed, `path` is untouched
    too, and a file named `.<name>.<random>.tmp` may be left beside it. A symbolic link is followed, not replaced. Who may read
    the old file may read the new one, and nobody else.

    Raises:
        FileNotFoundError: the folder does not exist.
        PermissionError: on Windows, also where a file is open that would be replaced, as an index loaded with `mmap=True` is.
        OSError: it cannot be written to, or the disk is full.
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
            f"cannot replace {target}, which stays as it was ({error.strerror}). If it is open, in another program or as an "
            "index loaded with mmap=True (which Windows then holds), close it first"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power failure, where folders can be opened (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
