"""`orthohash completion`: print a script that completes command lines in a shell."""

import argparse
from pathlib import Path

from .._base.extras import install
from ._command import Command, CommandParser, command_parsers

_PATHS = ("dataset", "source", "queries", "labels")  # options that accept a path or a name
_SHELLS = ("bash", "zsh", "tcsh", "fish", "powershell")


def _add_options(parser: CommandParser) -> None:
    parser.add_argument("shell", choices=_SHELLS, help=", ".join(_SHELLS))


def _run(options: argparse.Namespace) -> None:
    """Print the completion script."""
    try:
        import shtab
    except ImportError as error:
        raise ImportError(f"shell completion needs shtab: {install('shtab', extra='config')}") from error
    from ._registry import make_parser

    parser = make_parser()
    for command in command_parsers(parser).values():
        command.declare()
        for action in command._actions:
            if action.type is Path or action.dest in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, options.shell))


COMMAND = Command(
    name="completion",
    summary="print the script that completes commands, options and files in a shell",
    examples="""
        source <(orthohash completion bash)                              # in this bash; in ~/.bashrc for all
        orthohash completion zsh > ~/.zfunc/_orthohash                   # a folder of $fpath
        orthohash completion fish > ~/.config/fish/completions/orthohash.fish""",
    add_options=_add_options,
    run=_run,
    help_order=150,
    prints_figures=False,
)
