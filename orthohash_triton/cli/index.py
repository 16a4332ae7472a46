"""`orthohash index`: build an index file from codes."""

import argparse
from pathlib import Path

from ._command import Command, CommandParser
from ._output import print_count


def _add_options(parser: CommandParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="CODES",
        help="codes (.npy, .parquet, .ibxf), or a run folder (its gallery)",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="index file; image paths are listed in a file next to it",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it has codes")


def _run(options: argparse.Namespace) -> None:
    """Read codes and write them as an index file."""
    from ..runs import load_run
    from ..runs.code_files import CodeFile, read_codes, save_index

    if options.source.is_dir():
        found = load_run(options.source)
        codes = CodeFile(found.index, found.gallery_paths, None)
    else:
        codes = read_codes(options.source)
    save_index(codes, options.out, overwrite=options.overwrite)
    print_count(options, {"index": str(options.out), "count": codes.index.ntotal, "bits": codes.index.bits})


COMMAND = Command(
    name="index",
    summary="build an index file (FAISS IndexBinaryFlat) from codes",
    examples="""
        orthohash index holiday.npy --out holiday.ibxf
        orthohash index holiday.parquet --out holiday.ibxf
        orthohash index runs/fashion --out gallery.ibxf""",
    add_options=_add_options,
    run=_run,
    help_order=60,
)
