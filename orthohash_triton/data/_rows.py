"""The rows of manifests and lists, which name a file and its classes, and the listings that follow from them.

Both kinds of source go through `listings`, so that a file that several rows name becomes one sample, whose classes are those of
all its rows. Several samples of one file would put queries into the gallery.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .._base.file_names import FileFinder
from .listing import Listing, unlabelled

_MOST_ENTRIES = 2**31
"""Largest size of labels [N, C] in bytes: a small file can name so many classes that they would fill any memory."""
_SHOWN = 3  # names in a message


class Rows(NamedTuple):
    """The rows of one part of a source.

    Attributes:
        name: description of the part, for messages.
        paths: the file of each row; a file may occur several times.
        classes: the classes of each row, by number; None if the source has no labels.
    """

    name: str
    paths: list[Path]
    classes: list[tuple[int, ...]] | None


def listings(parts: dict[str, Rows], class_names: Sequence[str]) -> dict[str, Listing]:
    """Return the listing of each part.

    A file whose name is in another Unicode normal form, as on macOS, is found under its own name. Labels are class ids,
    int64 [N], if every file has exactly one class, and else bool [N, C].

    Raises:
        ValueError: a file is both a query and in another part, or the labels would be too large.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data._rows import Rows, listings
        >>> rows = Rows("photos.csv", [Path("1.jpg"), Path("2.jpg"), Path("./1.jpg")], [(0,), (1,), (2,)])
        >>> listings({"all": rows}, ("cat", "dog", "garden"))["all"].labels
        tensor([[ True, False,  True],
                [False,  True, False]])
    """
    finder = FileFinder()
    parts = {part: rows._replace(paths=list(map(finder.find, rows.paths))) for part, rows in parts.items()}
    if any(rows.classes is None for rows in parts.values()):
        return {part: unlabelled(rows.name, rows.paths) for part, rows in parts.items()}
    parts = _joined(parts)
    _refuse_leaks(parts)
    single = all(len(own) == 1 for rows in parts.values() for own in rows.classes or ())
    if not single:
        _refuse_large(parts, len(class_names))
    return {
        part: Listing(rows.name, tuple(rows.paths), _labels(rows.classes or [], len(class_names), single), tuple(class_names))
        for part, rows in parts.items()
    }


def _joined(parts: dict[str, Rows]) -> dict[str, Rows]:
    """Return the parts with each file once, at its first row, with the classes of all its rows in any part."""
    total = sum(len(rows.paths) for rows in parts.values())
    own: dict[str, set[int]] = {}
    for rows in parts.values():
        for path, classes in zip(rows.paths, rows.classes or (), strict=True):
            own.setdefault(_key(path), set()).update(classes)
    if len(own) == total:
        return parts
    result = {}
    for part, rows in parts.items():
        first = {_key(path): path for path in reversed(rows.paths)}
        kept = list(dict.fromkeys(map(_key, rows.paths)))
        if repeated := len(rows.paths) - len(kept):
            print(
                f"{rows.name}: {repeated:,} of {len(rows.paths):,} rows name a file again; its classes were joined",
                file=sys.stderr,
            )
        result[part] = Rows(rows.name, [first[key] for key in kept], [tuple(sorted(own[key])) for key in kept])
    return result


def _refuse_leaks(parts: dict[str, Rows]) -> None:
    """Raise ValueError if a query is also in another part, where it would find itself or be trained on."""
    queries = set(map(_key, parts["query"].paths)) if "query" in parts else set()
    for part, rows in parts.items():
        if part != "query" and (both := [path for path in rows.paths if _key(path) in queries]):
            shown = ", ".join(map(str, both[:_SHOWN])) + (f" and {len(both) - _SHOWN:,} more" if len(both) > _SHOWN else "")
            raise ValueError(
                f"{rows.name}: {len(both):,} files are queries and also in the part {part}: {shown}. Keep one of both"
            )


def _refuse_large(parts: dict[str, Rows], classes: int) -> None:
    """Raise ValueError if labels [N, C] would be larger than _MOST_ENTRIES."""
    files = sum(len(rows.paths) for rows in parts.values())
    if files * classes > _MOST_ENTRIES:
        name = next(iter(parts.values())).name
        raise ValueError(
            f"{name}: several labels of {files:,} files with {classes:,} classes need {files * classes / 2**30:.0f} GiB as zeros "
            f"and ones; at most {_MOST_ENTRIES / 2**30:.0f} GiB are possible. Leave out rare classes"
        )


def _labels(classes: list[tuple[int, ...]], count: int, single: bool) -> Tensor:
    """Return the labels of rows with these classes, int64 [N] if every row has a single one, else bool [N, count]."""
    if single:
        return torch.tensor([own[0] for own in classes], dtype=torch.int64)
    labels = torch.zeros(len(classes), count, dtype=torch.bool)
    for i, own in enumerate(classes):
        labels[i, list(own)] = True
    return labels


def _key(path: Path) -> str:
    """Return the same text for a/1.jpg, a/./1.jpg and b/../a/1.jpg."""
    return os.path.normpath(path)
