"""Manifests: tables of image files, as CSV (.csv, .tsv) or Parquet (.parquet).

    path,label,split                columns; other names can be passed as options, and only `path` is required
    images/1.jpg,cat,train          relative paths start from the folder of the manifest, or from `root`
    images/2.jpg,cat;indoors,train  several labels are separated by ; or |, or are a list in Parquet
    images/3.jpg,dog,query          parts: train, gallery (database), query (test), val; without the column, the split is random

A file that several rows name is one sample with the labels of all of them. Labels are words or integers. Classes are ordered by
name, or by value if all of them are integers. Instead of labels there may be a column of zeros and ones for each class:

    path,cat,dog,indoors
    images/2.jpg,1,0,1

A table without labels has none of these. A column whose name is nearly one of these names ("Label", "class", "Split") is an
error, unless the option of that column is set; an empty option says that there is no such column.
"""

from pathlib import Path

from .._base.quoting import quoted
from . import _label_columns
from ._label_columns import read_classes, refuse_similar, row_numbers
from ._rows import Rows, listings
from ._spelling import find_similar
from ._tables import EXTENSIONS, Table, open_table
from .listing import PARTS, Listing, drop_missing, part_of
from .options import OnMissing

__all__ = ["EXTENSIONS", "read"]

_PATHS = ("paths", "file", "files", "file_name", "file_path", "image", "images", "image_path", "image_name", "img")
_SPLITS = ("splits", "part", "parts", "partition", "subset", "set")
_SHOWN = 5  # words in a message


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
        label_column: column of the labels, or several columns of zeros and ones, separated by commas. Default: "labels" or
            "label", or all other columns if they hold zeros and ones; without such columns, or with "", the files are unlabelled.
        split_column: column of the parts. Default: "split"; without such a column, or with "", there are no parts.
        on_missing: treatment of files that do not exist, "raise" or "skip".

    Raises:
        FileNotFoundError: the manifest does not exist, or names files that do not exist.
        ValueError: the manifest cannot be read, lacks a column or has one with a similar name, has a row without a path, a label
            or a part, or a query that is also in another part.
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
    table = open_table(path)
    files = _files(table, path_column)
    parts = _parts(table, split_column, taken=(path_column, *(label_column or "").split(","), *_label_columns.NAMES))
    found = read_classes(table, label_column, taken=(path_column, split_column or "split"))
    start = Path(root) if root is not None else path.parent
    rows = Rows(str(path), [(start / file).absolute() for file in files], None if found is None else found.rows)
    by_part = {"all": rows} if parts is None else {part: _subset(rows, parts, part) for part in PARTS if part in parts}
    names = () if found is None else found.names
    return {part: drop_missing(listing, on_missing) for part, listing in listings(by_part, names).items()}


def _files(table: Table, path_column: str) -> list[str]:
    """Return the path in each row."""
    near = find_similar(table.names, ("path",), _PATHS) if path_column == "path" and path_column not in table.names else None
    files = table.texts(path_column, f", for example path_column={quoted(near)}" if near else "")
    if empty := [number for number, file in enumerate(files, 1) if not file]:
        raise ValueError(f"{table.path}: rows without a {path_column}: {row_numbers(empty)} (the first is 1). Remove them")
    return files


def _parts(table: Table, split_column: str | None, taken: tuple[str | None, ...]) -> list[str] | None:
    """Return the part of each row, a key of PARTS, or None without a column of parts."""
    if split_column is None and "split" not in table.names:
        refuse_similar(table, [name for name in table.names if name not in taken], ("split",), _SPLITS, "split_column")
        return None
    if split_column == "":
        return None
    name = split_column or "split"
    words = table.texts(name)
    parts = [part_of(word) for word in words]
    if unknown := sorted({word for word, part in zip(words, parts, strict=True) if part is None}):
        known = ", ".join(name for names in PARTS.values() for name in names)
        shown = ", ".join(map(repr, unknown[:_SHOWN]))
        raise ValueError(f"{table.path}: column {quoted(name)} must name a part, one of {known}; got {shown}")
    return [part for part in parts if part is not None]


def _subset(rows: Rows, parts: list[str], part: str) -> Rows:
    """Return the rows of one part."""
    chosen = [i for i, own in enumerate(parts) if own == part]
    classes = None if rows.classes is None else [rows.classes[i] for i in chosen]
    return Rows(rows.name, [rows.paths[i] for i in chosen], classes)
