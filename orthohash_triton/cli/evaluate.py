"""`orthohash evaluate`: measure the retrieval quality of a run."""

import argparse
from pathlib import Path

from ._command import Command, CommandParser, add_dataset
from ._config_options import title_of
from ._output import print_figures, print_json, require_writable, title_of_sets, write_json


def _add_options(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder")
    add_dataset(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON file for the figures, which are stored in the run folder otherwise"
    )


def _run(options: argparse.Namespace) -> None:
    """Evaluate the run and print its figures."""
    from ..runs import load_run
    from ..runs.data_sets import load_data_set
    from ..runs.evaluation import evaluate_run

    if options.out is None:
        require_writable(options.model)
    run = load_run(options.model, dataset=options.dataset)
    splits = load_data_set(run)
    figures = evaluate_run(run, splits.query, store=options.out is None)
    if options.out is not None:
        write_json(options.out, figures)
    if options.json:
        print_json(figures)
    else:
        print_figures([{"method": title_of(run.config), **figures}], title_of_sets(splits.query, splits.gallery))


COMMAND = Command(
    name="evaluate",
    summary="measure mAP and precision of a run on the queries of its data set",
    examples="""
        orthohash evaluate runs/fashion
        orthohash evaluate runs/photos --dataset /mnt/photos --out figures.json
        orthohash evaluate runs/fashion --json""",
    add_options=_add_options,
    run=_run,
    help_order=80,
)
