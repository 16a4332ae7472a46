"""`orthohash demo`: train, index and search a small data set."""

import argparse
from pathlib import Path

from ._command import Command, CommandParser
from ._output import print_figures, print_json


def _add_options(parser: CommandParser) -> None:
    parser.add_argument("--quick", action="store_true", help="use scikit-learn's digits for two epochs: seconds, not minutes")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the results (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="random seed of the initial weights and the sample order (%(default)s)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="number of CPU threads")


def _run(options: argparse.Namespace) -> None:
    """Run the demo and print its figures."""
    from ..demo import demo

    results = demo(options.out, quick=options.quick, seed=options.seed, threads=options.threads, progress=options.progress)
    if options.json:
        print_json(results)
        return
    print_figures(results["rows"], f"{results['dataset']['name']}: {results['dataset']['queries']:,} queries, "
                                   f"{results['dataset']['gallery']:,} gallery items")  # fmt: skip
    print(f"{results['seconds']:.0f} s in total; written: {options.out / 'results.json'}, {options.out / 'neighbours.png'}")


COMMAND = Command(
    name="demo",
    summary="train, index and search Fashion-MNIST at 16, 32 and 64 bits",
    examples="""
        orthohash demo
        orthohash demo --quick --out runs/quick""",
    add_options=_add_options,
    run=_run,
    help_order=130,
    after_interrupt=lambda options: "start again with the same command",
)
