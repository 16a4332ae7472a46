"""Manifests: tables of image files, as CSV (.csv, .tsv) or Parquet (.parquet).

    path,label,split                columns; other names can be passed as options, and only `path` is required
    images/1.jpg,cat,train          relative paths start from the folder of the manifest, or from `root`
    images/2.jpg,cat;indoors,train  several labels are separated by ; or |, or are a list in Parquet
    images/3.jpg,dog,query          parts: train, gallery (database), query (test), val; without the column, the split is random

Labels are words or integers. Classes are ordered by name, or by value if all of them are integers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._base import formats
from .._base.reading import reader
from .listing import PARTS, Listing, drop_missing, part_of, unlabelled
from .options import OnMissing

EXTENSIONS = (".csv", ".tsv", ".parquet")
LABEL_COLUMNS = ("labels", "label")
SEPARATORS = (";", "|")

_SHOWN = 5  # row numbers in a message


def read(
    path: str | Path,
    *,
    root: str | Path | None = None,
    path_column: str = "path",
    label_column: str | None = None,
    split_column: str | None = None,
    on_missing: OnMissing = "raise",
) -> dict[str, Listing]:
    """Read a manifest by part (see `listing.PARTS`), or under "all" if it has no parts. The images are not opened.

    Args:
        path: a .csv, .tsv or .parquet file.
        root: folder that relative paths start from. Default: the folder of the manifest.
        path_column: column of the paths.
        label_column: column of the labels. Default: "labels" or "label"; without such a column the files are unlabelled.
        split_column: column of the parts. Default: "split"; without such a column there are no parts.
        on_missing: treatment of files that do not exist, "raise" or "skip".

    Raises:
        FileNotFoundError: the manifest does not exist, or names files that do not exist.
        ValueError: the manifest cannot be read, lacks a column, or has a row without a path, a label or a part.
        ImportError: pyarrow is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data import manifest
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("1.jpg", "2.jpg"):
        ...         (Path(folder) / name).touch()
        ...     (Path(folder) / "m.csv").write_text("path,label\\n1.jpg,dog\\n2.jpg,cat") and None
        ...     listing = manifest.read(Path(folder) / "m.csv")["all"]
        >>> listing.class_names, listing.labels
        (('cat', 'dog'), tensor([1, 0]))
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
    """Return all `files` with their labels, if the table has a column of labels."""
    name = label_column or next((name for name in LABEL_COLUMNS if name in table.column_names), None)
    if name is None:
        return unlabelled(str(path), files)
    labels, class_names = _class_labels(path, name, _labels(path, table, name))
    return Listing(str(path), files, labels, class_names)


def _labels(path: Path, table: Any, name: str) -> tuple[list[list[str]], bool]:
    """Return the labels of each row, and whether a row may have none, which is so in a column of lists."""
    import pyarrow as pa

    column = _column(path, table, name)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [[str(label) for label in row or ()] for row in column.to_pylist()], True
    rows = _texts(path, column, name)
    for separator in SEPARATORS[1:]:
        rows = [row.replace(separator, SEPARATORS[0]) for row in rows]
    return [[label.strip() for label in row.split(SEPARATORS[0]) if label.strip()] for row in rows], False


def _class_labels(path: Path, column: str, found: tuple[list[list[str]], bool]) -> tuple[Tensor, tuple[str, ...]]:
    """Return labels, int64 [N] if every row has exactly one and else bool [N, C], and the C names."""
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
    """Order names by value if all of them are integers, else alphabetically."""
    if all(name.lstrip("-").isdecimal() and str(int(name)) == name for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _parts(path: Path, table: Any, split_column: str | None) -> list[str] | None:
    """Return the part of each row, a key of PARTS, or None without a column of parts."""
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


@reader("table")
def _read_table(path: Path, as_text: Sequence[str]) -> Any:
    """Read the table. The columns `as_text` of a CSV file stay text, so that 007 stays 007."""
    pa = formats.pyarrow()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a manifest, one of {', '.join(EXTENSIONS)}")
    if path.suffix.lower() == ".parquet":
        return formats.read_parquet(path)
    return pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ","),
        convert_options=pa.csv.ConvertOptions(column_types={name: pa.string() for name in as_text}),
    )


def _column(path: Path, table: Any, name: str) -> Any:
    """Return the only column called `name`."""
    if table.column_names.count(name) != 1:
        raise ValueError(
            f"{path} must have one column {name!r}; it has the columns {', '.join(table.column_names)}. "
            "Expected path, label (or labels) and perhaps split; pass the names of these columns if they differ"
        )
    return table[name]


def _texts(path: Path, column: Any, name: str) -> list[str]:
    """Return a column of words or integers as text, with "" for missing values."""
    import pyarrow as pa

    try:
        if pa.types.is_floating(column.type):  # pandas stores integers with missing values as floats
            column = column.cast(pa.int64())
        return [text or "" for text in column.cast(pa.string()).to_pylist()]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{path}: column {name!r} must hold words or integers; got {column.type} ({error})") from error


def _numbers(rows: list[int]) -> str:
    """Return the first few row numbers, for a message."""
    return ", ".join(map(str, rows[:_SHOWN])) + (f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else "")
