"""The options that come from TrainConfig and from a method's own settings."""

import argparse
import types
import typing
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ._command import Command
from ._suggest import one_of


def add_config_options(parser: Command, *, only: Sequence[str] | None = None, without: Sequence[str] = ()) -> None:
    """One option per field of TrainConfig, and --config; the method's own come from `add_method_options`."""
    from ..train.trainer import TrainConfig

    parser.add_config_file()
    chosen = [field for field in fields(TrainConfig) if field.name not in ("options", *without)]
    _add_fields(parser, [field for field in chosen if only is None or field.name in only])


def add_method_options(parser: Command) -> None:
    """The options of the method that the arguments or the configuration file name; for completion, those of all methods."""
    from .. import methods

    for name in methods.names() if parser.for_completion else [_named_method(parser)]:
        method = methods.get(name)
        group = parser.add_argument_group(f"options of the method {method.name}", f"{method.summary}. {method.paper}")
        own = [field for field in fields(method.options) if field.name not in parser.method_options]
        _add_fields(group, own)
        parser.method_options += [field.name for field in own]


def config_from(options: argparse.Namespace, *, method_options: bool) -> Any:
    """The TrainConfig that `options` make."""
    from .. import methods
    from ..train.trainer import TrainConfig

    values = {field.name: getattr(options, field.name) for field in fields(TrainConfig) if hasattr(options, field.name)}
    if method_options:
        own = {field.name: getattr(options, field.name) for field in fields(methods.get(options.method).options)}
        values["options"] = own
    return TrainConfig(**values)


def title_of(config: Any) -> str:
    """The method and the rotation, as a table names them."""
    from .. import methods

    return methods.get(config.method).title + ("" if config.rotate == "none" else f" + {config.rotate}")


def _named_method(parser: Command) -> str:
    """The method that the arguments name, or else the configuration file; the default one where it does not exist."""
    from .. import methods
    from ..train.trainer import TrainConfig

    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--method", nargs="?", default=parser.settings.get("method"))
    name = reader.parse_known_args(parser.arguments)[0].method
    return name if name in methods.names() else TrainConfig.method


def _add_fields(parser: Any, chosen: Sequence[Any]) -> None:
    known = values_of_options()
    for field in chosen:
        name, text = "--" + field.name.replace("_", "-"), field.metadata["help"].replace("%", "%%")
        if field.type is bool:
            text += " (on)" if field.default else " (off)"
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default, help=text)
            continue
        default = "" if field.default is None else " (%(default)s)"
        choices = known.get(field.name)
        parser.add_argument(
            name, type=one_of(choices) if choices else _plain_type(field.type), default=field.default, help=text + default,
            metavar=_metavar(field.type), choices=choices,
        )  # fmt: skip


def values_of_options() -> dict[str, list[str]]:
    """The values of options that take one of a few."""
    from .. import methods
    from ..train.augmentation import AUGMENTATIONS
    from ..train.config import ROTATIONS
    from ..train.optimization import OPTIMIZERS, PRECISIONS, SCHEDULES

    return {
        "method": methods.names(),
        "rotate": ["none", *ROTATIONS],
        "optimizer": [*OPTIMIZERS],
        "schedule": [*SCHEDULES],
        "precision": [*PRECISIONS],
        "augment": [*AUGMENTATIONS],
        "on_corrupt": ["skip", "fail"],
        "on_missing": ["fail", "skip"],
    }


def _plain_type(annotation: Any) -> type:
    """Return int for `int | None`, and str for a Literal of strings."""
    if typing.get_origin(annotation) is typing.Literal:
        return str
    if isinstance(annotation, types.UnionType):
        return next(member for member in typing.get_args(annotation) if member is not type(None))
    return annotation


def _metavar(annotation: Any) -> str:
    return {int: "N", float: "X", str: "NAME"}[_plain_type(annotation)]
