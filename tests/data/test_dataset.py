import resource
from pathlib import Path

import pytest
import torch

from orthohash_triton import data
from orthohash_triton.data import Dataset, digits, split_stratified, split_validation


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


def multi_hot(rows: list[list[int]], classes: int = 3, **fields) -> Dataset:
    """Return a data set with one sample for each list of classes. The input of a sample is its position."""
    labels = torch.zeros(len(rows), classes, dtype=torch.bool)
    for row, own in enumerate(rows):
        labels[row, own] = True
    inputs = torch.arange(len(rows)).float()[:, None]
    return Dataset(inputs, labels, tuple("abcdefgh"[:classes]), "toy", **fields)


def test_multilabel() -> None:
    dataset = multi_hot([[0, 2], [], [1]])
    assert dataset.is_multilabel
    assert not features([0]).is_multilabel
    assert dataset.subset(torch.tensor([2, 0])).labels.tolist() == [[False, True, False], [True, False, True]]


def test_multilabel_split_partitions_and_leaves_every_class_in_the_gallery() -> None:
    rows = [[i % 3] for i in range(90)] + [[0, 1]] * 8 + [[3, 0]] + [[]]  # class 3 has one sample, the last row none
    for seed in range(20):
        train, gallery, query = split_stratified(multi_hot(rows, classes=4), 0.2, seed)
        assert train is gallery
        assert len(query) == 20
        assert sorted(torch.cat([gallery.inputs, query.inputs]).flatten().tolist()) == list(range(100))
        assert gallery.labels.any(0).all()
        assert query.labels.any(1).all()
    dense = multi_hot([[0, 1, 2]] * 3)
    assert len(split_stratified(dense, 0.99, seed=0).query) == 2  # the third is the last of its classes


def test_groups_stay_together() -> None:
    groups = torch.tensor([i // 3 for i in range(60)]) + 7
    for dataset in (
        multi_hot([[i % 2, 2] for i in range(60)], groups=groups),
        Dataset(torch.zeros(60, 1), torch.arange(60) % 2, ("a", "b"), "toy", groups=groups),
    ):
        _, gallery, query = split_stratified(dataset, 0.25, seed=1)
        assert len(query) == 15
        assert not set(gallery.groups.tolist()) & set(query.groups.tolist())


def test_a_group_with_a_sample_of_no_class_stays_in_the_gallery() -> None:
    dataset = multi_hot([[0], [], [0], [0]], classes=1, groups=torch.tensor([0, 0, 1, 2]))
    for seed in range(10):
        assert not (split_stratified(dataset, 0.5, seed).query.groups == 0).any()


def test_multilabel_split_with_nothing_to_spare() -> None:
    with pytest.raises(ValueError, match="toy leaves no query: every class would lose its last sample"):
        split_stratified(multi_hot([[0], [1], [2], []]), 0.5, seed=0)


@pytest.mark.parametrize("dataset", [features([0] * 40 + [1] * 60), multi_hot([[0], [0, 1]] * 50, classes=2)])
def test_validation_is_held_out_of_the_training_set(dataset: Dataset) -> None:
    train, validation = split_validation(dataset, 0.1, seed=4)
    assert len(validation) == 10
    assert sorted(torch.cat([train.inputs, validation.inputs]).flatten().tolist()) == list(range(100))
    if not dataset.is_multilabel:
        assert validation.labels.bincount().tolist() == [4, 6]
    again = split_validation(dataset, 0.1, seed=4)[1]
    other = split_validation(dataset, 0.1, seed=5)[1]
    assert torch.equal(validation.inputs, again.inputs)
    assert not torch.equal(validation.inputs, other.inputs)


def test_validation_of_nothing() -> None:
    with pytest.raises(ValueError, match="toy leaves no sample for validation"):
        split_validation(features([0, 1, 2]), 0.5, seed=0)
    with pytest.raises(ValueError, match="fraction must lie between 0 and 1; got 1"):
        split_validation(features([0, 0]), 1, seed=0)


def test_subset_keeps_the_class_distance() -> None:
    distance = torch.tensor([[0, 0.5, 1], [0.5, 0, 1], [1, 1, 0]])
    dataset = Dataset(torch.zeros(3, 1), torch.arange(3), ("a", "b", "c"), "toy", class_distance=distance)
    assert dataset.subset(torch.tensor([1])).class_distance is distance
    assert split_validation(multi_hot([[0]] * 4, class_distance=distance), 0.5, 0)[1].class_distance is distance


@pytest.mark.parametrize(
    ("distance", "message"),
    [
        (torch.zeros(2, 2), r"float32 \[3, 3\] in \[0, 1\], symmetric, zero on the diagonal; got float32 \[2, 2\]"),
        (torch.zeros(3, 3, dtype=torch.float64), r"got float64 \[3, 3\]"),
        (1.5 - 1.5 * torch.eye(3), "got values from 0.0 to 1.5"),
        (torch.full((3, 3), float("nan")), "got values from nan"),
        (torch.eye(3), "a diagonal other than zero"),
        (torch.ones(3, 3).triu(1), "asymmetric"),
    ],
)
def test_bad_class_distance(distance: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset(torch.zeros(2, 1), torch.tensor([0, 2]), ("a", "b", "c"), "toy", class_distance=distance)


@pytest.mark.parametrize("groups", [torch.zeros(3, dtype=torch.int64), torch.zeros(2)])
def test_bad_groups(groups: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"groups must be int64 \[2\], one per sample"):
        multi_hot([[0], [1]], groups=groups)


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
        (
            torch.zeros(2, 3),
            torch.zeros(2, 2, dtype=torch.bool),
            r"or bool \[2, 3\], one column per class name; got bool \[2, 2\]",
        ),
        (torch.zeros(2, 3), torch.zeros(2, 3), r"got float32 \[2, 3\]"),
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
    with pytest.raises(
        FileNotFoundError, match=r"cifar10 does not exist.*a folder of images.*a manifest.*a list.*digits, fashion-mnist"
    ):
        data.load_splits("cifar10")


def test_skipped_files_of_all_sets_are_listed_once() -> None:
    def part(*names: str, validation: Dataset | None = None) -> Dataset:
        skipped = tuple(data.Skipped(Path(name), "the file is empty") for name in names)
        return Dataset(
            torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), ("a",), "toy", skipped=skipped, validation=validation
        )

    train = part("1.png", "2.png", validation=part("3.png"))
    splits = data.Splits(train, train, part("4.png", "1.png"))
    assert [path.name for path, _ in splits.skipped] == ["1.png", "2.png", "4.png", "3.png"]


def test_the_seed_reaches_the_split_of_digits() -> None:
    same, again, other = (data.load_splits("digits", seed=seed).query.inputs for seed in (1, 1, 2))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_a_small_fraction_holds_out_one_sample_of_each_class() -> None:
    _, gallery, query = split_stratified(features([0] * 4 + [1] * 4 + [2] * 30), 0.1, seed=0)
    assert query.labels.bincount().tolist() == [1, 1, 3]
    assert gallery.labels.bincount().tolist() == [3, 3, 27]


def test_groups_that_are_too_large_for_what_is_left_stay_in_the_gallery() -> None:
    """A fraction of 16 of 60 samples holds five groups of three."""
    dataset = multi_hot([[i % 2, 2] for i in range(60)], groups=torch.arange(60) // 3)
    for seed in range(5):
        assert len(split_stratified(dataset, 16 / 60, seed).query) == 15


@pytest.mark.parametrize("groups", [None, torch.arange(20_000) // 2])
def test_as_many_classes_as_samples_are_split_in_memory_of_the_samples(groups: torch.Tensor | None) -> None:
    """A matrix of samples and classes would have 400 million entries."""
    labels = torch.arange(20_000) // (1 if groups is None else 4)
    dataset = Dataset(torch.zeros(20_000, 1), labels, tuple(map(str, range(20_000))), "many", groups=groups)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if groups is None:
        with pytest.raises(ValueError, match="leaves no query"):
            data.split_stratified(dataset, 0.1, 0)
    else:
        assert len(data.split_stratified(dataset, 0.1, 0).query) == 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kilobytes


@pytest.mark.parametrize("kind", ["class ids", "multi-hot"])
def test_the_last_group_of_a_class_stays_in_the_gallery(kind: str) -> None:
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    if kind == "multi-hot":
        dataset = multi_hot([[0]] * 6, classes=1, groups=groups)
    else:
        dataset = Dataset(torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64), ("a",), "toy", groups=groups)
    for seed in range(4):
        assert len(split_stratified(dataset, 0.99, seed).query) == 3
