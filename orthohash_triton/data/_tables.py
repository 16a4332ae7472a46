"""Reading of tables, CSV and Parquet, with pyarrow."""

from pathlib import Path
from typing import Any, NamedTuple

from .._base import formats
from .._base.quoting import quoted
from .._base.reading import reader
from .._base.text_files import read_text

EXTENSIONS = (".csv", ".tsv", ".parquet")


class Table(NamedTuple):
    """A table in memory. Spaces around the names of its columns are removed, as spreadsheets and people write them.

    Attributes:
        path: its file.
        names: names of the columns.
        columns: pyarrow columns, in the same order.
    """

    path: Path
    names: list[str]
    columns: list[Any]

    def column(self, name: str, hint: str = "") -> Any:
        """Return the only column called `name`. Raise ValueError that ends with `hint` if there are none or several."""
        if self.names.count(name) != 1:
            raise ValueError(
                f"{self.path} must have one column {quoted(name)}; it has the columns {', '.join(self.names)}. "
                f"Expected path, label (or labels) and perhaps split; pass the names of these columns if they differ{hint}"
            )
        return self.columns[self.names.index(name)]

    def texts(self, name: str, hint: str = "") -> list[str]:
        """Return a column of words or integers as text, with "" for missing values."""
        import pyarrow as pa

        column = self.column(name, hint)
        try:
            if pa.types.is_floating(column.type):  # pandas stores integers with missing values as floats
                column = column.cast(pa.int64())
            return [text or "" for text in column.cast(pa.string()).to_pylist()]
        except pa.ArrowException as error:
            raise ValueError(
                f"{self.path}: column {quoted(name)} must hold words or integers; got {column.type} ({error})"
            ) from error


@reader("table")
def open_table(path: Path) -> Table:
    """Read a table. All columns of a CSV file are text, so that 007 stays 007.

    Raises:
        FileNotFoundError, ValueError: the file does not exist, or is no table.
        ImportError: pyarrow is not installed.
    """
    pa = formats.pyarrow()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a manifest, one of {', '.join(EXTENSIONS)}")
    if path.suffix.lower() == ".parquet":
        table = formats.read_parquet(path)
    else:
        content = pa.py_buffer(read_text(path).encode())
        options = pa.csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        names = pa.csv.open_csv(pa.BufferReader(content), parse_options=options).schema.names
        as_text = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
        table = pa.csv.read_csv(pa.BufferReader(content), parse_options=options, convert_options=as_text)
    return Table(path, [name.strip() for name in table.column_names], table.columns)
