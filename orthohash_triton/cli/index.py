"""orthohash index."""

import argparse
from pathlib import Path
from typing import Any

from ._command import Command, command
from ._output import print_count


def add(commands: Any) -> None:
    command(commands, "index", run, _declare, "make an index file (FAISS IndexBinaryFlat) of codes", """
        orthohash index holiday.npy --out holiday.ibxf
        orthohash index holiday.parquet --out holiday.ibxf
        orthohash index runs/fashion --out gallery.ibxf""")  # fmt: skip


def _declare(parser: Command) -> None:
    parser.add_argument("source", type=Path, metavar="CODES", help="codes (.npy, .parquet, .ibxf), or a run folder (its gallery)")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="index file; images are named beside it")


def run(options: argparse.Namespace) -> None:
    from ..runs import load_run
    from ..runs.encoding import CodeFile, read_codes, save_index

    if options.source.is_dir():
        found = load_run(options.source)
        codes = CodeFile(found.index, found.gallery_paths, None)
    else:
        codes = read_codes(options.source)
    save_index(codes, options.out)
    print_count(options, {"index": str(options.out), "count": codes.index.ntotal, "bits": codes.index.bits})
