"""`orthohash browse`: serve the gallery of a run as a web page on this machine."""

import argparse
from pathlib import Path

from ._command import Command, CommandParser, add_dataset


def _add_options(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder")
    add_dataset(parser)
    parser.add_argument("--port", type=int, default=8765, metavar="N", help="port of 127.0.0.1; 0 picks a free one (%(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in the default browser")


def _run(options: argparse.Namespace) -> None:
    """Serve the gallery of the run until Ctrl-C."""
    from ..browse import serve
    from ..runs import load_run

    run = load_run(options.model, dataset=options.dataset)
    serve(run, port=options.port, open_page=options.open, say=_print_address)


def _print_address(url: str) -> None:
    print(f"browse at {url} (Ctrl-C stops the server)", flush=True)


COMMAND = Command(
    name="browse",
    summary="show the gallery of a run in the browser, and search it by an image",
    examples="""
        orthohash browse runs/fashion --open
        orthohash browse runs/photos --port 0""",
    add_options=_add_options,
    run=_run,
    help_order=110,
    prints_figures=False,
)
