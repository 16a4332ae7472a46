"""orthohash completion."""

import argparse
from pathlib import Path
from typing import Any

from ._command import Command, command, command_parsers

_PATHS = ("dataset", "source", "queries", "labels")  # what may name a file or something else
_SHELLS = ("bash", "zsh", "tcsh", "fish", "powershell")


def add(commands: Any) -> None:
    command(commands, "completion", run, _declare, "print the script that completes commands, options and files in a shell", """
        source <(orthohash completion bash)                              # in this bash; in ~/.bashrc for all
        orthohash completion zsh > ~/.zfunc/_orthohash                   # a folder of $fpath
        orthohash completion fish > ~/.config/fish/completions/orthohash.fish""", figures=False)  # fmt: skip


def _declare(parser: Command) -> None:
    parser.add_argument("shell", choices=_SHELLS, help=", ".join(_SHELLS))


def run(options: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError as error:
        raise ImportError('shell completion needs shtab: pip install "orthohash-triton[config]"') from error
    from . import make_parser

    parser = make_parser()
    for each in command_parsers(parser).values():
        each.declare()
        for action in each._actions:
            if action.type is Path or action.dest in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, options.shell))
