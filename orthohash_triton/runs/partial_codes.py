"""The files of an encoding in progress: the codes so far, and a note from which the encoding can be resumed.

X.npy.partial       codes so far, without a header
X.npy.partial.json  number of encoded samples, checksum of their codes, skipped samples, and what the encoding depends on
"""

import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from .._base.file_set import read_note, write_note
from .._base.quoting import quoted
from .._base.reading import naming, reader
from ..data import Skipped

_FORMAT, _VERSION = "orthohash-triton encoding", 2
_BLOCK = 2**20  # bytes that are read at a time to check them


@dataclass(frozen=True)
class _Progress:
    """The progress of an encoding. One assignment replaces it, so that an interruption finds all values of one moment."""

    done: int = 0  # samples that were encoded or skipped
    checksum: int = 0  # CRC-32 of the codes
    skipped: dict[int, Skipped] = field(default_factory=dict)  # samples without a code, by position

    @property
    def count(self) -> int:
        """Number of codes."""
        return self.done - len(self.skipped)


class PartialCodes:
    """The codes of an encoding in progress, written to a file next to `out`. Use it as a context manager.

    The caller owns `out`, so that no other process writes the same files.

    Args:
        out: the file that the finished encoding will be written to.
        key: everything that the codes depend on, by name. An encoding is resumed only if all values are equal.
        code_size: bytes of one code.
        total: number of samples of the source, for messages.
        resume: whether to resume from the files that an earlier encoding has left.
        overwrite: whether `out` may be replaced. An earlier encoding that was stopped is discarded then, unless it is resumed.

    Raises:
        FileExistsError: there are files of an earlier encoding, and `resume` and `overwrite` are False.
        ValueError: the files are damaged, or belong to an encoding with another `key`.
    """

    def __init__(
        self, out: Path, key: dict[str, str], code_size: int, total: int, *, resume: bool, overwrite: bool = False
    ) -> None:
        self._out, self.codes_file, self._note = out, codes_file_of(out), note_of(out)
        self._key, self.code_size, self._total = key, code_size, total
        self.may_overwrite = overwrite
        self._progress = _Progress()
        self._saved = time.monotonic()
        if overwrite and not resume:
            self.remove()
        if self._note.exists():
            self._restore(resume)

    @property
    def done(self) -> int:
        """Number of samples that were encoded or skipped."""
        return self._progress.done

    @property
    def skipped(self) -> dict[int, Skipped]:
        """The samples without a code, by their position."""
        return self._progress.skipped

    @property
    def count(self) -> int:
        """Number of codes so far."""
        return self._progress.count

    def __enter__(self) -> "PartialCodes":
        self._file: BinaryIO = open(self.codes_file, "r+b" if self.done else "wb")
        self._file.truncate(self.count * self.code_size)  # codes that were written after the last note are computed again
        self._file.seek(0, os.SEEK_END)
        self.save()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.save()
        finally:
            self._file.close()
        if kind is not None and self.done == 0:  # there is nothing to resume
            self.remove()

    def add(self, codes: Tensor | None, skipped: dict[int, Skipped]) -> None:
        """Append the next samples of the source: their codes uint8 [M, code_size], and the samples without a code."""
        before, count, checksum = self._progress, 0, self._progress.checksum
        if codes is not None:
            data = codes.contiguous().numpy().data
            self._file.write(data)
            count, checksum = len(codes), zlib.crc32(data, checksum)
        self._progress = _Progress(before.done + len(skipped) + count, checksum, before.skipped | skipped)

    def save(self, every: float = 0.0) -> None:
        """Write the note if the last one is at least `every` seconds old. The codes are flushed to the disk first."""
        if time.monotonic() - self._saved < every:
            return
        progress = self._progress
        self._file.flush()
        os.fsync(self._file.fileno())
        skipped = {str(row): [str(file.path), file.reason] for row, file in progress.skipped.items()}
        write_note(self._note, {
            "format": _FORMAT, "version": _VERSION, "key": self._key, "done": progress.done, "checksum": progress.checksum,
            "skipped": skipped, "overwrite": self.may_overwrite,
        })  # fmt: skip
        self._saved = time.monotonic()

    @contextmanager
    def reading(self) -> Iterator["Codes"]:
        """Open the codes for reading. At the end of the block they are compared with those that were added.

        Raises:
            ValueError: the file does not have the codes that were added.
        """
        with naming(self.codes_file, "file of codes in progress"), open(self.codes_file, "rb") as file:
            codes = Codes(file)
            yield codes
            if (codes.read_bytes, codes.checksum) != (self.count * self.code_size, self._progress.checksum) or codes.read(1):
                raise ValueError(
                    f"{self.codes_file} does not have the {self.count:,} codes that were written to it: another program has "
                    f"changed it. Delete {self._note} and encode again"
                )

    def remove(self) -> None:
        """Delete both files."""
        discard_partial(self._out)

    def _restore(self, resume: bool) -> None:
        """Read the note of an earlier encoding, and check that it can be resumed."""
        again = f"Delete {self._note} to start again"
        kind, key, progress, overwrite = _read_note(self._note)
        if kind != (_FORMAT, _VERSION):
            raise ValueError(f"{self._note} was written by another version. {again}")
        if not resume:
            raise FileExistsError(
                f"{self.codes_file} has the codes of {progress.done:,} of {self._total:,} samples, of an encoding that was "
                f"stopped. Resume it. {again}"
            )
        if other := [name for name, value in self._key.items() if key.get(name) != value]:
            raise ValueError(
                f"{self.codes_file} was made with another {' and another '.join(other)} and cannot be continued. {again}"
            )
        self._check_codes(progress, again)
        self._progress, self.may_overwrite = progress, self.may_overwrite or overwrite

    def _check_codes(self, progress: _Progress, again: str) -> None:
        """Raise ValueError unless the file begins with the codes that the note counts."""
        expected = progress.count * self.code_size
        size = self.codes_file.stat().st_size if self.codes_file.exists() else 0
        if size < expected:
            raise ValueError(f"{self.codes_file} is missing or shorter than {self._note.name} says. {again}")
        if expected == 0:
            return
        with naming(self.codes_file, "file of codes in progress"), open(self.codes_file, "rb") as file:
            codes = Codes(file)
            while codes.read_bytes < expected:
                codes.read(min(_BLOCK, expected - codes.read_bytes))
        if codes.checksum != progress.checksum:
            raise ValueError(
                f"{self.codes_file} is damaged: its codes do not have the checksum that {self._note.name} names. {again}"
            )


_KIND, _ADVICE = "note of an encoding in progress", "Delete it to start again"


@reader(_KIND, advice=_ADVICE)
def _read_note(path: Path) -> tuple[tuple[str, int], dict[str, str], _Progress, bool]:
    """Return format and version, the key of the encoding, what has been encoded, and whether the result may replace a file."""
    note = read_note(path, _KIND, advice=_ADVICE)
    key, done, checksum = note["key"], note["done"], note.get("checksum", 0)
    skipped = {int(row): Skipped(Path(file), reason) for row, (file, reason) in note["skipped"].items()}
    if not isinstance(key, dict) or type(done) is not int or type(checksum) is not int or not 0 <= len(skipped) <= done:
        raise ValueError(f"it says {quoted(done)} samples are done, {len(skipped)} of them skipped, under the key {key!r:.80}")
    return (note["format"], note["version"]), key, _Progress(done, checksum, skipped), note.get("overwrite") is True


class Codes:
    """An open file of codes that computes the checksum of what is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read_bytes, self.checksum = 0, 0

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, or all that are left."""
        data = self._file.read(size)
        self.read_bytes += len(data)
        self.checksum = zlib.crc32(data, self.checksum)
        return data


def note_of(out: Path) -> Path:
    """Return the path of the note about an encoding into `out` that is in progress or was stopped."""
    return out.with_name(f"{out.name}.partial.json")


def codes_file_of(out: Path) -> Path:
    """Return the path of the codes of an encoding into `out` that is in progress or was stopped."""
    return out.with_name(f"{out.name}.partial")


def discard_partial(out: Path) -> None:
    """Delete the files of an encoding into `out`, and first the note: codes without a note are replaced by the next encoding."""
    note_of(out).unlink(missing_ok=True)
    codes_file_of(out).unlink(missing_ok=True)


def may_overwrite(out: Path) -> bool:
    """Return whether an encoding into `out` that was stopped had been allowed to replace `out`."""
    try:
        note: dict[str, Any] = read_note(note_of(out))
    except (FileNotFoundError, ValueError):
        return False
    return note.get("overwrite") is True
