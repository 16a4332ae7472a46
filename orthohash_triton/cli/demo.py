"""orthohash demo."""

import argparse
from pathlib import Path
from typing import Any

from ._command import Command, command
from ._output import print_figures, print_json


def add(commands: Any) -> None:
    command(commands, "demo", run, _declare, "train, index and search Fashion-MNIST at 16, 32 and 64 bits", """
        orthohash demo
        orthohash demo --quick --out runs/quick""")  # fmt: skip


def _declare(parser: Command) -> None:
    parser.add_argument("--quick", action="store_true", help="scikit-learn's digits for two epochs: seconds instead of minutes")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the results (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the initial weights and the order (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")


def run(options: argparse.Namespace) -> None:
    from ..demo import demo

    results = demo(options.out, quick=options.quick, seed=options.seed, threads=options.threads, progress=options.progress)
    if options.json:
        print_json(results)
        return
    print_figures(results["rows"], f"{results['dataset']['name']}: {results['dataset']['queries']:,} queries, "
                                   f"{results['dataset']['gallery']:,} in the gallery")  # fmt: skip
    print(f"{results['seconds']:.0f} s in all; written: {options.out / 'results.json'}, {options.out / 'neighbours.png'}")
