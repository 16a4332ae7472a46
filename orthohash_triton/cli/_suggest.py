"""Suggestions for misspelled names."""

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence

from .._base.quoting import quoted


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" with the name in `known` that is most similar to `name`, or "" if none is similar."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Return an argparse type that accepts one of `names` and suggests the nearest one otherwise."""

    def choose(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"expected {', '.join(names)}; got {quoted(text)}{did_you_mean(text, names)}")
        return text

    return choose
