"""`orthohash compare`: train several methods on one data set and compare their codes."""

import argparse
from pathlib import Path

from ._command import Command, CommandParser
from ._config_options import add_config_options, config_from
from ._output import print_json, print_table, title_of_sets
from ._suggest import one_of


def _add_options(parser: CommandParser) -> None:
    """Add the options of the command to its parser."""
    from .. import methods
    from ..compare import CHOICES

    parser.add_argument("--out", required=True, type=Path, help="folder for the runs, the table and the figures")
    parser.add_argument(
        "--methods", nargs="+", type=one_of(methods.names()), choices=methods.names(), metavar="NAME",
        help="methods to compare, see `orthohash methods` (all)",
    )  # fmt: skip
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=[16, 32, 64], metavar="BITS", help="code lengths in bits (16 32 64)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="random seeds, one run each (0 1 2)")
    parser.add_argument(
        "--rotations", nargs="+", default=["none"], type=one_of(CHOICES), choices=CHOICES, metavar="NAME",
        help=f"{', '.join(CHOICES)} (none)",
    )  # fmt: skip
    add_config_options(parser, without=("method", "bits", "seed", "rotate", "checkpoint_every", "tensorboard", "wandb"))


def _run(options: argparse.Namespace) -> None:
    """Train and evaluate all combinations, and print the table."""
    from ..compare import compare, table

    config = config_from(options, method_options=False)
    splits = config.load_splits()
    rows = compare(
        config, splits, options.out, names=options.methods, bits=options.lengths, seeds=options.seeds,
        rotations=options.rotations, progress=options.progress,
    )  # fmt: skip
    if options.json:
        print_json(rows)
        return
    columns, cells = table(rows)
    print_table(title_of_sets(splits.query, splits.gallery), columns, cells)
    print(f"written: {options.out / 'results.md'}, results.csv, results.json and the figures in the same folder")


def _after_interrupt(options: argparse.Namespace) -> str:
    """Return how to continue if the folder holds finished trainings."""
    if any((options.out / "cells").glob("*.json")):
        return f"{options.out} keeps the finished trainings; continue with the same command"
    return "no training was finished; start again with the same command"


COMMAND = Command(
    name="compare",
    summary="train all methods on one data set and compare their codes",
    examples="""
        orthohash compare --dataset digits --epochs 5 --out runs/digits-comparison
        orthohash compare --dataset fashion-mnist --epochs 3 --validation 0.1 --out runs/comparison
        orthohash compare --methods orthohash csq pca --lengths 32 --rotations none itq --out runs/three""",
    add_options=_add_options,
    run=_run,
    help_order=30,
    after_interrupt=_after_interrupt,
)
