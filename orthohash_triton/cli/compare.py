"""orthohash compare."""

import argparse
from pathlib import Path
from typing import Any

from ._command import Command, command
from ._config_options import add_config_options, config_from, values_of_options
from ._output import print_json, print_table
from ._sources import splits_of
from ._suggest import one_of


def add(commands: Any) -> None:
    command(commands, "compare", run, _declare, "train all methods on one data set and compare their codes", """
        orthohash compare --dataset digits --epochs 5 --out runs/digits-comparison
        orthohash compare --dataset fashion-mnist --epochs 3 --validation 0.1 --out runs/comparison
        orthohash compare --methods orthohash csq pca --lengths 32 --rotations none itq --out runs/three""")  # fmt: skip


def _declare(parser: Command) -> None:
    known = values_of_options()
    parser.add_argument("--out", required=True, type=Path, help="folder of the cells, the table and the figures")
    parser.add_argument(
        "--methods", nargs="+", type=one_of(known["method"]), choices=known["method"], metavar="NAME",
        help="of `orthohash methods` (all)",
    )  # fmt: skip
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=[16, 32, 64], metavar="BITS", help="lengths of the codes (16 32 64)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="seeds of the training (0 1 2)")
    parser.add_argument(
        "--rotations", nargs="+", default=["none"], type=one_of(known["rotate"]), choices=known["rotate"], metavar="NAME",
        help="none, itq, householder (none)",
    )  # fmt: skip
    add_config_options(parser, without=("method", "bits", "seed", "rotate", "checkpoint_every", "tensorboard", "wandb"))


def run(options: argparse.Namespace) -> None:
    from ..compare import compare, table

    config = config_from(options, method_options=False)
    splits = splits_of(config)
    rows = compare(
        config, splits, options.out, names=options.methods, bits=options.lengths, seeds=options.seeds,
        rotations=options.rotations, progress=options.progress,
    )  # fmt: skip
    if options.json:
        print_json(rows)
        return
    columns, cells = table(rows)
    print_table(f"{splits.query.name} against {splits.gallery.name}", columns, cells)
    print(f"written: {options.out / 'results.md'}, results.csv, results.json and the figures beside them")
