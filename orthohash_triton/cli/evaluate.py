"""orthohash evaluate."""

import argparse
from pathlib import Path
from typing import Any

from ._command import Command, command
from ._config_options import title_of
from ._output import print_figures, print_json
from ._sources import splits_of


def add(commands: Any) -> None:
    command(commands, "evaluate", run, _declare, "mAP and precision of a run on its data set's queries", """
        orthohash evaluate runs/fashion
        orthohash evaluate runs/fashion --json""")  # fmt: skip


def _declare(parser: Command) -> None:
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder")


def run(options: argparse.Namespace) -> None:
    from ..runs import load_run
    from ..runs.evaluation import evaluate_run, is_gallery_of

    run = load_run(options.model)
    splits = splits_of(run.config)
    if not is_gallery_of(run, splits.gallery):
        raise ValueError(f"the data set {run.config.dataset} is not the one that {run.path} was trained on; train again")
    figures = evaluate_run(run, splits.query)
    if options.json:
        print_json(figures)
    else:
        print_figures([{"method": title_of(run.config), **figures}], f"{splits.query.name} against {splits.gallery.name}")
