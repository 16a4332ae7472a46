"""Keywords that a module keeps for the function that it calls."""

import inspect
from collections.abc import Callable, Collection
from typing import Any


def checked(
    module: object, function: Callable[..., Any], keywords: dict[str, Any], filled: Collection[str] = ()
) -> dict[str, Any]:
    """`keywords`, which `function` must take as such, and beside those that the module has `filled` in.

    Raises TypeError for others, and where one is missing: when the module is made, not with the first batch.
    """
    options = inspect.signature(function).parameters.values()
    taken = {option.name: option for option in options if option.kind is option.KEYWORD_ONLY and option.name not in filled}
    name = type(module).__name__
    if unknown := [given for given in keywords if given not in taken]:
        raise TypeError(f"{name}: takes no keyword {', '.join(map(repr, unknown))}; it takes {', '.join(taken)}")
    if missing := [needed for needed, option in taken.items() if option.default is option.empty and needed not in keywords]:
        raise TypeError(f"{name}: needs {' and '.join(missing)}, as {function.__name__} does")
    return keywords
