"""orthohash report."""

import argparse
from pathlib import Path
from typing import Any

from ._command import Command, command
from ._config_options import title_of
from ._output import cell, print_json, print_table


def add(commands: Any) -> None:
    command(commands, "report", run, _declare, "write a run's curves, codes and images as one web page", """
        orthohash report runs/fashion
        orthohash report runs/photos --out photos.html --queries 20
        orthohash report runs/fashion --json""")  # fmt: skip


def _declare(parser: Command) -> None:
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (RUN/report.html)")
    parser.add_argument("--queries", type=int, default=12, metavar="N", help="queries on the retrieval wall (%(default)s)")


def run(options: argparse.Namespace) -> None:
    from ..report import write_report
    from ..runs import load_run

    run = load_run(options.model)
    out = options.out or options.model / "report.html"
    found = write_report(run, out, queries=options.queries)
    if options.json:
        print_json(found)
        return
    if found["retrieval"] is not None:
        figures = ("map_at_1000", "map_at_all", "precision_at_radius_2", "separability")
        print_table(
            f"{title_of(run.config)}, {found['run']['queries']:,} queries against {found['run']['gallery']:,}",
            ["bits", "mAP@1000", "mAP@all", "precision, radius ≤ 2", "separability, bits"],
            [[str(found["run"]["bits"]), *(cell(found["retrieval"][name], ".4f") for name in figures)]],
        )
    for note in found["notes"]:
        print(f"note: {note}")
    print(f"open it in a browser: {out}")
