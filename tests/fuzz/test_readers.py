"""Tests of every reader with damaged files: it reads them rightly, or raises a ValueError or OSError that names the file.

Nothing else may happen: no other exception, no more than five seconds, no more memory than ten times the size of the files and a
constant. `make fuzz` runs the same tests for FUZZ_SECONDS each, with other inputs every time.
"""

import errno
from pathlib import Path

import pytest

from tests.base.test_readers import registered
from tests.fuzz import data_targets, model_targets
from tests.fuzz.readers import Target, run

TARGETS = [
    *data_targets.FEATURES, *data_targets.LISTS, *data_targets.DATA_SETS, *data_targets.INDEXES, *model_targets.TARGETS
]  # fmt: skip

# Readers that only call another reader, or that cannot be fuzzed for the reason given.
NOT_FUZZED = {
    "_base.formats.read_parquet_columns": "reads the footer only, as read_parquet does too",
    "search.faiss_io.is_index": "reads four bytes",
    "train.tracking._read_id": "reads one word of JSON",
}


@pytest.mark.filterwarnings("ignore")  # parsers warn about what they find odd
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_files(target: Target, tmp_path: Path, one_thread: None) -> None:
    outcome = run(target, tmp_path)
    assert not outcome.failures, f"{outcome}\n\n" + "\n\n".join(outcome.failures.values())
    assert outcome.refused > 0


def test_every_reader_is_fuzzed() -> None:
    fuzzed = {name for target in TARGETS for name in target.readers}
    assert fuzzed | NOT_FUZZED.keys() == registered()


# ---- the machinery itself ------------------------------------------------------------------------------------------------------


def outcome_of(read: object, tmp_path: Path) -> list[str]:
    def make(folder: Path) -> None:
        (folder / "x").write_bytes(b"good")

    def read_good(folder: Path) -> object:
        content = (folder / "x").read_bytes()
        return None if content == b"good" else read(folder / "x")

    found = run(Target("bad reader", make, read_good, (), inputs=5), tmp_path)
    return [*found.failures]


def allocate(path: Path) -> object:
    return bytearray(2**30)


def raise_(error: Exception) -> object:
    raise error


@pytest.mark.parametrize(
    ("read", "failure"),
    [
        (lambda path: {}["key"], "KeyError"),
        (lambda path: raise_(ValueError("no name")), "ValueError"),
        (lambda path: raise_(OSError(errno.EIO, "no name")), "OSError"),
        (allocate, "memory"),
    ],
    ids=["exception", "unnamed", "unnamed by the system", "memory"],
)
def test_a_bad_reader_is_noticed(read: object, failure: str, tmp_path: Path) -> None:
    found = outcome_of(read, tmp_path)
    assert found
    assert all(kind.startswith(failure) for kind in found)


def test_a_reader_that_hangs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.limits.SECONDS", 0.05)

    def hang(path: Path) -> object:
        while True:
            pass

    assert [kind.partition(" ")[0] for kind in outcome_of(hang, tmp_path)] == ["hang"]


def test_a_clear_error_is_accepted(tmp_path: Path) -> None:
    assert outcome_of(lambda path: raise_(ValueError(f"{path} is damaged")), tmp_path) == []
