"""`orthohash doctor`: check the installation and every op."""

import argparse
import sys

from ._command import Command, CommandParser
from ._output import print_json


def _add_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--selftest", action="store_true",
        help="run every implementation twice on a grid of cases and measure the speed; takes half a minute on a CPU, one or two "
        "minutes on a GPU",
    )  # fmt: skip
    parser.add_argument("--device", default="all", metavar="NAME", help="cpu, cuda, cuda:1, ... (%(default)s)")


def _run(options: argparse.Namespace) -> int:
    """Check the installation, print the report, and return 1 if a check failed."""
    from ..doctor import as_markdown, examine

    progress = _print_progress if options.progress else lambda line: None
    report = examine(options.device, selftest=options.selftest, progress=progress)
    if options.json:
        print_json(report)
    else:
        print(as_markdown(report))
    return 0 if report["ok"] else 1


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


COMMAND = Command(
    name="doctor",
    summary="show versions and devices, and check every op against its reference",
    examples="""
        orthohash doctor
        orthohash doctor --selftest                       # everything, in Markdown to paste into an issue
        orthohash doctor --selftest --device cuda --json""",
    add_options=_add_options,
    run=_run,
    help_order=140,
)
