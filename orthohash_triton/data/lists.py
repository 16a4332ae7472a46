"""Lists of image files in the text format of the deep hashing repositories (HashNet, DPN, CSQ, OrthoHash and others).

    images/1.jpg 0 1 0 0     a file, then a zero or a one for each class (or -1 and 1),
    images/2.jpg 1 0 0 1     of which several may be one;
    images/3.jpg 2           or a file and the number of its class; or only a file, without a label
    "images/4 5.jpg" 2       names may be in quotes, which a name that ends in numbers needs
    # images/5.jpg 1         lines that begin with # are comments

All lines must be of the same kind. A folder with train.txt, test.txt and perhaps database.txt has its own split; one file is
split at random. Labels become class ids if every file has exactly one class. Numbers of classes may have gaps: the classes are
those that occur, and are called by their numbers. A file that several lines name is one sample with the classes of all of them.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from .._base.reading import reader
from .._base.text_files import read_text
from ._rows import Rows, listings
from .listing import Listing, drop_missing, part_places
from .options import OnMissing

EXTENSION = ".txt"

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")  # a whole number, perhaps written as a float
_NUMERIC = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_QUOTES = "\"'"
_EXPECTED = "expected a list of image files, one per line with its labels"


class _Lines(NamedTuple):
    """The contents of one list: N absolute paths, and the W numbers that follow each."""

    source: Path
    paths: list[Path]
    numbers: list[tuple[int, ...]]

    @property
    def width(self) -> int:
        return len(self.numbers[0])


def read(path: str | Path, *, root: str | Path | None = None, on_missing: OnMissing = "raise") -> dict[str, Listing]:
    """Read a list, under "all", or a folder of lists, by part (see `listing.PARTS`). The images are not opened.

    Args:
        path: a .txt file, or a folder of them.
        root: folder that relative paths start from. Default: the folder of the list.
        on_missing: treatment of files that do not exist, "raise" or "skip".

    Raises:
        FileNotFoundError: a list does not exist, or names files that do not exist.
        ValueError: a list is not text, has no lines, lines with different numbers of labels, or labels of another kind; or a
            query is also in another part.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data import lists
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "1.jpg").touch()
        ...     (Path(folder) / "all.txt").write_text("1.jpg 0 1 0") and None
        ...     lists.read(Path(folder) / "all.txt")["all"].labels
        tensor([1])
    """
    path = Path(path)
    places = part_files(path) if path.is_dir() else {"all": path}
    if not places:
        raise FileNotFoundError(f"{path} has no train.txt and test.txt; expected lists of image files")
    parts = {part: _read_lines(place, Path(root or place.parent)) for part, place in places.items()}
    widths = {lines.source.name: lines.width for lines in parts.values()}
    if len(set(widths.values())) > 1:
        counts = ", ".join(f"{width} in {name}" for name, width in widths.items())
        raise ValueError(f"{path}: every list must have the same number of labels per line; got {counts}")
    classes, class_names = _classes(parts, path)
    rows = {part: Rows(str(lines.source), lines.paths, classes.get(part)) for part, lines in parts.items()}
    return {part: drop_missing(listing, on_missing) for part, listing in listings(rows, class_names).items()}


def part_files(folder: Path) -> dict[str, Path]:
    """Return the lists in `folder` by part; empty unless there is one for training and one of queries.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data import lists
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("train.txt", "test.txt"):
        ...         (Path(folder) / name).touch()
        ...     sorted(lists.part_files(Path(folder)))
        ['query', 'train']
    """
    places = part_places(folder, EXTENSION, Path.is_file)
    return places if {"train", "query"} <= set(places) else {}


@reader("list of image files")
def _read_lines(path: Path, start: Path) -> _Lines:
    """Read one list, whose relative paths start from the folder `start`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {_EXPECTED}")
    lines = [line for line in read_text(path, any_names=True).split("\n") if line.strip() and not _is_comment(line, path, start)]
    if not lines:
        raise ValueError(f"{path} is empty; {_EXPECTED}")
    files, numbers = zip(*(_parse(line, path) for line in lines), strict=True)
    width = len(numbers[0])
    for own, line in zip(numbers, lines, strict=True):
        if len(own) != width:
            raise ValueError(
                f"{path}: every line must have as many labels as the first, {width}; got {len(own)} in {line!r:.200}"
            )
    return _Lines(path, [(start / file).absolute() for file in files], list(numbers))


def _is_comment(line: str, path: Path, start: Path) -> bool:
    """Return whether a line is a comment. Raise ValueError if it can also be a file whose name begins with #."""
    line = line.strip()
    if not line.startswith("#"):
        return False
    name = _split(line)[0]
    if os.path.isfile(start / name):  # Path.is_file raises OSError for a comment that is too long for a name
        raise ValueError(f"{path}: {line!r:.200} is a comment, but also the name of a file. Write ./{name}, or remove the line")
    return True


def _parse(line: str, path: Path) -> tuple[str, tuple[int, ...]]:
    """Return the name of the file, which may contain spaces, and the numbers that follow it."""
    name, words = _split(line.strip())
    numbers = []
    for word in words:
        if not _NUMBER.fullmatch(word):
            raise ValueError(f"{path}: labels must be whole numbers; got {word:.40} in {line.strip()!r:.200}")
        numbers.append(int(word.partition(".")[0]))
    return name, tuple(numbers)


def _split(line: str) -> tuple[str, list[str]]:
    """Return the name of the file without its quotes, and the words after it that look like numbers."""
    for quote in _QUOTES:
        end = line.rfind(quote)
        rest = line[end + 1 :]
        if line.startswith(quote) and end > 0 and all(map(_NUMERIC.fullmatch, rest.split())) and (not rest or rest[0].isspace()):
            return line[1:end], rest.split()
    words = line.split()
    first = len(words)
    while first > 1 and _NUMERIC.fullmatch(words[first - 1]):
        first -= 1
    count = len(words) - first
    return (line.rsplit(maxsplit=count)[0] if count else line), words[first:]


def _classes(parts: dict[str, _Lines], path: Path) -> tuple[dict[str, list[tuple[int, ...]]], tuple[str, ...]]:
    """Return the classes of every line by part, and the names of all classes; both are empty without labels."""
    width = next(iter(parts.values())).width
    values = {number for lines in parts.values() for own in lines.numbers for number in own}
    if width == 0:
        return {}, ()
    if width == 1:
        if min(values) < 0:
            raise ValueError(
                f"{path}: a label must be the number of a class, at least 0; got {min(values)}. Leave out files without a class, "
                "or write a zero or a one for each class"
            )
        ids = {number: i for i, number in enumerate(sorted(values))}
        return {part: [(ids[own[0]],) for own in lines.numbers] for part, lines in parts.items()}, tuple(map(str, ids))
    if not (values <= {0, 1} or values <= {-1, 1}):
        wrong = next(iter(sorted(values - {-1, 0, 1}))) if values - {-1, 0, 1} else "-1, 0 and 1"
        raise ValueError(f"{path}: labels must be zeros and ones, or -1 and 1, one for each of {width} classes; got {wrong}")
    classes = {
        part: [tuple(i for i, number in enumerate(own) if number == 1) for own in lines.numbers] for part, lines in parts.items()
    }
    return classes, tuple(map(str, range(width)))
