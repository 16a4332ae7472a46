"""Options that are generated from TrainConfig and from the options of a training method."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

from .._base.choices import choices_of, members_of
from ._command import CommandParser
from ._suggest import one_of

if TYPE_CHECKING:
    from ..train import TrainConfig


def add_config_options(parser: CommandParser, *, only: Sequence[str] | None = None, without: Sequence[str] = ()) -> None:
    """Add --config and one option per field of TrainConfig. `add_method_options` adds the options of the method.

    Args:
        only: the fields to add; None adds all.
        without: fields to leave out.
    """
    from ..train import TrainConfig

    parser.add_config_file()
    chosen = [field for field in fields(TrainConfig) if field.name not in ("options", *without)]
    _add_fields(parser, [field for field in chosen if only is None or field.name in only])


def add_method_options(parser: CommandParser) -> None:
    """Add the options of the method in the arguments or the configuration file; those of all methods for shell completion."""
    from .. import methods

    for name in methods.names() if parser.for_completion else [_requested_method(parser)]:
        method = methods.get(name)
        group = parser.add_argument_group(f"options of the method {method.name}", f"{method.summary}. {method.paper}")
        own = [field for field in fields(method.options) if field.name not in parser.method_options]
        _add_fields(group, own)
        parser.method_options += [field.name for field in own]


def config_from(options: argparse.Namespace, *, method_options: bool) -> "TrainConfig":
    """Return the TrainConfig that `options` describe, with the options of the method if `method_options`."""
    from .. import methods
    from ..train import TrainConfig

    values = {field.name: getattr(options, field.name) for field in fields(TrainConfig) if hasattr(options, field.name)}
    if method_options:
        own = {field.name: getattr(options, field.name) for field in fields(methods.get(options.method).options)}
        values["options"] = own
    return TrainConfig(**values)


def title_of(config: "TrainConfig") -> str:
    """Return the name of the method and the rotation, as tables show it."""
    from .. import methods

    return methods.get(config.method).title + ("" if config.rotate == "none" else f" + {config.rotate}")


def _requested_method(parser: CommandParser) -> str:
    """Return the method in the arguments or else in the configuration file; the default method if it is unknown."""
    from .. import methods
    from ..train import TrainConfig

    name = parser.peek("--method") or parser.settings.get("method")
    return name if name in methods.names() else TrainConfig.method


def _add_fields(parser: "CommandParser | argparse._ArgumentGroup", chosen: Iterable[Field]) -> None:
    """Add one option per dataclass field, with its default, help and accepted values."""
    from .. import methods

    for field in chosen:
        name, text = "--" + field.name.replace("_", "-"), field.metadata["help"].replace("%", "%%")
        if field.type is bool:
            text += " (on)" if field.default else " (off)"
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default, help=text)
            continue
        default = "" if field.default is None else " (%(default)s)"
        choices = methods.names() if field.name == "method" else list(choices_of(field.type))
        kind = _value_type(field.type)
        parser.add_argument(
            name, type=one_of(choices) if choices else kind, default=field.default, help=text + default,
            metavar={int: "N", float: "X", str: "NAME"}[kind], choices=choices or None,
        )  # fmt: skip


def _value_type(annotation: Any) -> type:
    """Return the type of a value: int for `int | None`, str for a Literal of strings."""
    choices = choices_of(annotation)
    return type(choices[0]) if choices else members_of(annotation)[0]
