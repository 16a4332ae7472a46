"""Tables and JSON on standard output."""

import argparse
import codecs
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .._base.extras import install
from .._base.file_names import printable
from .._base.files import atomic_write

if TYPE_CHECKING:
    from ..data import Dataset

_ASCII = {"≤": "<=", "≥": ">=", "±": "+-", "→": "->", "…": "..."}


def replace_unsupported_symbols() -> None:
    """Print symbols that the terminal's encoding lacks (Windows' cp1252 has no ≤) in ASCII, instead of raising an error."""
    codecs.register_error("orthohash", _as_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="orthohash")


def _as_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    unsupported = printable(error.object[error.start : error.end])
    return "".join(letter if letter.isascii() else _ASCII.get(letter, "?") for letter in unsupported), error.end


@contextlib.contextmanager
def discard_output_if(quiet: bool) -> Iterator[None]:
    """Discard everything that is written to standard output in this context, if `quiet`."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as sink, contextlib.redirect_stdout(sink):
        yield


def print_json(value: Any) -> None:
    """Print `value` as JSON, for other programs."""
    print(json.dumps(value, indent=2))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to the file `path`."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


def require_writable(run: Path) -> None:
    """Raise PermissionError before any work if the folder `run` exists and cannot be written to."""
    if run.is_dir() and not os.access(run, os.W_OK):
        raise PermissionError(f"{run} cannot be written to; name another place for the result with --out")


def print_count(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print which file was written: `figures` has its path as the first entry, and "count" and "bits" of its codes."""
    if options.json:
        print_json(figures)
    else:
        print(f"{next(iter(figures.values()))}: {figures['count']:,} codes of {figures['bits']} bits")


_FIGURES = ["method", "bits", "mAP@1000", "mAP@all", "precision, radius ≤ 2", "bytes per image", "queries per second"]
_FOOTER = (
    "mAP: ties are ordered by gallery position; average precision is divided by the number of relevant images found, and is 0 if "
    "none is found. Queries per second: the 100 nearest, all queries in one batch, on this machine."
)


def title_of_sets(query: "Dataset", gallery: "Dataset") -> str:
    """Return the title of a table of figures: which queries were searched in which gallery, and the sizes of both."""
    if query.name == gallery.name:
        return f"{query.name}: {len(query):,} queries against {len(gallery):,} gallery items"
    return f"{len(query):,} queries of {query.name} against {len(gallery):,} gallery items of {gallery.name}"


def print_figures(rows: list[dict[str, Any]], title: str) -> None:
    """Print the table of retrieval figures, one row per method."""
    print_table(title, _FIGURES, [[
        row["method"],
        cell(row["bits"], "d"),
        cell(row["map_at_1000"], ".4f"),
        cell(row["map_at_all"], ".4f"),
        cell(row["precision_at_radius_2"], ".4f"),
        cell(row["bytes_per_image"], ",d"),
        cell(row["queries_per_second"], ",.0f"),
    ] for row in rows], caption=_FOOTER)  # fmt: skip


def cell(value: float | None, form: str) -> str:
    """Return `value` in the format `form`, or a dash for None."""
    return "-" if value is None else format(value, form)


def print_table(
    title: str, columns: list[str], rows: list[list[str]], caption: str | None = None, justify: Literal["left", "right"] = "right"
) -> None:
    """Print a table. The first column is aligned to the left, the others as `justify` says."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError as error:
        raise ImportError(f"tables need rich: {install('rich', extra='train')}, or use --json") from error

    table = Table(title=printable(title), caption=caption, title_justify="left", caption_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else justify)
    for row in rows:
        table.add_row(*map(printable, row))
    # A file or a pipe has no width, so that the table gets as much as it needs.
    width = None if sys.stdout.isatty() else 140
    # Names come from the user and must not be interpreted as markup or emoji codes.
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)
