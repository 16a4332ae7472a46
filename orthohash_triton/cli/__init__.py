"""The command line `orthohash`: one module per command, which declares it as COMMAND (see `_command.Command`).

Neither this module nor the declarations import torch, which takes seconds. A command imports it while `main` handles Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence

from .._base.quoting import quoted, shortened
from ._command import NOTHING_WRITTEN, USER_ERRORS, Parser, command_parsers
from ._output import discard_output_if, replace_unsupported_symbols
from ._registry import make_parser
from ._suggest import did_you_mean

__all__ = ["main", "make_parser"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: the words after `orthohash`; None takes them from `sys.argv`.

    Returns:
        0 on success, 1 if a check failed, 2 after an error of the user, which is printed in one line, and 130 after Ctrl-C.

    Example:
        >>> from orthohash_triton.cli import main
        >>> main(["evaluate", "no-such-folder"])  # prints one line on standard error
        2
    """
    options = None
    try:
        replace_unsupported_symbols()
        options = _parse(make_parser(), sys.argv[1:] if arguments is None else arguments)
        return _run(options)
    except KeyboardInterrupt:
        print(_after_interrupt(options), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has ended, for example `| head`
        sys.stderr.close()
        return 0


def _run(options: argparse.Namespace) -> int:
    """Run the command of `options` and return its exit status. Errors of the user are printed in one line."""
    try:
        with discard_output_if(options.quiet and not options.json):
            return options.run(options) or 0
    except BrokenPipeError:
        raise
    except USER_ERRORS as error:
        print(f"orthohash {options.command}: error: {shortened(str(error))}", file=sys.stderr)
        return 2


def _after_interrupt(options: argparse.Namespace | None) -> str:
    """Return the line that Ctrl-C prints. `options` is None if the arguments were not parsed yet."""
    if options is None:
        return f"orthohash: interrupted; {NOTHING_WRITTEN}"
    return f"orthohash {options.command}: interrupted; {options.after_interrupt(options)}"


def _parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse `arguments`. An unknown command is an error that suggests a similar name."""
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    if named is not None and named not in (known := command_parsers(parser)):
        parser.error(f"there is no command {quoted(named)}{did_you_mean(named, known) or '; choose from ' + ', '.join(known)}")
    return parser.parse_args(arguments)
