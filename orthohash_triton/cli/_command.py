"""How a command is declared."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import _config_files
from ._suggest import did_you_mean


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        # No abbreviations: a new option must not break a script.
        settings |= {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(*arguments, **settings)

    def error(self, message: str) -> NoReturn:
        """Without argparse's whole usage before it."""
        stop = "" if message.endswith("?") else "."
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}{stop} See `{self.prog} --help`\n")


class Command(Parser):
    """The parser of one command, which declares its options when it is called: only one command's are ever needed.

    Attributes:
        arguments: those being parsed, as some options depend on others (a method's own on --method).
        for_completion: no arguments are being parsed; options are declared that any arguments could bring.
        settings: of the configuration file, where one is named.
        method_options: the names of the options that are a method's own.
    """

    def __init__(self, *, declare: Callable[["Command"], None], **settings: Any) -> None:
        super().__init__(**settings)
        self.arguments: list[str] = []
        self.for_completion = False
        self.settings: dict[str, Any] = {}
        self.method_options: list[str] = []
        self._declare: Callable[[Command], None] | None = declare

    def declare(self, arguments: Sequence[str] | None = None) -> None:
        """Add the options, once: those that fit `arguments`; for None all, as shells complete them."""
        if self._declare is not None:
            declare, self._declare = self._declare, None
            self.arguments, self.for_completion = list(arguments or ()), arguments is None
            declare(self)
            self.usage = " ".join(["%(prog)s", *filter(None, map(_required, self._actions)), "[options]"])

    def add_config_file(self) -> None:
        """Take --config and --print-config. Settings of the file are known from here on, and applied when all is declared."""
        file = self.add_argument(
            "--config", type=Path, metavar="FILE",
            help="settings in TOML, YAML or JSON by the names of these options, or a run folder; the command line wins",
        )  # fmt: skip
        self.add_argument("--print-config", action="store_true", help="print the settings as TOML, for --config, and stop")
        reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        reader.add_argument("--config", type=Path, nargs="?")
        file.default = reader.parse_known_args(self.arguments)[0].config
        if file.default is not None:
            self.settings = _config_files.read(file.default)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but unknown arguments are an error."""
        args = sys.argv[1:] if args is None else args
        try:
            self.declare(args)
            if self.settings:
                _config_files.apply(self.settings, self, self.get_default("config"))
        except (ValueError, OSError, ImportError) as error:
            self.error(str(error))
        printing = "--print-config" in args
        if printing:
            for action in self._actions:
                action.required = False
        values, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [name for action in self._actions for name in action.option_strings]
            what = "option" if unknown[0].startswith("-") else "argument"
            self.error(f"unknown {what} {unknown[0]}{did_you_mean(unknown[0].partition('=')[0], known)}")
        if printing:
            print(_config_files.as_toml(values, self, self.method_options))
            self.exit()
        values.progress &= not values.quiet
        return values, unknown


def _required(action: argparse.Action) -> str:
    """How a required argument stands in the usage line; empty for others."""
    name = str(action.metavar or action.dest.upper())
    if not action.option_strings:
        return name
    return f"{action.option_strings[-1]} {name}" if action.required else ""


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], declare: Callable[[Command], None],
    summary: str, examples: str, *, figures: bool = True,
) -> None:  # fmt: skip
    """Add the command `name`: `declare` gives it its options when it is called, then `run` does the work.

    Args:
        summary: a few words, without a full stop.
        examples: command lines, one a line.
        figures: the command prints figures, and so takes --json, --quiet and --no-progress (`options.progress`).
    """
    lines = [line.strip() for line in examples.strip().splitlines()]

    def declare_all(parser: Command) -> None:
        declare(parser)
        if figures:
            parser.add_argument("--json", action="store_true", help="print figures as JSON")
            parser.add_argument("--quiet", action="store_true", help="print errors only, and figures where --json asks for them")
            parser.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bars")

    parser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", declare=declare_all,
        epilog="examples:\n  " + "\n  ".join(lines),
    )  # fmt: skip
    parser.set_defaults(run=run, json=False, quiet=False, progress=True)


def command_parsers(parser: Parser) -> dict[str, Command]:
    """The commands of the program's `parser`, by name."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)
