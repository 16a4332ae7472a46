"""The files of an encoding in progress: the codes so far, and a note from which the encoding can be resumed.

X.npy.partial       codes so far, without a header
X.npy.partial.json  number of encoded samples, skipped samples, and what the encoding depends on
"""

import json
import os
import time
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from .._base import formats
from .._base.files import atomic_write
from .._base.quoting import quoted
from .._base.reading import reader
from ..data import Skipped

_FORMAT, _VERSION = "orthohash-triton encoding", 1


class PartialCodes:
    """The codes of an encoding in progress, written to a file next to `out`. Use it as a context manager.

    Args:
        out: the file that the finished encoding will be written to.
        key: everything that the codes depend on, by name. An encoding is resumed only if all values are equal.
        code_size: bytes of one code.
        total: number of samples of the source, for messages.
        resume: whether to resume from the files that an earlier encoding has left.

    Attributes:
        done: number of samples that were encoded or skipped.
        skipped: samples without a code, by their position.

    Raises:
        FileExistsError: there are files of an earlier encoding, and `resume` is False.
        ValueError: the files are damaged, or belong to an encoding with another `key`.
    """

    def __init__(self, out: Path, key: dict[str, str], code_size: int, total: int, *, resume: bool) -> None:
        self.codes_file = out.with_name(f"{out.name}.partial")
        self._note = out.with_name(f"{out.name}.partial.json")
        self._key, self.code_size, self._total = key, code_size, total
        self.done, self.skipped = 0, dict[int, Skipped]()
        self._saved = time.monotonic()
        if self._note.exists():
            self._restore(resume)

    @property
    def count(self) -> int:
        """Number of codes so far."""
        return self.done - len(self.skipped)

    def __enter__(self) -> "PartialCodes":
        self._file: BinaryIO = open(self.codes_file, "r+b" if self.done else "wb")
        self._file.truncate(self.count * self.code_size)  # codes that were written after the last note are computed again
        self._file.seek(0, os.SEEK_END)
        self.save()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.save()
        self._file.close()
        if kind is not None and self.done == 0:  # there is nothing to resume
            self.remove()

    def add(self, codes: Tensor | None, skipped: dict[int, Skipped]) -> None:
        """Append the next samples of the source: their codes uint8 [M, code_size], and the samples without a code."""
        if codes is not None:
            self._file.write(codes.numpy().data)
        self.skipped |= skipped
        self.done += len(skipped) + (0 if codes is None else len(codes))

    def save(self, every: float = 0.0) -> None:
        """Write the note if the last one is at least `every` seconds old. The codes are flushed to the disk first."""
        if time.monotonic() - self._saved < every:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        skipped = {str(row): [str(file.path), file.reason] for row, file in self.skipped.items()}
        note = {"format": _FORMAT, "version": _VERSION, "key": self._key, "done": self.done, "skipped": skipped}
        with atomic_write(self._note) as file:
            file.write(json.dumps(note).encode())
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete both files."""
        self.codes_file.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _restore(self, resume: bool) -> None:
        """Read the note of an earlier encoding, and check that it can be resumed."""
        again = f"Delete {self._note} to start again"
        kind, key, done, skipped = _read_note(self._note)
        if kind != (_FORMAT, _VERSION):
            raise ValueError(f"{self._note} was written by another version. {again}")
        if not resume:
            raise FileExistsError(
                f"{self.codes_file} has the codes of {done:,} of {self._total:,} samples, of an encoding that was stopped. "
                f"Resume it. {again}"
            )
        if other := [name for name, value in self._key.items() if key.get(name) != value]:
            raise ValueError(
                f"{self.codes_file} was made with another {' and another '.join(other)} and cannot be continued. {again}"
            )
        size = self.codes_file.stat().st_size if self.codes_file.exists() else 0
        if size < (done - len(skipped)) * self.code_size:
            raise ValueError(f"{self.codes_file} is missing or shorter than {self._note.name} says. {again}")
        self.done, self.skipped = done, skipped


@reader("note of an encoding in progress", advice="Delete it to start again")
def _read_note(path: Path) -> tuple[tuple[str, int], dict[str, str], int, dict[int, Skipped]]:
    """Return format and version, the key of the encoding, the number of samples that are done, and the skipped samples."""
    note = formats.read_json(path, "note of an encoding in progress", advice="Delete it to start again")
    key, done = note["key"], note["done"]
    skipped = {int(row): Skipped(Path(file), reason) for row, (file, reason) in note["skipped"].items()}
    if not isinstance(key, dict) or type(done) is not int or not 0 <= len(skipped) <= done:
        raise ValueError(f"it says {quoted(done)} samples are done, {len(skipped)} of them skipped, under the key {key!r:.80}")
    return (note["format"], note["version"]), key, done, skipped
