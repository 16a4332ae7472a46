"""Tests of settings with a fixed set of values."""

from dataclasses import dataclass
from typing import Literal, get_args

import pytest

from orthohash_triton._base.choices import ON_TROUBLE, OnTrouble, check_choices, choices_of, members_of
from orthohash_triton.train import optimization, rotation


@dataclass(frozen=True)
class Settings:
    colour: Literal["red", "blue"] = "red"
    shape: Literal["round"] | Literal["square"] | None = None
    size: int | None = None


def test_values_of_a_type() -> None:
    assert choices_of(Literal["a", "b"]) == ("a", "b")
    assert choices_of(Literal["a"] | None) == ("a",)
    assert choices_of(Literal["a"] | Literal["b"] | None) == ("a", "b")
    assert choices_of(int | None) == choices_of(str) == ()
    assert members_of(int | None) == members_of(int) == (int,)


@pytest.mark.parametrize("right", [Settings(), Settings("blue", "square", 7)])
def test_right_values(right: Settings) -> None:
    check_choices("Settings", right)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": "green"}, "Settings: colour must be one of 'red', 'blue'; got 'green'"),
        ({"colour": None}, "Settings: colour must be one of 'red', 'blue'; got None"),
        ({"shape": "flat"}, "Settings: shape must be one of 'round', 'square'; got 'flat'"),
    ],
)
def test_wrong_values(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_choices("Settings", Settings(**values))


def test_every_value_has_an_entry_in_its_table() -> None:
    assert set(optimization.OPTIMIZERS) == set(get_args(optimization.OptimizerName))
    assert set(optimization.SCHEDULES) == set(get_args(optimization.ScheduleName))
    assert set(optimization.PRECISIONS) == set(get_args(optimization.Precision))
    assert {"none", *rotation.ROTATIONS} == set(get_args(rotation.RotationName))
    assert set(ON_TROUBLE) == set(get_args(OnTrouble))
