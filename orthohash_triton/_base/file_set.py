"""Outputs of several files, which change together: an interruption leaves all old files or all new ones.

A note, a JSON file, names the files of the set with their sizes and checksums. It is what makes new files the current ones:

1. Each new file is written next to the old one, under a hidden name.
2. The note is replaced. From here on the set has the new files; the note says under which hidden names they may still be.
3. The new files get their names, and files that the set no longer has are removed.

A reader goes by the note, so it finds the complete old set before step 2, and the complete new set after it. The next writer
finishes step 3 if it was interrupted. A set belongs to one writer at a time (`locks.owned`).
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from . import formats
from .files import atomic_write, hidden_beside, sync_folder, target_of, temporary_file
from .locks import owned
from .quoting import quoted
from .reading import reader

_CHECKSUM = "crc32"  # key of a note's own checksum
_FILES, _REMOVED = "files", "removed"  # keys of the note that belong to the set
_PENDING = ("new-0", "new-1")  # endings of hidden names; a set takes the other one than before
_BLOCK = 2**20  # bytes that are read at a time for a checksum


# ---- notes -----------------------------------------------------------------------------------------------------------------


def write_note(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON with a checksum of its own, completely or not at all."""
    plain = json.loads(json.dumps(content))
    with atomic_write(path) as file:
        file.write((json.dumps({**plain, _CHECKSUM: _checksum_of(plain)}, indent=2) + "\n").encode())


def read_note(path: Path, kind: str = "JSON file", *, advice: str = "") -> dict[str, Any]:
    """Return the content of a note after comparing it with its checksum, if the note contains one.

    Args:
        kind, advice: see `reading.reader`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object, or it does not match its checksum.
    """
    ending = f". {advice}" if advice else ""
    content = formats.read_json(path, kind, advice=advice)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a readable {kind}: it must have a JSON object; got {type(content).__name__}{ending}")
    said = content.pop(_CHECKSUM, None)
    if said is not None and said != (found := _checksum_of(content)):
        raise ValueError(
            f"{path} is damaged or was edited: its checksum is {found}, its entry {quoted(_CHECKSUM)} says {quoted(said)}. "
            f"If you have edited it, remove that entry{ending}"
        )
    return content


def _checksum_of(content: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True, separators=(',', ':')).encode()):08x}"


@reader("file")
def checksum_of_file(path: Path) -> str:
    """Return the CRC-32 of the bytes of a file, in hexadecimal."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


# ---- reading ---------------------------------------------------------------------------------------------------------------


class FileSet:
    """The files that a note names, for reading.

    Args:
        note: path of the note, which is in the folder of the files.

    Attributes:
        content: what the note says besides the names of the files.
        names_files: whether the note names files; those that earlier versions wrote do not.

    Raises:
        FileNotFoundError: there is no such note.
        ValueError: the note is damaged.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton._base.file_set import FileSet, replacing
        >>> with replacing(Path("note.json"), {"bits": 8}) as files:
        ...     with files.create("codes") as file:
        ...         _ = file.write(b"abc")
        >>> found = FileSet(Path("note.json"))
        >>> found.content, list(found), found.path("codes").read_bytes()
        ({'bits': 8}, ['codes'], b'abc')
    """

    def __init__(self, note: Path) -> None:
        self.note = note
        self.content = read_note(note)
        self.names_files = _FILES in self.content
        self._files: dict[str, dict[str, Any]] = self.content.pop(_FILES, {})
        self._removed: list[str] = self.content.pop(_REMOVED, [])
        if trouble := _trouble(self._files, self._removed):
            raise ValueError(f"{note} is damaged: {trouble}")

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def entry(self, name: str) -> dict[str, Any]:
        """Return what the note says about a file; nothing if the file is not in the set."""
        return self._files.get(name, {})

    def path(self, name: str, *, check: bool = True) -> Path:
        """Return where a file of the set is, after comparing its size and, with `check`, its checksum.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: the file is not the one that the note names.
        """
        entry = self._files[name]
        final = self.note.with_name(name)
        # The hidden file is there if the writer was interrupted, or is about to give the file its name.
        for path in (hidden_beside(target_of(final), entry["pending"]), final):
            with suppress(FileNotFoundError):
                size = path.stat().st_size
                if size != entry["bytes"]:
                    raise self._other(final, f"it has {size:,} bytes, expected {entry['bytes']:,}")
                if check and (found := checksum_of_file(path)) != entry[_CHECKSUM]:
                    raise self._other(final, f"its checksum is {found}, expected {entry[_CHECKSUM]}")
                return path
        raise FileNotFoundError(f"{final} is missing; {self.note} names it")

    def _other(self, path: Path, difference: str) -> ValueError:
        return ValueError(
            f"{path} is not the file that {self.note} names: {difference}. It is damaged, or was replaced by another program. "
            f"Write it again; if you have replaced it yourself, remove its entry and {quoted(_CHECKSUM)} from {self.note.name}"
        )

    def settle(self) -> None:
        """Give the files their names, and remove those that the set no longer has. Repeated calls do no harm."""
        for name, entry in self._files.items():
            final = target_of(self.note.with_name(name))
            with suppress(FileNotFoundError):
                os.replace(hidden_beside(final, entry["pending"]), final)
        for name in self._removed:
            target_of(self.note.with_name(name)).unlink(missing_ok=True)
        sync_folder(self.note.absolute().parent)


def _trouble(files: Any, removed: Any) -> str | None:
    """Return what is wrong with the entries about the files, or None."""
    if not isinstance(files, dict) or not isinstance(removed, list):
        return f"its entries {quoted(_FILES)} and {quoted(_REMOVED)} must be an object and a list"
    for name in (*files, *removed):
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            return f"{quoted(name)} is not the name of a file in its folder"
    for name, entry in files.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("bytes"), int) or not isinstance(entry.get(_CHECKSUM), str):
            return f"the entry of {quoted(name)} lacks its size or checksum"
        if entry.get("pending") not in _PENDING:
            return (
                f"the entry of {quoted(name)} must have one of {', '.join(_PENDING)} as 'pending'; "
                f"got {quoted(entry.get('pending'))}"
            )
    return None


def note_of(path: str | os.PathLike[str]) -> Path:
    """Return the path of the note about the set of a single file and those that accompany it."""
    return Path(f"{os.fspath(path)}.files.json")


def checked(path: str | os.PathLike[str], *, check: bool = True) -> Path:
    """Return where the file `path` is, after comparing its size and, with `check`, its checksum if it has a note (`note_of`).

    Raises:
        FileNotFoundError, ValueError: see `FileSet.path`. A file without a note may be missing.
    """
    note = note_of(path)
    if not os.path.isfile(note):  # unlike Path.is_file, this is also False for a name that is too long
        return Path(path)
    files, name = FileSet(note), Path(path).name
    return files.path(name, check=check) if name in files else Path(path)


# ---- writing ---------------------------------------------------------------------------------------------------------------


class NewFiles:
    """The files that are about to enter a set; see `replacing` and `updating`."""

    def __init__(self, note: Path, before: FileSet | None) -> None:
        self._note, self._before = note, before
        self.entries: dict[str, dict[str, Any]] = {}
        self.removed: set[str] = set()

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file of the set for writing. It takes the place of the file called `name` when the set is complete."""
        earlier = None if self._before is None else self._before.entry(name).get("pending")
        slot = _PENDING[1] if earlier == _PENDING[0] else _PENDING[0]
        target = target_of(self._note.with_name(name))
        with temporary_file(target, slots=iter([slot])) as (temporary, file):
            yield file
            file.flush()
            os.fsync(file.fileno())
            self.entries[name] = {**_description(temporary), "pending": slot}

    def remove(self, name: str) -> None:
        """Remove the file called `name` when the set is complete, if there is one."""
        self.removed.add(name)

    def clear(self) -> None:
        """Remove the hidden files, except those that the note names already."""
        try:
            current = FileSet(self._note)
        except (FileNotFoundError, ValueError):
            current = None
        for name, entry in self.entries.items():
            if current is None or current.entry(name) != entry:
                hidden_beside(target_of(self._note.with_name(name)), entry["pending"]).unlink(missing_ok=True)


def _description(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, _CHECKSUM: checksum_of_file(path)}


@contextmanager
def replacing(note: Path, content: dict[str, Any], *, remove_others: bool = True) -> Iterator[NewFiles]:
    """Make the files that the block creates the files of the set, with `content` in its note.

    If the block raises, the old set is unchanged.

    Args:
        remove_others: whether files of the old set that the block does not create are removed.

    Raises:
        BlockingIOError: another process writes the set.
    """
    with owning(note, str(note)):
        before = settled(note)
        with _changing(note, before) as files:
            yield files
            if remove_others:
                files.removed |= set(before or ())
            _commit(note, content, files.entries, files.removed)


@contextmanager
def updating(note: Path, *, adopting: Iterable[str] = ()) -> Iterator[NewFiles]:
    """Replace or add the files that the block creates, and remove those that it removes. The other files stay in the set.

    Args:
        adopting: names of files that belong to the set although a note of an earlier version does not name any file.

    Raises:
        FileNotFoundError: there is no set.
        ValueError: the note is damaged.
        BlockingIOError: another process writes the set.
    """
    with owning(note, str(note)):
        before = FileSet(note)
        before.settle()
        with _changing(note, before) as files:
            yield files
            kept = {name: before.entry(name) for name in before}
            if not before.names_files:
                found = {name: note.with_name(name) for name in adopting}
                kept = {name: {**_description(path), "pending": _PENDING[0]} for name, path in found.items() if path.is_file()}
            kept = {name: entry for name, entry in kept.items() if name not in files.removed}
            _commit(note, before.content, {**kept, **files.entries}, files.removed)


def lock_of(note: Path) -> Path:
    """Return the path of the lock file of the set that belongs to `note`."""
    return hidden_beside(target_of(note), "lock")


@contextmanager
def owning(note: Path, what: str) -> Iterator[None]:
    """Be the only process that writes the set of `note` during the block; see `locks.owned`."""
    with owned(lock_of(note), what):
        yield


def settled(note: Path) -> FileSet | None:
    """Return the set of `note` after finishing what an interrupted writer has left to do; None if there is no such set.

    A damaged note counts as none, because the next set replaces it.
    """
    try:
        current = FileSet(note)
    except (FileNotFoundError, ValueError):
        return None
    current.settle()
    return current


@contextmanager
def _changing(note: Path, before: FileSet | None) -> Iterator[NewFiles]:
    """Yield an empty collection of new files, which is cleared if the block raises."""
    files = NewFiles(note, before)
    try:
        yield files
    except BaseException:
        files.clear()
        raise


def _commit(note: Path, content: dict[str, Any], entries: dict[str, dict[str, Any]], removed: set[str]) -> None:
    """Replace the note, which makes the new files the current ones, and give them their names."""
    for folder in {target_of(note.with_name(name)).parent for name in entries}:
        sync_folder(folder)
    gone = sorted(removed - entries.keys())
    write_note(note, {**content, _FILES: entries, **({_REMOVED: gone} if gone else {})})
    FileSet(note).settle()


def discard(note: Path) -> None:
    """Forget that the files of a set belong together: finish an interrupted change, and remove the note only."""
    if note.exists():
        with owning(note, str(note)):
            settled(note)
            note.unlink(missing_ok=True)
