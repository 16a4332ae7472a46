"""Lists of image files as the repositories of deep hashing keep them (HashNet's, DPN's, CSQ's, OrthoHash's and others).

    images/1.jpg 0 1 0 0     a line: the file, then a zero or a one for every class,
    images/2.jpg 1 0 0 1     of which several may be one;
    images/3.jpg 2           or the file and the number of its class; or the file alone, unlabelled

All lines are of one kind. A folder with train.txt, test.txt and perhaps database.txt is split by them; one file is split by a
seed. Where every line has exactly one class, labels are class ids.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .listing import Listing, drop_missing, part_places, unlabelled

EXTENSION = ".txt"


class _Lines(NamedTuple):
    """What stands in one file: N names of files and their numbers, int64 [N, W]."""

    source: Path
    files: list[str]
    numbers: Tensor


def read(path: str | Path, *, root: str | Path | None = None, on_missing: str = "raise") -> dict[str, Listing]:
    """The image files of a list, under "all", or of a folder of lists, by the keys of PARTS; unopened.

    root        the folder that relative paths start from; that of the list unless said otherwise
    on_missing  of files that are not there: "raise" or "skip"

    Raises:
        FileNotFoundError: no such list, or files that it names are not there.
        ValueError: lines with different numbers of labels, labels other than zeros and ones, or no lines.
    """
    path = Path(path)
    places = part_files(path) if path.is_dir() else {"all": path}
    if not places:
        raise FileNotFoundError(f"{path} has no train.txt and test.txt; expected lists of image files")
    parts = {part: _read_lines(place) for part, place in places.items()}
    widths = {lines.source.name: lines.numbers.shape[1] for lines in parts.values()}
    if len(set(widths.values())) > 1:
        counts = ", ".join(f"{width} in {name}" for name, width in widths.items())
        raise ValueError(f"{path}: every list must have as many labels a line; got {counts}")
    labels, class_names = _class_labels(torch.cat([lines.numbers for lines in parts.values()]), path)
    shares = labels.split([len(lines.files) for lines in parts.values()])
    return {
        part: drop_missing(_listing(lines, root, own, class_names), on_missing)
        for (part, lines), own in zip(parts.items(), shares, strict=True)
    }


def part_files(folder: Path) -> dict[str, Path]:
    """The lists of `folder` by part; empty unless there are one for training and one of queries."""
    places = part_places(folder, EXTENSION, Path.is_file)
    return places if {"train", "query"} <= set(places) else {}


def _read_lines(path: Path) -> _Lines:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a list of image files, one a line with its labels")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}); expected a list of image files, one a line with its labels") from error
    if not lines:
        raise ValueError(f"{path} is empty; expected a list of image files, one a line with its labels")
    files, numbers = zip(*map(_parse, lines), strict=True)
    width = len(numbers[0])
    for line, own in enumerate(numbers, 1):
        if len(own) != width:
            raise ValueError(f"{path}: every line must have as many labels as the first, {width}; got {len(own)} in line {line}")
    return _Lines(path, list(files), torch.tensor(numbers, dtype=torch.int64).view(len(files), width))


def _parse(line: str) -> tuple[str, list[int]]:
    """The file and the numbers behind it; the name of a file may hold spaces."""
    words = line.split()
    first = len(words)
    while first > 1 and words[first - 1].isdecimal():
        first -= 1
    numbers = [int(word) for word in words[first:]]
    return (line.strip().rsplit(maxsplit=len(numbers))[0] if numbers else line.strip()), numbers


def _class_labels(numbers: Tensor, path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Labels int64 [N] or bool [N, C] of the `numbers` [N, W] of all lines, and names of the classes."""
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
    start = Path(root) if root is not None else lines.source.parent
    files = tuple((start / file).absolute() for file in lines.files)
    return Listing(str(lines.source), files, labels, class_names) if class_names else unlabelled(str(lines.source), files)
