"""`orthohash evaluate`: measure the retrieval quality of a run."""

import argparse
from pathlib import Path

from ._command import Command, CommandParser
from ._config_options import title_of
from ._output import print_figures, print_json


def _add_options(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder")


def _run(options: argparse.Namespace) -> None:
    """Evaluate the run and print its figures."""
    from ..runs import load_run
    from ..runs.evaluation import evaluate_run, is_gallery_of

    run = load_run(options.model)
    splits = run.config.load_splits()
    if not is_gallery_of(run, splits.gallery):
        raise ValueError(
            f"the data set {run.config.dataset} has changed: it is not the one that {run.path} was trained on; train again"
        )
    figures = evaluate_run(run, splits.query)
    if options.json:
        print_json(figures)
    else:
        print_figures([{"method": title_of(run.config), **figures}], f"{splits.query.name} against {splits.gallery.name}")


COMMAND = Command(
    name="evaluate",
    summary="measure mAP and precision of a run on the queries of its data set",
    examples="""
        orthohash evaluate runs/fashion
        orthohash evaluate runs/fashion --json""",
    add_options=_add_options,
    run=_run,
    help_order=80,
)
