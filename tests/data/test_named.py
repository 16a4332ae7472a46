"""Tests of the registry of named data sets, of each declaration, and of data sets that users register."""

from pathlib import Path

import pytest
import torch

from orthohash_triton import data
from orthohash_triton.data import Dataset, LoadOptions, NamedDataset, Splits, named


def dataset(name: str = "parity") -> Dataset:
    return Dataset(torch.arange(20.0)[:, None], torch.arange(20) % 2, ("even", "odd"), name)


def declaration(name: str = "parity", **changes) -> NamedDataset:
    return NamedDataset(
        **{
            "name": name,
            "summary": "twenty numbers",
            "splits": lambda options: data.split_stratified(dataset(), options.query_fraction, options.seed),
            "samples": {"": dataset},
        }
        | changes
    )


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "_registry", named._registry.copy())


def test_every_declaration_is_complete() -> None:
    """Every file of the folder that defines DATASET is registered."""
    files = [path for path in Path(data.__file__).parent.glob("[a-z]*.py") if "DATASET = " in path.read_text()]
    assert len(data.names()) == len(files) >= 4
    for name in data.names():
        own = data.get(name)
        assert own.name == name
        lacking = [what for what, is_there in (
            ("a summary without a full stop", bool(own.summary) and not own.summary.endswith(".")),
            ("samples, for `orthohash encode`", bool(own.samples)),
            ("a line in the docstring of data.load_splits", f"- {name}: {own.summary}" in str(data.load_splits.__doc__)),
        ) if not is_there]  # fmt: skip
        assert not lacking, f"the data set {name} still needs: {'; '.join(lacking)}"
    with pytest.raises(ValueError, match=r"data set must be one of .*digits, fashion-mnist.*; got 'cifar'"):
        data.get("cifar")


def test_a_data_set_of_ones_own() -> None:
    own = declaration()
    assert data.register(own) is own
    assert "parity" in data.names()
    assert "parity" in data.sample_names()
    train, _, query = data.load_splits("parity", query_fraction=0.2)
    assert (len(train), len(query)) == (16, 4)
    assert data.load_splits("parity", LoadOptions(query_fraction=0.2)).query.labels.tolist() == query.labels.tolist()
    assert len(data.open_source("parity", (1,))) == 20


def test_names_are_taken_once() -> None:
    for _ in range(2):  # as a file that is executed again
        data.register(declaration(summary="mine"))
    with pytest.raises(ValueError, match=rf"there is a data set 'parity' already, declared in {__file__}:\d+; the new one is in"):
        data.register(declaration())
    with pytest.raises(ValueError, match=r"there is a data set 'digits' already, declared in \S+digits\.py"):
        data.register(declaration("digits"))
    assert data.register(declaration(summary="other"), replace=True).summary == data.get("parity").summary == "other"


def test_options_reach_the_data_set_or_are_refused(tmp_path: Path) -> None:
    seen: list[LoadOptions] = []

    def splits(options: LoadOptions) -> Splits:
        seen.append(options)
        return Splits(dataset(), dataset(), dataset())

    data.register(declaration(splits=splits, options=("root",)))
    data.load_splits("parity", LoadOptions(seed=3, size=8), root=tmp_path, size=16)
    assert seen == [LoadOptions(seed=3, size=16, root=tmp_path)]
    with pytest.raises(ValueError, match="parity: labels, path_column cannot be set for this named data set; it accepts root"):
        data.load_splits("parity", path_column="x", labels="y", root=tmp_path)
    with pytest.raises(TypeError, match="load_splits: unknown option sise; expected one of size, grey"):
        data.load_splits("parity", sise=8)
    assert len(seen) == 1


def test_parts_of_samples() -> None:
    data.register(declaration(samples={"train": dataset, "test": lambda: dataset().subset(torch.arange(5))}))
    assert [name for name in data.sample_names() if "parity" in name] == ["parity:test", "parity:train"]
    assert len(data.open_source("parity:test", (1,))) == 5
    for name in ("parity", "parity:query"):
        with pytest.raises(ValueError, match=f"^{name} names no part of the data set parity; use one of parity:train"):
            data.open_source(name, (1,))
    with pytest.raises(ValueError, match="open_source: split cannot be set for a data set that is loaded"):
        data.open_source("parity:test", (1,), split="train")
    with pytest.raises(ValueError, match="open_source: root cannot be set for a data set that is loaded"):
        data.open_source("parity:test", (1,), root="x")


def test_a_data_set_without_samples_is_not_a_source() -> None:
    data.register(declaration(samples={}))
    assert "parity" not in data.sample_names()
    with pytest.raises(FileNotFoundError, match="no data set 'parity': parity does not exist"):
        data.open_source("parity", (1,))
