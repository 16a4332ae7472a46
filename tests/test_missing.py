"""Tests that every op, method and metric has all that tools/missing.py requires, and that it names gaps with their remedy."""

import pytest

from tools import missing

SUBJECTS = [(kind, name) for kind, names in missing.subjects().items() for name in names]


@pytest.mark.parametrize(("kind", "name"), SUBJECTS)
def test_nothing_is_missing(kind: str, name: str) -> None:
    assert [str(lack) for lack in missing.lacks(kind, name)] == []


def test_exceptions_are_needed() -> None:
    assert missing.stale_exceptions() == []
    assert {name for name in missing.files("ops") if name in missing.NOT_OPS} == set(missing.NOT_OPS)


def test_the_subjects_are_found() -> None:
    found = missing.subjects()
    assert {"hamming_topk", "householder", "quantization_loss"} <= set(found["op"])
    assert {"orthohash", "pca"} <= set(found["method"])
    assert {"ndcg", "evaluate"} <= set(found["metric"])


@pytest.mark.parametrize("kind", missing.PLACES)
def test_a_new_one_lacks_everything(kind: str) -> None:
    lacks = missing.lacks(kind, "nonexistent")
    assert [lack.place for lack in lacks] == [place.name for place in missing.PLACES[kind]]
    assert all("nonexistent" in str(lack) for lack in lacks)


def test_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing.main(["hamming_topk"]) == 0
    assert capsys.readouterr().out == "nothing is missing (1 ops, methods and metrics)\n"
    assert missing.main(["hamming_top"]) == 2
    assert "there is no op, method or metric hamming_top" in capsys.readouterr().err
    monkeypatch.setattr(missing, "subjects", lambda: {"op": ["nonexistent"]})
    assert missing.main([]) == 1
    assert "op nonexistent lacks: benchmark. Declare MICROBENCHMARKS in bench/nonexistent.py.\n" in capsys.readouterr().out
