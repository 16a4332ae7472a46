"""What the user may have meant."""

import argparse
import difflib
from collections.abc import Callable, Iterable, Sequence


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `name`: the nearest of `known`; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """An argparse type: one of `names`."""

    def choose(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"expected {', '.join(names)}; got {text!r}{did_you_mean(text, names)}")
        return text

    return choose
