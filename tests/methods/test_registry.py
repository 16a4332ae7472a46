"""Methods are declarations: what the registry promises of each."""

import dataclasses
import re

import pytest

from orthohash_triton import methods
from orthohash_triton.methods import Method, Objective, option

NAMES = {"orthohash", "dhn", "hashnet", "dpsh", "csq", "mds", "shc", "shrewd", "lsh", "pca"}


def test_names_are_the_promised_ones_learned_first() -> None:
    assert set(methods.names()) >= NAMES
    learned = [methods.get(name).learned for name in methods.names()]
    assert learned == sorted(learned, reverse=True)
    assert methods.names()[-2:] == ["pca", "lsh"]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_declaration_is_complete(name: str) -> None:
    method = methods.get(name)
    assert method.name == name
    assert re.search(r"\b(19|20)\d\d\b", method.paper)
    assert str(method.year) in method.paper
    assert method.url.startswith("https://")
    assert method.summary
    assert not method.summary.endswith(".")
    assert method.lr > 0
    for field in dataclasses.fields(method.options):
        assert field.metadata["help"]
    assert method.make_options({}) == method.options()


def test_unknown_methods_and_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"method must be one of .*orthohash.*; got 'orthohush'"):
        methods.get("orthohush")
    with pytest.raises(ValueError, match="method 'dhn' has no option margin; it has pairs, quantization_weight"):
        methods.get("dhn").make_options({"margin": 0.2})
    with pytest.raises(ValueError, match="method 'lsh' has no option margin; it has none"):
        methods.get("lsh").make_options({"margin": 0.2})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("orthohash", {"margin": -0.1}, "margin must not be negative; got -0.1"),
        ("dhn", {"quantization_weight": -1.0}, "quantization_weight must not be negative"),
        ("dhn", {"pairs": "half"}, "pairs must be one of 'balanced', 'equal'; got 'half'"),
        ("hashnet", {"stages": 0}, "stages must be at least 1; got 0"),
        ("hashnet", {"growth": float("nan")}, "growth must not be negative; got nan"),
        ("mds", {"pairs_from": -1.0}, "pairs_from must not be negative"),
        ("mds", {"bank": 0}, "bank must be at least 1; got 0"),
        ("shrewd", {"kl_weight": -1.0}, "kl_weight must not be negative"),
    ],
)
def test_bad_options(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.get(name).make_options(options)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_registry", dict(methods._registry))


def _nothing(task: methods.Task, options: object) -> Objective:
    return Objective()


def test_a_method_of_ones_own(registry: None) -> None:
    @dataclasses.dataclass(frozen=True)
    class Options:
        weight: float = option(1.0, "weight")

    own = Method(
        "own", "Own", "Me, 2026", "https://example.org", 2026, "mine", objective=lambda task, o: Objective(), options=Options
    )
    assert methods.register(own) is own
    assert methods.get("own").make_options({"weight": 2.0}).weight == 2
    assert methods.names()[0] == "own"
    with pytest.raises(ValueError, match="there is a method 'own' already"):
        methods.register(own)


def test_a_method_learns_or_is_fitted() -> None:
    for keywords in ({}, {"objective": lambda task, o: Objective(), "fit": lambda x, bits, seed: None}):
        with pytest.raises(ValueError, match="give either objective or fit"):
            Method("none", "None", "Me, 2026", "https://example.org", 2026, "nothing", **keywords)
