"""Tests that no message shows a value of a file or argument whole if it is long."""

import ast
from pathlib import Path

import numpy as np
import pytest

from orthohash_triton._base.quoting import quoted, short_repr, shortened
from orthohash_triton.train import TrainConfig
from tools.modules import ROOT

# `!r` in these functions writes a constructor call, an identifier of Python, or a path that the user has typed.
ALLOWED = {"__repr__", "extra_repr", "quoted", "find_moved", "__getattr__", "_export_pretrained", "_describe_pretrained"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("cat", "'cat'"),
        ("x" * 60, repr("x" * 60)),
        ("x" * 61, repr("x" * 20) + "... (61 characters)"),
        (b"x" * 100, repr(b"x" * 20) + "... (100 bytes)"),
        ("\udcff.jpg", "'\\udcff.jpg'"),
        (10**20 - 1, "99999999999999999999"),
        (10**20, "an integer of 21 digits"),
        (True, "True"),
        (None, "None"),
        (float("nan"), "nan"),
        ([], "[]"),
        ([1], "a list of 1 value"),
        ((1, 2), "a tuple of 2 values"),
        ({"a": 1, "b": 2}, "a mapping of 2 values"),
        ({1, 2}, "a set of 2 values"),
        (np.float32(0.5), repr(np.float32(0.5))),
    ],
)
def test_a_quoted_value(value: object, expected: str) -> None:
    assert quoted(value) == expected


def test_integers_that_python_refuses_to_write() -> None:
    assert quoted(-(10**5000)) == "an integer of 5,001 digits"
    assert quoted(10**5000 - 1) == "an integer of 5,000 digits"


def test_a_large_integer_makes_a_short_message() -> None:
    with pytest.raises(ValueError, match=r"bits must be between .*; got an integer of 5,001 digits"):
        TrainConfig(bits=10**5000)
    with pytest.raises(ValueError, match="epochs must be at least 1; got an integer of 5,001 digits"):
        TrainConfig(epochs=-(10**5000))


def test_the_short_repr_of_nested_lists() -> None:
    bomb: list = ["x"] * 10
    for _ in range(30):  # written whole, this would have 10**31 elements
        bomb = [bomb] * 10
    assert len(short_repr(bomb)) < 3000
    assert short_repr([10**5000]) == "[an integer of 5,001 digits]"


def test_a_long_message_keeps_its_ends() -> None:
    message = shortened("photos/: " + "x" * 100_000 + "\nremove them")
    assert message.startswith("photos/: xxx")
    assert message.endswith("xxx remove them")
    assert len(message) < 2100
    assert "\n" not in message


def whole_values(path: Path) -> list[str]:
    """Return the places in a file where an f-string writes the whole repr of a value."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    allowed = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in ALLOWED]
    kept = {id(inner) for function in allowed for inner in ast.walk(function)}
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue)
        and node.conversion == ord("r")
        and node.format_spec is None  # `!r:.80` has a limit too
        and id(node) not in kept
    ]


def test_messages_quote_values_with_a_limit() -> None:
    places = [place for folder in ("orthohash_triton", "kernels") for path in (ROOT / folder).rglob("*.py")
              for place in whole_values(path)]  # fmt: skip
    assert places == [], "use _base.quoting.quoted instead of !r"
