"""Lists of image files in the text format of the deep hashing repositories (HashNet, DPN, CSQ, OrthoHash and others).

    images/1.jpg 0 1 0 0     a file, then a zero or a one for each class,
    images/2.jpg 1 0 0 1     of which several may be one;
    images/3.jpg 2           or a file and the number of its class; or only a file, without a label

All lines must be of the same kind. A folder with train.txt, test.txt and perhaps database.txt has its own split; one file is
split at random. Labels become class ids if every line has exactly one class.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.reading import reader
from .listing import Listing, drop_missing, part_places, unlabelled
from .options import OnMissing

EXTENSION = ".txt"


class _Lines(NamedTuple):
    """The contents of one list: N names of files, and their numbers, int64 [N, W]."""

    source: Path
    files: list[str]
    numbers: Tensor


def read(path: str | Path, *, root: str | Path | None = None, on_missing: OnMissing = "raise") -> dict[str, Listing]:
    """Read a list, under "all", or a folder of lists, by part (see `listing.PARTS`). The images are not opened.

    Args:
        path: a .txt file, or a folder of them.
        root: folder that relative paths start from. Default: the folder of the list.
        on_missing: treatment of files that do not exist, "raise" or "skip".

    Raises:
        FileNotFoundError: a list does not exist, or names files that do not exist.
        ValueError: a list has no lines, lines with different numbers of labels, or labels other than zeros and ones.

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
    parts = {part: _read_lines(place) for part, place in places.items()}
    widths = {lines.source.name: lines.numbers.shape[1] for lines in parts.values()}
    if len(set(widths.values())) > 1:
        counts = ", ".join(f"{width} in {name}" for name, width in widths.items())
        raise ValueError(f"{path}: every list must have the same number of labels per line; got {counts}")
    labels, class_names = _class_labels(torch.cat([lines.numbers for lines in parts.values()]), path)
    shares = labels.split([len(lines.files) for lines in parts.values()])
    return {
        part: drop_missing(_listing(lines, root, own, class_names), on_missing)
        for (part, lines), own in zip(parts.items(), shares, strict=True)
    }


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


@reader("list of image files, one per line with its labels")
def _read_lines(path: Path) -> _Lines:
    """Read one list. Raise FileNotFoundError or ValueError if that is impossible."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a list of image files, one per line with its labels")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty; expected a list of image files, one per line with its labels")
    files, numbers = zip(*map(_parse, lines), strict=True)
    width = len(numbers[0])
    for line, own in enumerate(numbers, 1):
        if len(own) != width:
            raise ValueError(f"{path}: every line must have as many labels as the first, {width}; got {len(own)} in line {line}")
    return _Lines(path, list(files), torch.tensor(numbers, dtype=torch.int64).view(len(files), width))


def _parse(line: str) -> tuple[str, list[int]]:
    """Return the name of the file, which may contain spaces, and the numbers that follow it."""
    words = line.split()
    first = len(words)
    while first > 1 and words[first - 1].isdecimal():
        first -= 1
    numbers = [int(word) for word in words[first:]]
    return (line.strip().rsplit(maxsplit=len(numbers))[0] if numbers else line.strip()), numbers


def _class_labels(numbers: Tensor, path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Convert the `numbers` [N, W] of all lines to labels, int64 [N] or bool [N, C], and class names (none without labels)."""
    classes = numbers.shape[1]
    if classes == 0:
        return torch.zeros(len(numbers), dtype=torch.int64), ()
    if classes == 1:
        return numbers[:, 0], tuple(map(str, range(int(numbers.max()) + 1)))
    if int(numbers.max()) > 1:
        raise ValueError(f"{path}: labels must be zeros and ones, one for each of {classes} classes; got {int(numbers.max())}")
    names = tuple(map(str, range(classes)))
    return (numbers.argmax(1), names) if bool((numbers.sum(1) == 1).all()) else (numbers.bool(), names)


def _listing(lines: _Lines, root: str | Path | None, labels: Tensor, class_names: tuple[str, ...]) -> Listing:
    """Return the files of one list with their labels."""
    start = Path(root) if root is not None else lines.source.parent
    files = tuple((start / file).absolute() for file in lines.files)
    return Listing(str(lines.source), files, labels, class_names) if class_names else unlabelled(str(lines.source), files)
