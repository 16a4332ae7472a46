"""The declaration of a command and the argparse parsers that commands are made of."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .._base.quoting import shortened
from . import _config_files
from ._suggest import did_you_mean

if TYPE_CHECKING:
    SubParsers = argparse._SubParsersAction["CommandParser"]

NOTHING_WRITTEN = "nothing was written"
USER_ERRORS = (ValueError, OSError, ImportError)  # reported in one line, without a traceback


@dataclass(frozen=True)
class Command:
    """The declaration of one command of `orthohash`: its name, help, options and work.

    Declarations are cheap: `add_options` and `run` import what they need, so that help is fast and a command works without the
    extras of the others.

    Attributes:
        name: what the user types after `orthohash`.
        summary: a few words, without a full stop.
        examples: command lines, one per line.
        add_options: add the options to the parser of the command, when the command is called.
        run: do the work and return the exit status; None means 0.
        help_order: position in the list of commands, ascending.
        prints_figures: the command takes --json, --quiet and --no-progress (`options.progress`).
        after_interrupt: return what the user can do after Ctrl-C, as the end of a sentence: how to continue, or that nothing
            was written. It must not import anything that takes long.
    """

    name: str
    summary: str
    examples: str
    add_options: Callable[["CommandParser"], None]
    run: Callable[[argparse.Namespace], int | None]
    help_order: int
    prints_figures: bool = True
    after_interrupt: Callable[[argparse.Namespace], str] = lambda options: NOTHING_WRITTEN

    def add_to(self, commands: "SubParsers") -> None:
        """Add this command to the subcommands of the program."""
        lines = [line.strip() for line in self.examples.strip().splitlines()]
        parser = commands.add_parser(
            self.name, help=self.summary, description=self.summary[0].upper() + self.summary[1:] + ".",
            add_options=self._add_all_options, epilog="examples:\n  " + "\n  ".join(lines),
        )  # fmt: skip
        parser.set_defaults(run=self.run, after_interrupt=self.after_interrupt, json=False, quiet=False, progress=True)

    def _add_all_options(self, parser: "CommandParser") -> None:
        self.add_options(parser)
        if self.prints_figures:
            parser.add_argument("--json", action="store_true", help="print the results as JSON")
            parser.add_argument("--quiet", action="store_true", help="print errors only, and the results if --json is given")
            parser.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bars")


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line and accepts no abbreviated options."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        # With abbreviations a new option could change the meaning of an existing script.
        settings |= {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(*arguments, **settings)

    def error(self, message: str) -> NoReturn:
        """Print `message` in one line, without argparse's usage, and exit with status 2."""
        stop = "" if message.endswith("?") else "."
        self.exit(2, f"{self.prog}: error: {shortened(message)}{stop} See `{self.prog} --help`\n")


class CommandParser(Parser):
    """The argument parser of one command, which adds its options only when the command is called.

    Attributes:
        arguments: the arguments being parsed. Some options depend on others, see `peek`.
        for_completion: True while a completion script is generated: no arguments are parsed, and all options are added that any
            arguments could enable.
        settings: settings of the configuration file, if --config names one.
        method_options: names of the options that belong to the training method.
    """

    def __init__(self, *, add_options: Callable[["CommandParser"], None], **settings: Any) -> None:
        super().__init__(**settings)
        self.arguments: list[str] = []
        self.for_completion = False
        self.settings: dict[str, Any] = {}
        self.method_options: list[str] = []
        self._add_options: Callable[[CommandParser], None] | None = add_options

    def declare(self, arguments: Sequence[str] | None = None) -> None:
        """Add the options that apply to `arguments`, at the first call only. None adds all options, for shell completion."""
        if self._add_options is not None:
            add_options, self._add_options = self._add_options, None
            self.arguments, self.for_completion = list(arguments or ()), arguments is None
            add_options(self)
            self.usage = " ".join(["%(prog)s", *filter(None, map(_required_in_usage, self._actions)), "[options]"])

    def peek(self, option: str) -> str | None:
        """Return the value of `option`, such as "--method", in the arguments, before the options are complete.

        Returns None if the option is missing or has no value; a missing value is reported later, by the complete parser.
        """
        reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        reader.add_argument(option, dest="value", nargs="?")
        return reader.parse_known_args(self.arguments)[0].value

    def add_config_file(self) -> None:
        """Add --config and --print-config, and read the file that --config names into `settings`."""
        self.add_argument(
            "--config", type=Path, metavar="FILE",
            help="settings in TOML, YAML or JSON under the names of these options, or a run folder; "
            "options on the command line take precedence",
        )  # fmt: skip
        self.add_argument("--print-config", action="store_true", help="print the settings as TOML, for --config, and exit")
        named = self.peek("--config")
        if named is not None:
            self.set_defaults(config=Path(named))
            self.settings = _config_files.read(Path(named))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse like argparse, but report unknown arguments as an error."""
        args = sys.argv[1:] if args is None else args
        try:
            self.declare(args)
            if self.settings:
                _config_files.apply(self.settings, self, self.get_default("config"))
        except USER_ERRORS as error:
            self.error(str(error))
        print_config = "--print-config" in args
        if print_config:
            for action in self._actions:
                action.required = False
        values, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            what = "option" if unknown[0].startswith("-") else "argument"
            self.error(f"unknown {what} {unknown[0]}{did_you_mean(unknown[0].partition('=')[0], known)}")
        if print_config:
            print(_config_files.as_toml(values, self, self.method_options))
            self.exit()
        values.progress &= not values.quiet
        return values, unknown


def add_dataset(parser: CommandParser) -> None:
    """Add --dataset to a command that reads the data set of a run."""
    parser.add_argument(
        "--dataset",
        metavar="PATH",
        help="where the data set of the run is now (where it was during the training, or beside the run)",
    )


def _required_in_usage(action: argparse.Action) -> str:
    """Return how a required argument is written in the usage line, or "" for an optional one."""
    name = str(action.metavar or action.dest.upper())
    if not action.option_strings:
        return name
    return f"{action.option_strings[-1]} {name}" if action.required else ""


def command_parsers(parser: Parser) -> dict[str, CommandParser]:
    """Return the parsers of the commands of the program's `parser`, by name."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)
