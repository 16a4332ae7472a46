"""Settings with a fixed set of values, whose type is a Literal. Run-time checks and the command line read the values there."""

import types
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin

OnTrouble = Literal["skip", "fail"]
"""What the command line does with a file that is damaged or missing."""

ON_TROUBLE: dict[OnTrouble, Literal["skip", "raise"]] = {"skip": "skip", "fail": "raise"}
"""The same choice as an argument of the functions of `data`."""


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """Return the values of a Literal or of `Literal | None`; an empty tuple for other types."""
    return tuple(value for member in members_of(annotation) if get_origin(member) is Literal for value in get_args(member))


def members_of(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union except None, or the type itself."""
    if get_origin(annotation) not in (types.UnionType, Union):
        return (annotation,)
    return tuple(member for member in get_args(annotation) if member is not type(None))


def check_choices(owner: str, settings: Any) -> None:
    """Check the fields of a dataclass whose types are Literals. A field that is None by default may be None.

    Raises:
        ValueError: a field has another value. The message begins with `owner` and lists the values.
    """
    from . import checks  # imports torch, which the declarations of the commands must not do

    for field in fields(settings):
        value, choices = getattr(settings, field.name), choices_of(field.type)
        if choices and not (value is None and field.default is None):
            checks.choice(owner, field.name, value, choices)
