"""Manifests: tables of image files, as CSV (.csv, .tsv) or Parquet (.parquet).

    path,label,split                columns; the names may be given, and only `path` must be there
    images/1.jpg,cat,train          paths start from the manifest's own folder, or from `root`
    images/2.jpg,cat;indoors,train  several labels stand apart by ; or |, or are a list in Parquet
    images/3.jpg,dog,query          train, gallery (database), query (test), val; without the column a seed splits

Labels are words or integers. Classes stand in the order of their names, integers in that of their values.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .listing import PARTS, Listing, drop_missing, part_of, unlabelled

EXTENSIONS = (".csv", ".tsv", ".parquet")
LABEL_COLUMNS = ("labels", "label")
SEPARATORS = (";", "|")

_SHOWN = 5


def read(
    path: str | Path,
    *,
    root: str | Path | None = None,
    path_column: str = "path",
    label_column: str | None = None,
    split_column: str | None = None,
    on_missing: str = "raise",
) -> dict[str, Listing]:
    """The image files that a manifest names, unopened: by the keys of PARTS, or all under "all" where it has no parts.

    root          the folder that relative paths start from; the manifest's own unless said otherwise
    label_column  the column of labels; "labels" or "label" unless said otherwise; without one the files are unlabelled
    split_column  the column of parts; "split" unless said otherwise, and no parts without one
    on_missing    of files that are not there: "raise" or "skip"

    Raises:
        FileNotFoundError: no such manifest, or files that it names are not there.
        ValueError: it cannot be read, lacks a column, or holds a row without a path, a label or a part.
        ImportError: pyarrow is not installed.
    """
    path = Path(path)
    table = _read_table(path, [name for name in (path_column, label_column, *LABEL_COLUMNS, split_column, "split") if name])
    files = _texts(path, _column(path, table, path_column), path_column)
    if empty := [number for number, file in enumerate(files, 1) if not file]:
        raise ValueError(f"{path}: rows without a {path_column}: {_numbers(empty)} (the first is 1). Remove them")
    start = Path(root) if root is not None else path.parent
    listing = _labelled(path, table, tuple((start / file).absolute() for file in files), label_column)
    parts = _parts(path, table, split_column)
    if parts is None:
        return {"all": drop_missing(listing, on_missing)}
    rows = {part: torch.tensor([i for i, own in enumerate(parts) if own == part]) for part in PARTS if part in parts}
    return {part: drop_missing(listing.subset(own), on_missing) for part, own in rows.items()}


def _labelled(path: Path, table: Any, files: tuple[Path, ...], label_column: str | None) -> Listing:
    name = label_column or next((name for name in LABEL_COLUMNS if name in table.column_names), None)
    if name is None:
        return unlabelled(str(path), files)
    labels, class_names = _class_labels(path, name, _labels(path, table, name))
    return Listing(str(path), files, labels, class_names)


def _labels(path: Path, table: Any, name: str) -> tuple[list[list[str]], bool]:
    """The labels of each row, and whether a row may have none: in a column of lists."""
    import pyarrow as pa

    column = _column(path, table, name)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [[str(label) for label in row or ()] for row in column.to_pylist()], True
    rows = _texts(path, column, name)
    for separator in SEPARATORS[1:]:
        rows = [row.replace(separator, SEPARATORS[0]) for row in rows]
    return [[label.strip() for label in row.split(SEPARATORS[0]) if label.strip()] for row in rows], False


def _class_labels(path: Path, column: str, found: tuple[list[list[str]], bool]) -> tuple[Tensor, tuple[str, ...]]:
    """int64 [N] where every row has one label, else bool [N, C]; and the C names."""
    rows, may_be_empty = found
    names = _ordered({label for row in rows for label in row})
    several = any(len(row) > 1 for row in rows)
    empty = [number for number, row in enumerate(rows, 1) if not row]
    if empty and not (several or may_be_empty):
        raise ValueError(
            f"{path}: rows without a {column}: {_numbers(empty)} (the first is 1), and none has several. "
            "Give every row one label, or remove those rows"
        )
    ids = {name: i for i, name in enumerate(names)}
    if not several and not empty:
        return torch.tensor([ids[row[0]] for row in rows], dtype=torch.int64), names
    labels = torch.zeros(len(rows), len(names), dtype=torch.bool)
    for i, row in enumerate(rows):
        labels[i, [ids[label] for label in row]] = True
    return labels, names


def _ordered(names: set[str]) -> tuple[str, ...]:
    """Integers by their values, words by the alphabet."""
    if all(name.lstrip("-").isdecimal() and str(int(name)) == name for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _parts(path: Path, table: Any, split_column: str | None) -> list[str] | None:
    """The part of each row."""
    if split_column is None and "split" not in table.column_names:
        return None
    name = split_column or "split"
    words = _texts(path, _column(path, table, name), name)
    parts = [part_of(word) for word in words]
    if unknown := sorted({word for word, part in zip(words, parts, strict=True) if part is None}):
        known = ", ".join(name for names in PARTS.values() for name in names)
        shown = ", ".join(map(repr, unknown[:_SHOWN]))
        raise ValueError(f"{path}: column {name!r} must name a part, one of {known}; got {shown}")
    return [part for part in parts if part is not None]


def _read_table(path: Path, as_text: Sequence[str]) -> Any:
    """The table, with the columns `as_text` of a CSV file unconverted, so that 007 stays 007."""
    try:
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('manifests need pyarrow: pip install "orthohash-triton[parquet]"') from error
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a manifest, one of {', '.join(EXTENSIONS)}")
    try:
        if path.suffix.lower() == ".parquet":
            return pa.parquet.read_table(path)
        return pa.csv.read_csv(
            path,
            parse_options=pa.csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ","),
            convert_options=pa.csv.ConvertOptions(column_types={name: pa.string() for name in as_text}),
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table ({' '.join(str(error).split())})") from error


def _column(path: Path, table: Any, name: str) -> Any:
    if table.column_names.count(name) != 1:
        raise ValueError(
            f"{path} must have one column {name!r}; it has the columns {', '.join(table.column_names)}. "
            "Expected path, label (or labels) and perhaps split; say which columns these are if they have other names"
        )
    return table[name]


def _texts(path: Path, column: Any, name: str) -> list[str]:
    """A column of words or integers as text, "" where there is nothing."""
    import pyarrow as pa

    try:
        if pa.types.is_floating(column.type):  # as integers become in pandas
            column = column.cast(pa.int64())
        return [text or "" for text in column.cast(pa.string()).to_pylist()]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{path}: column {name!r} must hold words or integers; got {column.type} ({error})") from error


def _numbers(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:_SHOWN])) + (f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else "")
