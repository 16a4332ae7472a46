"""`orthohash duplicates`: find near-duplicates among images or codes."""

import argparse
import csv
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._base.files import atomic_write
from ._command import Command, CommandParser
from ._output import print_json, print_table, write_json

if TYPE_CHECKING:
    from ..runs.duplicates import Duplicates

_FORMATS = (".json", ".csv", ".html")
_SHOWN_GROUPS, _SHOWN_MEMBERS = 20, 5


def _add_options(parser: CommandParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "source", metavar="SOURCE",
        help="an image folder, manifest (.csv, .parquet) or list (.txt) of images; a file of codes or an index; or a run folder",
    )  # fmt: skip
    parser.add_argument(
        "--radius", type=int, default=4, metavar="BITS", help="codes within this distance are linked (%(default)s)"
    )
    parser.add_argument(
        "--hash", choices=("phash", "pdq"),
        help="perceptual hash of images: phash (64 bits, package imagehash) or pdq (256 bits, package pdqhash) (phash)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, action="append", default=[], metavar="FILE",
        help="file for the groups: .json, .csv, or .html with the pictures side by side; can be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--list-extra", action="store_true",
        help="print only the files (or ids) of all but the first of each group, one per line; nothing is deleted",
    )  # fmt: skip
    parser.add_argument("-0", "--null", action="store_true", help="end each line of --list-extra with a zero byte, for xargs -0")
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="number of pixels above which an image is not decoded (178956970)"
    )
    parser.add_argument(
        "--root", type=Path, metavar="FOLDER", help="folder that the paths in a manifest or list are relative to (the file's own)"
    )


def _run(options: argparse.Namespace) -> None:
    """Find the groups, write the files, and print a summary."""
    from ..data.images import report_skipped
    from ..runs.duplicates import find_duplicates, open_items

    _check(options)
    limits = {} if options.max_pixels is None else {"max_pixels": options.max_pixels}
    items = open_items(
        options.source, radius=options.radius, hash=options.hash, root=options.root, progress=options.progress, **limits
    )
    report_skipped(options.source, items.skipped, len(items.codes) + len(items.skipped))
    found = find_duplicates(items, options.radius, progress=options.progress)
    extra = _extra_lines(found, null=options.null) if options.list_extra else b""
    for path in options.out:
        _write(found, path)
    if options.list_extra:
        sys.stdout.flush()
        sys.stdout.buffer.write(extra)
        sys.stdout.buffer.flush()
    elif options.json:
        print_json(found.as_plain())
    else:
        _print_groups(found)
        for path in options.out:
            print(f"open this file in a browser: {path}" if path.suffix == ".html" else f"groups written to {path}")


def _check(options: argparse.Namespace) -> None:
    """Raise an error before any work if the options contradict each other, or a file cannot be written."""
    if options.list_extra and options.json:
        raise ValueError("--list-extra and --json both write to standard output; choose one of them")
    if options.null and not options.list_extra:
        raise ValueError("-0 is for --list-extra; add it, or leave -0 out")
    for path in options.out:
        if path.suffix not in _FORMATS:
            raise ValueError(f"--out must end in .json, .csv or .html; got {path}")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the folder {path.parent} of --out does not exist; create it first")
        if path.is_dir():
            raise IsADirectoryError(f"--out {path} is a folder; name a file")
    if any(path.suffix == ".html" for path in options.out):
        from ..report import require_duplicates_page

        require_duplicates_page()


def _extra_lines(found: "Duplicates", *, null: bool) -> bytes:
    """Return the names of all members but the first of each group, with the bytes that they have in the file system."""
    names = [found.items.name_of(position) for position in found.extra()]
    if not null and any("\n" in name for name in names):
        raise ValueError("the name of a file holds a line break; add -0, which ends each name with a zero byte")
    return b"".join(os.fsencode(name) + (b"\0" if null else b"\n") for name in names)


def _write(found: "Duplicates", path: Path) -> None:
    """Write the groups in the format of the file's extension."""
    if path.suffix == ".json":
        write_json(path, found.as_plain())
    elif path.suffix == ".csv":
        with atomic_write(path) as file:
            file.write(_as_csv(found))
    else:
        from ..report import write_duplicates

        write_duplicates(found, path)


def _as_csv(found: "Duplicates") -> bytes:
    """Return a table with a row for each member of a group; names have the bytes that they have in the file system."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["group", "id", "distance", "path"])
    for number, group in enumerate(found.as_plain()["groups"]):
        table.writerows([number, member["id"], member["distance"], member.get("path", "")] for member in group)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _print_groups(found: "Duplicates") -> None:
    """Print the first groups as a table."""
    summary = found.as_plain()
    rows: list[list[str]] = []
    for number, group in enumerate(summary["groups"][:_SHOWN_GROUPS]):
        shown = [*group[:_SHOWN_MEMBERS]]
        rows += [_row(number if rank == 0 else None, member) for rank, member in enumerate(shown)]
        if len(group) > len(shown):
            rows.append(["", "", f"and {len(group) - len(shown):,} more", ""])
    title = (
        f"{summary['source']}: {len(summary['groups']):,} groups with {summary['extra']:,} extra items among "
        f"{summary['count']:,}, within {summary['radius']} of {summary['bits']} bits"
    )
    if not rows:
        print(title)
        return
    hidden = len(summary["groups"]) - _SHOWN_GROUPS
    caption = f"{hidden:,} more groups are in the files of --out, or printed with --json" if hidden > 0 else None
    print_table(title, ["group", "id", "distance", "file"], rows, caption=caption)


def _row(group: int | None, member: dict[str, Any]) -> list[str]:
    path = member.get("path", "").removeprefix(os.getcwd() + os.sep)
    return ["" if group is None else str(group), str(member["id"]), str(member["distance"]), path]


COMMAND = Command(
    name="duplicates",
    summary="find near-duplicate images or codes",
    examples="""
        orthohash duplicates holiday/ --radius 4 --out duplicates.html
        orthohash duplicates holiday/ --list-extra -0 | xargs -0 du
        orthohash duplicates codes.npy --radius 2 --out groups.csv --out groups.json
        orthohash duplicates runs/photos --radius 0 --json""",
    add_options=_add_options,
    run=_run,
    help_order=75,
)
