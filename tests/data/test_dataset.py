import pytest
import torch

from orthohash_triton import data
from orthohash_triton.data import Dataset, digits, split_stratified


def features(labels: list[int]) -> Dataset:
    return Dataset(torch.arange(len(labels)).float()[:, None], torch.tensor(labels), ("a", "b", "c"), "toy")


def test_stratified_split_partitions_every_class() -> None:
    dataset = features([0] * 10 + [1] * 20 + [2] * 5)
    train, gallery, query = split_stratified(dataset, 0.2, seed=3)
    assert train is gallery
    assert query.labels.bincount().tolist() == [2, 4, 1]
    assert sorted(torch.cat([gallery.inputs, query.inputs]).flatten().tolist()) == list(range(35))


def test_split_depends_on_the_seed_alone() -> None:
    dataset = features([0] * 30 + [1] * 30)
    same, again, other = (split_stratified(dataset, 0.3, seed=s).query.inputs.flatten().tolist() for s in (1, 1, 2))
    assert same == again != other


def test_a_class_of_one_stays_in_the_gallery() -> None:
    _, gallery, query = split_stratified(features([0, 0, 1]), 0.5, seed=0)
    assert 1 in gallery.labels
    assert query.labels.tolist() == [0]
    with pytest.raises(ValueError, match="leaves no query"):
        split_stratified(features([0, 1, 2]), 0.5, seed=0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_query_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="query_fraction"):
        split_stratified(features([0, 0]), fraction, seed=0)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.int64), "inputs must be images uint8"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), r"labels must be int64 \[2\]"),
        (torch.zeros(2, 3), torch.zeros(2), r"labels must be int64 \[2\].*float32"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"labels must lie in \[0, 3\).*got 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([-1, 2]), "got -1 to 2"),
    ],
)
def test_bad_input(inputs: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset(inputs, labels, ("a", "b", "c"), "toy")


def test_digits() -> None:
    train, gallery, query = digits.load_splits(seed=0)
    assert len(gallery) + len(query) == 1797
    assert train.inputs.shape[1:] == (8, 8)
    assert int(train.inputs.max()) == 255
    assert query.labels.bincount().tolist() == [round(0.2 * n) for n in digits.load().labels.bincount().tolist()]


def test_unknown_source() -> None:
    with pytest.raises(FileNotFoundError, match=r"no data set 'cifar10': expected fashion-mnist, digits, a folder of images"):
        data.load_splits("cifar10")
