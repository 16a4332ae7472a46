"""The registry of commands: every public module of this folder declares one command as COMMAND."""

import importlib
import pkgutil

from .. import __version__
from ._command import Command, CommandParser, Parser

_PACKAGE = __name__.rpartition(".")[0]
_EPILOG = """exit status:
  0    success
  1    a check failed, for example of `orthohash doctor`; if a traceback is printed, a bug in this program
  2    an error in the command line or in a file: one line on standard error explains it and says what to do
  130  interrupted

Results go to standard output, progress and errors to standard error. NO_COLOR=1 in the environment turns colours off.
`orthohash COMMAND --help` shows the options of a command, with examples."""


def commands() -> list[Command]:
    """Return all commands in the order of the help."""
    folder = importlib.import_module(_PACKAGE).__path__
    names = [module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_")]
    found: list[Command] = [importlib.import_module(f"{_PACKAGE}.{name}").COMMAND for name in names]
    return sorted(found, key=lambda command: command.help_order)


def make_parser() -> Parser:
    """Return the parser of all commands. The options of a command are added when it is called.

    Example:
        >>> from orthohash_triton.cli import make_parser
        >>> make_parser().parse_args(["index", "codes.npy", "--out", "codes.ibxf"]).command
        'index'
    """
    parser = Parser("orthohash", description="Learn binary codes for images, and search them.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"orthohash-triton {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    for command in commands():
        command.add_to(subparsers)
    return parser
