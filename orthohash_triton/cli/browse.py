"""orthohash browse."""

import argparse
from pathlib import Path
from typing import Any

from ._command import Command, command


def add(commands: Any) -> None:
    command(commands, "browse", run, _declare, "click through a run's gallery in the browser, or search it by an image", """
        orthohash browse runs/fashion --open
        orthohash browse runs/photos --port 0""", figures=False)  # fmt: skip


def _declare(parser: Command) -> None:
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--port", type=int, default=8765, metavar="N", help="port of 127.0.0.1; 0 takes a free one (%(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in the default browser")


def run(options: argparse.Namespace) -> None:
    from ..browse import serve
    from ..runs import load_run

    run = load_run(options.model)
    serve(run, port=options.port, open_page=options.open, say=_say)


def _say(url: str) -> None:
    print(f"browse at {url} (Ctrl-C ends it)", flush=True)
