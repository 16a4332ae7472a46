"""The command line: one module per command, listed in COMMANDS.

A command's module has `add(commands)`, which declares it through `_command.command`, and `run(options)`, which answers the exit
status (None is 0). Declaring is cheap: what a command needs is imported in its functions, so that help is quick and one command
works where the extras of another are not installed.
"""

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from . import (
    browse,
    compare,
    completion,
    demo,
    doctor,
    encode,
    evaluate,
    export,
    features,
    index,
    info,
    methods,
    report,
    search,
    train,
)
from ._command import Command, Parser, command_parsers
from ._output import printed_unless, use_symbols_of_the_terminal
from ._suggest import did_you_mean

COMMANDS = (  # in the order of the help
    train,
    methods,
    compare,
    features,
    encode,
    index,
    search,
    evaluate,
    info,
    report,
    browse,
    export,
    demo,
    doctor,
    completion,
)

_USER_ERRORS = (ValueError, OSError, ImportError)
_STATUSES = """exit status:
  0    done
  1    a check failed, as of `orthohash doctor`; with a traceback, a defect of this program
  2    a mistake in the command line or in a file: one line on standard error says which, and what to do
  130  interrupted

Figures go to standard output, progress and errors to standard error. NO_COLOR=1 in the environment turns colours off.
`orthohash COMMAND --help` shows the options of a command, with examples."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Answers the exit status: 0; 1 where a check failed; 2 for a mistake of the user's, told in one line."""
    use_symbols_of_the_terminal()
    try:
        return _run(_parse(make_parser(), sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        sys.stderr.close()
        return 0


def _run(options: argparse.Namespace) -> int:
    try:
        with printed_unless(options.quiet and not options.json):
            return options.run(options) or 0
    except BrokenPipeError:
        raise
    except _USER_ERRORS as error:
        print(f"orthohash {options.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def make_parser() -> Parser:
    """The parser of all commands; each declares its options when it is called."""
    parser = Parser("orthohash", description="Learn binary codes for images, and search them.", epilog=_STATUSES)
    parser.add_argument("--version", action="version", version=f"orthohash-triton {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Command)
    for module in COMMANDS:
        module.add(commands)
    return parser


def _parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    if named is not None and named not in (known := command_parsers(parser)):
        parser.error(f"there is no command {named!r}{did_you_mean(named, known) or '; choose of ' + ', '.join(known)}")
    return parser.parse_args(arguments)
