"""The columns of a manifest that hold its labels: one of words, numbers or lists, or one of zeros and ones for each class."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._base.file_names import normalized
from .._base.labels import class_name_text
from .._base.quoting import quoted
from ._spelling import find_similar
from ._tables import Table

NAMES = ("labels", "label")
"""Names of the column of labels."""

SEPARATORS = (";", "|")
"""Characters between several labels."""

_SYNONYMS = (
    "class", "classes", "class_name", "class_names", "class_id", "label_name", "label_id", "category", "categories",
    "tag", "tags", "target", "targets",
)  # fmt: skip
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_SHOWN = 5  # row numbers and columns in a message


class Classes(NamedTuple):
    """The classes of each row, by number, and the names of all classes."""

    rows: list[tuple[int, ...]]
    names: tuple[str, ...]


def read_classes(table: Table, label_column: str | None, taken: Sequence[str | None]) -> Classes | None:
    """Return the classes of each row, or None if the table has no labels.

    Args:
        table: the table.
        label_column: column of the labels, or several columns of zeros and ones, separated by commas; "" for no labels. Default:
            "labels" or "label", or all columns if they hold zeros and ones.
        taken: columns with another meaning.

    Raises:
        ValueError: there is no such column, it holds something else, or it is unclear which one it is.
    """
    columns = _find_columns(table, label_column, taken)
    if not columns:
        return None
    if len(columns) > 1:
        return _from_bits([_bits(table, name) for name in columns], columns, table)
    rows, may_be_empty = _labels(table, columns[0])
    if _are_bits(rows):
        width = len(rows[0])
        return Classes([tuple(i for i in range(width) if row[i] == "1") for row in rows], tuple(map(str, range(width))))
    return _numbered(table, columns[0], rows, may_be_empty)


def refuse_similar(table: Table, names: Sequence[str], wanted: tuple[str, ...], synonyms: tuple[str, ...], option: str) -> None:
    """Raise ValueError if one of the columns `names` is probably the column `wanted`, which the table lacks."""
    if (near := find_similar(names, wanted, synonyms)) is not None:
        raise ValueError(
            f"{table.path} has no column {quoted(wanted[-1])}, but a column {quoted(near)}. Rename it, "
            f"or pass {option}={quoted(near)}; "
            f"{option}='' means that the table has no such column"
        )


def _find_columns(table: Table, label_column: str | None, taken: Sequence[str | None]) -> list[str]:
    """Return the name of the column of labels, or of several columns of zeros and ones; nothing for a table without labels."""
    if label_column is not None:
        single = label_column in table.names or not label_column
        return [name.strip() for name in ([label_column] if single else label_column.split(",")) if name]
    if known := [name for name in NAMES if name in table.names]:
        if len(known) > 1:
            raise ValueError(
                f"{table.path} has the columns {' and '.join(known)}; pass the one that holds the labels as label_column"
            )
        return known
    free = [name for name in table.names if name and name not in taken]
    refuse_similar(table, free, NAMES, _SYNONYMS, "label_column")
    hot = [name for name in free if table.names.count(name) == 1 and _holds_bits(table, name)]
    if len(hot) > 1 and hot != free:
        shown = ",".join(hot[:_SHOWN]) + (",..." if len(hot) > _SHOWN else "")
        raise ValueError(
            f"{table.path} has no column 'label', but columns of zeros and ones: if they are the classes, pass "
            f"label_column={quoted(shown)}; label_column='' means that the table has no labels"
        )
    return hot if len(hot) > 1 else []


def _holds_bits(table: Table, name: str) -> bool:
    """Return whether all rows of a column are zeros and ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        texts = pc.utf8_lower(pc.utf8_trim_whitespace(table.column(name).cast(pa.string())))
    except pa.ArrowException:  # a column of another type
        return False
    return bool(pc.all(pc.is_in(texts, value_set=pa.array(list(_BITS)))).as_py())


def _bits(table: Table, name: str) -> list[int]:
    """Return a column of zeros and ones."""
    texts = [text.strip().lower() for text in table.texts(name)]
    if wrong := [number for number, text in enumerate(texts, 1) if text not in _BITS]:
        raise ValueError(
            f"{table.path}: column {quoted(name)} must hold zeros and ones, as one of several columns of labels; "
            f"got {texts[wrong[0] - 1]!r:.40} in row {wrong[0]} (the first is 1)"
        )
    return [_BITS[text] for text in texts]


def _from_bits(columns: list[list[int]], names: list[str], table: Table) -> Classes:
    """Return the classes of rows that have a zero or a one in the column of each class."""
    if len(set(names)) < len(names):
        raise ValueError(f"{table.path}: label_column must name each column once; got {','.join(names)}")
    rows = [tuple(i for i, bit in enumerate(row) if bit) for row in zip(*columns, strict=True)]
    return Classes(rows, tuple(names))


def _labels(table: Table, name: str) -> tuple[list[list[str]], bool]:
    """Return the labels of each row as text, and whether a row may have none, which is so in a column of lists."""
    import pyarrow as pa

    column = table.column(name)
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(is_kind(column.type) for is_kind in kinds):
        return [[_text(table, name, label) for label in row or ()] for row in column.to_pylist()], True
    rows = table.texts(name)
    if rows and all(row.startswith("[") and row.endswith("]") for row in map(str.strip, rows) if row) and any(rows):
        raise ValueError(
            f"{table.path}: column {quoted(name)} holds lists as text, such as {rows[0]!r:.60}; separate labels by ;"
        )
    for separator in SEPARATORS[1:]:
        rows = [row.replace(separator, SEPARATORS[0]) for row in rows]
    return [[label.strip() for label in row.split(SEPARATORS[0]) if label.strip()] for row in rows], False


def _text(table: Table, name: str, label: Any) -> str:
    """Return an element of a list of labels as text."""
    if isinstance(label, bool):
        return str(int(label))
    if isinstance(label, float) and label.is_integer():  # pandas stores integers with missing values as floats
        return str(int(label))
    if isinstance(label, str | bytes | int):
        return class_name_text(label) if isinstance(label, str | bytes) else str(label)
    raise ValueError(f"{table.path}: column {quoted(name)} must hold lists of words or integers; got {label!r:.60}")


def _are_bits(rows: list[list[str]]) -> bool:
    """Return whether the rows are zeros and ones, one for each class, and not lists of labels called 0 and 1."""
    width = len(rows[0]) if rows else 0
    return width > 1 and all(len(row) == width and set(row) <= {"0", "1"} for row in rows)


def _numbered(table: Table, column: str, rows: list[list[str]], may_be_empty: bool) -> Classes:
    """Return the classes of rows of labels, whose names are compared in the Unicode normal form NFC."""
    rows = [[normalized(label) for label in row] for row in rows]
    names = _ordered({label for row in rows for label in row})
    several = any(len(row) > 1 for row in rows)
    empty = [number for number, row in enumerate(rows, 1) if not row]
    if empty and not (several or may_be_empty):
        raise ValueError(
            f"{table.path}: rows without a {column}: {row_numbers(empty)} (the first is 1), and none has several. "
            "Give every row one label, or remove those rows"
        )
    ids = {name: i for i, name in enumerate(names)}
    return Classes([tuple(sorted({ids[label] for label in row})) for row in rows], names)


def _ordered(names: set[str]) -> tuple[str, ...]:
    """Order names by value if all of them are integers, else alphabetically."""
    if all(_INTEGER.fullmatch(name) and str(int(name)) == name for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def row_numbers(rows: list[int]) -> str:
    """Return the first few row numbers, for a message."""
    return ", ".join(map(str, rows[:_SHOWN])) + (f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else "")
