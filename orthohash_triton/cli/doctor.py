"""orthohash doctor."""

import argparse
import sys
from typing import Any

from ._command import Command, command
from ._output import print_json


def add(commands: Any) -> None:
    command(commands, "doctor", run, _declare, "versions, devices, and a check of every op against its reference", """
        orthohash doctor
        orthohash doctor --selftest                       # everything, in Markdown to paste into an issue
        orthohash doctor --selftest --device cuda --json""")  # fmt: skip


def _declare(parser: Command) -> None:
    parser.add_argument(
        "--selftest", action="store_true",
        help="every implementation on a grid of cases, twice, with timings; half a minute on a CPU, a minute or two on a GPU",
    )  # fmt: skip
    parser.add_argument("--device", default="all", metavar="NAME", help="cpu, cuda, cuda:1, ... (%(default)s)")


def run(options: argparse.Namespace) -> int:
    from ..doctor import as_markdown, examine

    report = examine(options.device, selftest=options.selftest, progress=_tell if options.progress else lambda line: None)
    if options.json:
        print_json(report)
    else:
        print(as_markdown(report))
    return 0 if report["ok"] else 1


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
