"""Tables and JSON, on standard output."""

import argparse
import codecs
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, Literal

_IN_ASCII = {"≤": "<=", "≥": ">=", "±": "+-", "→": "->", "…": "..."}


def use_symbols_of_the_terminal() -> None:
    """Print what the terminal's encoding lacks (Windows' cp1252 has no ≤) in other words, rather than fail."""
    codecs.register_error("orthohash", _in_other_words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="orthohash")


def _in_other_words(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(character, "?") for character in lacking), error.end


@contextlib.contextmanager
def printed_unless(quiet: bool) -> Iterator[None]:
    """Standard output goes nowhere if `quiet`."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def print_json(value: Any) -> None:
    """`value` as JSON, for other programs."""
    print(json.dumps(value, indent=2))


def print_count(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """What was written: the path (the first entry), its `count` codes and their `bits`."""
    if options.json:
        print_json(figures)
    else:
        print(f"{next(iter(figures.values()))}: {figures['count']:,} codes of {figures['bits']} bits")


_FIGURES = ["method", "bits", "mAP@1000", "mAP@all", "precision, radius ≤ 2", "bytes per image", "queries per second"]
_FOOTER = (
    "mAP: ties in the order (distance, gallery position), divided by the relevant images found, 0 for a query that finds none. "
    "Queries per second: the 100 nearest, all queries at once, this machine."
)


def print_figures(rows: list[dict[str, Any]], title: str) -> None:
    """The table of retrieval figures."""
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
    """`value` in the format `form`, a dash where there is none."""
    return "-" if value is None else format(value, form)


def print_table(
    title: str, columns: list[str], rows: list[list[str]], caption: str | None = None, justify: Literal["left", "right"] = "right"
) -> None:
    """A table; the first column stands left, the others as `justify` says."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError as error:
        raise ImportError('tables need rich: pip install "orthohash-triton[train]", or ask for --json') from error

    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else justify)
    for row in rows:
        table.add_row(*row)
    # A terminal tells its width; a file or a pipe takes what the table needs.
    width = None if sys.stdout.isatty() else 140
    # Names are the user's: none of them is markup or an emoji.
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)
