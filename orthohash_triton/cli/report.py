"""`orthohash report`: write the report of a run."""

import argparse
from pathlib import Path

from ._command import Command, CommandParser, add_dataset
from ._config_options import title_of
from ._output import cell, print_json, print_table, require_writable


def _add_options(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder")
    add_dataset(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="HTML file to write (RUN/report.html)")
    parser.add_argument(
        "--queries", type=int, default=12, metavar="N", help="number of queries shown with neighbours (%(default)s)"
    )


def _run(options: argparse.Namespace) -> None:
    """Write the report and print its key figures."""
    from ..report import write_report
    from ..runs import load_run

    if options.out is None:
        require_writable(options.model)
    run = load_run(options.model, dataset=options.dataset)
    out = options.out or options.model / "report.html"
    found = write_report(run, out, queries=options.queries)
    if options.json:
        print_json(found)
        return
    if found["retrieval"] is not None:
        figures = ("map_at_1000", "map_at_all", "precision_at_radius_2", "separability")
        sizes = f"{found['run']['queries']:,} queries against {found['run']['gallery']:,} gallery items"
        print_table(
            f"{title_of(run.config)}, {run.config.dataset}: {sizes}",
            ["bits", "mAP@1000", "mAP@all", "precision, radius ≤ 2", "separability, bits"],
            [[str(found["run"]["bits"]), *(cell(found["retrieval"][name], ".4f") for name in figures)]],
        )
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"open this file in a browser: {out}")


COMMAND = Command(
    name="report",
    summary="write a web page with the curves, codes and images of a run",
    examples="""
        orthohash report runs/fashion
        orthohash report runs/photos --out photos.html --queries 20
        orthohash report runs/photos --dataset /mnt/photos --out photos.html
        orthohash report runs/fashion --json""",
    add_options=_add_options,
    run=_run,
    help_order=100,
)
