"""The types that every data set is loaded into: samples with labels, and the three sets of a retrieval experiment."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .._base import checks
from .._base.quoting import quoted
from .images import ImageFiles, Skipped

UNLABELLED = "unlabelled"
"""Name of the only class of samples without labels."""

_NOTHING_TO_SPARE = "every class would lose its last sample. Give each class at least two samples, in different groups"


@dataclass(frozen=True)
class Dataset:
    """Labelled samples: images, or features computed beforehand.

    Attributes:
        inputs: images, uint8 [N, H, W] (grey) or [N, 3, H, W] (RGB), as a tensor or as `ImageFiles`, which decode on access; or
            features, float32 [N, D].
        labels: class ids in [0, C), int64 [N]; or bool [N, C], if samples can have several classes or none.
        class_names: C names, one per class.
        name: description of the source, for messages.
        paths: files of the images, or None.
        class_distance: distances between the classes, float32 [C, C] in [0, 1], symmetric, zero on the diagonal; or None.
        groups: group of each sample, int64 [N], or None. A split never separates the samples of a group (near-duplicates, for
            example).
        skipped: files of the source that were left out, with the reasons.
        validation: samples that the source of a training set provides for choosing the best epoch; or None.

    Raises:
        ValueError: shapes, dtypes or values that do not fit together.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> dataset = Dataset(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]), ("cat", "dog"), "toy")
        >>> len(dataset), dataset.is_images, dataset.is_multilabel, dataset.sample_shape
        (4, False, False, (2,))
        >>> dataset.subset(torch.tensor([2])).labels
        tensor([1])
    """

    inputs: Tensor | ImageFiles
    labels: Tensor
    class_names: tuple[str, ...]
    name: str
    paths: tuple[Path, ...] | None = None
    class_distance: Tensor | None = None
    groups: Tensor | None = None
    skipped: tuple[Skipped, ...] = ()
    validation: "Dataset | None" = None

    def __post_init__(self) -> None:
        """Raise ValueError if shapes, dtypes or values do not fit together."""
        images = self.inputs.dtype == torch.uint8 and self.inputs.ndim in (3, 4)
        features = self.inputs.dtype == torch.float32 and self.inputs.ndim == 2
        if not (images or features):
            raise ValueError(
                f"Dataset {self.name}: inputs must be images uint8 [N, H, W] or [N, 3, H, W], or features float32 [N, D]; "
                f"got {checks.describe(self.inputs)}"
            )
        if self.paths is not None and len(self.paths) != len(self.inputs):
            raise ValueError(f"Dataset {self.name}: paths must be one per sample, {len(self.inputs)}; got {len(self.paths)}")
        self._check_labels()
        if self.groups is not None and (self.groups.dtype != torch.int64 or self.groups.shape != (len(self.inputs),)):
            raise ValueError(
                f"Dataset {self.name}: groups must be int64 [{len(self.inputs)}], one per sample; "
                f"got {checks.describe(self.groups)}"
            )
        if self.class_distance is not None:
            _check_class_distance(self.name, self.class_distance, len(self.class_names))

    def _check_labels(self) -> None:
        """Raise ValueError if the labels do not fit the samples and class names."""
        samples, classes = len(self.inputs), len(self.class_names)
        ids = self.labels.dtype == torch.int64 and self.labels.shape == (samples,)
        multi_hot = self.labels.dtype == torch.bool and self.labels.shape == (samples, classes)
        if not (ids or multi_hot):
            raise ValueError(
                f"Dataset {self.name}: labels must be int64 [{samples}], one class id per sample, or bool "
                f"[{samples}, {classes}], one column per class name; got {checks.describe(self.labels)}"
                + (". Pass a column of class ids as labels[:, 0].long()" if self.labels.shape == (samples, 1) else "")
            )
        if ids and samples and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            raise ValueError(
                f"Dataset {self.name}: labels must lie in [0, {classes}), one id per class name; "
                f"got {int(self.labels.min())} to {int(self.labels.max())}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_images(self) -> bool:
        """True for images, False for features."""
        return self.inputs.dtype == torch.uint8

    @property
    def is_labelled(self) -> bool:
        """False if the source has no labels. All samples are then of the class UNLABELLED."""
        return self.class_names != (UNLABELLED,)

    @property
    def is_multilabel(self) -> bool:
        """True if `labels` are bool [N, C], False if they are class ids [N]."""
        return self.labels.ndim == 2

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of a sample: (channels, height, width) of an image, or (D,) of a feature vector."""
        shape = tuple(self.inputs.shape[1:])
        return (1, *shape) if len(shape) == 2 else shape

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """Iterate over the inputs at each of `rows`, int64 [M]. Meanwhile threads decode the image files of the next batches."""
        if isinstance(self.inputs, ImageFiles):
            return self.inputs.batches(rows)
        inputs = self.inputs
        return (inputs[batch] for batch in rows)

    def subset(self, indices: Tensor) -> "Dataset":
        """Return the samples at `indices`, int64 [M], in that order, with all class names, class distances and skipped files."""
        return replace(
            self,
            inputs=self.inputs.subset(indices) if isinstance(self.inputs, ImageFiles) else self.inputs[indices],
            labels=self.labels[indices],
            paths=None if self.paths is None else tuple(self.paths[i] for i in indices.tolist()),
            groups=None if self.groups is None else self.groups[indices],
        )


class Splits(NamedTuple):
    """The three sets of a retrieval experiment.

    Attributes:
        train: the training set.
        gallery: the set that is searched; often the training set itself.
        query: the queries.

    Example:
        >>> from orthohash_triton import data
        >>> splits = data.load_splits("digits")
        >>> splits.train is splits.gallery, len(splits.query), splits.skipped
        (True, 359, ())
    """

    train: Dataset
    gallery: Dataset
    query: Dataset

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Files that were left out of any of the sets, each once."""
        sets = [self.train, self.gallery, self.query, *([self.train.validation] if self.train.validation else [])]
        return tuple(dict.fromkeys(file for dataset in sets for file in dataset.skipped))


def split_stratified(dataset: Dataset, query_fraction: float, seed: int) -> Splits:
    """Hold out a fraction of the samples as queries. The rest is both training set and gallery.

    With class ids, `query_fraction` of every class is held out, but at least one sample; a class of one sample stays in the
    gallery. With multi-hot labels or groups, `query_fraction` of all samples is drawn, group by group. A group stays in the
    gallery if it holds the last sample of a class, or a sample without a class, for which no result would be relevant. The split
    depends only on `seed`, the labels and the groups.

    Raises:
        ValueError: `query_fraction` is not between 0 and 1, or nothing can be held out.

    Example:
        >>> import torch
        >>> from orthohash_triton import data
        >>> dataset = data.Dataset(torch.zeros(10, 2), torch.arange(10) % 2, ("even", "odd"), "toy")
        >>> train, gallery, query = data.split_stratified(dataset, 0.4, seed=0)
        >>> len(gallery), query.labels.tolist()
        (6, [0, 1, 0, 1])
    """
    gallery, queries = _hold_out(dataset, "query_fraction", query_fraction, seed)
    if len(queries) == 0:
        raise ValueError(f"{dataset.name} leaves no query: {_NOTHING_TO_SPARE}")
    return Splits(gallery, gallery, queries)


def split_validation(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Divide a training set into (training set, validation set), as `split_stratified` holds out queries.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or nothing can be held out.

    Example:
        >>> import torch
        >>> from orthohash_triton import data
        >>> dataset = data.Dataset(torch.zeros(10, 2), torch.arange(10) % 2, ("even", "odd"), "toy")
        >>> train, validation = data.split_validation(dataset, 0.2, seed=0)
        >>> len(train), len(validation)
        (8, 2)
    """
    train, validation = _hold_out(dataset, "fraction", fraction, seed)
    if len(validation) == 0:
        raise ValueError(f"{dataset.name} leaves no sample for validation: {_NOTHING_TO_SPARE}")
    return train, validation


def _hold_out(dataset: Dataset, argument: str, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Return (kept samples, held-out samples); `argument` is the name of `fraction` in messages."""
    if not 0 < fraction < 1:
        raise ValueError(f"{argument} must lie between 0 and 1; got {quoted(fraction)}")
    generator = torch.Generator().manual_seed(seed)
    by_group = dataset.is_multilabel or dataset.groups is not None
    held_out = (_draw_by_group if by_group else _draw_by_class)(dataset, fraction, generator)  # bool [N]
    return dataset.subset((~held_out).nonzero().flatten()), dataset.subset(held_out.nonzero().flatten())


def _draw_by_class(dataset: Dataset, fraction: float, generator: torch.Generator) -> Tensor:
    """Draw a fraction of the samples of every class, and return which samples are held out, bool [N]."""
    held_out = torch.zeros(len(dataset), dtype=torch.bool)
    counts = dataset.labels.bincount(minlength=len(dataset.class_names))
    for members in dataset.labels.argsort(stable=True).split(counts.tolist()):
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(round(fraction * len(members)), 1), len(members) - 1) if len(members) else 0
        held_out[members[:count]] = True
    return held_out


def _draw_by_group(dataset: Dataset, fraction: float, generator: torch.Generator) -> Tensor:
    """Draw whole groups in random order up to a fraction of all samples, and return which samples are held out, bool [N]."""
    samples, labels = len(dataset), dataset.labels
    groups = torch.arange(samples) if dataset.groups is None else dataset.groups.unique(return_inverse=True)[1]
    members = groups.argsort(stable=True).split(groups.bincount().tolist())  # positions [n_g] of the samples of each group
    # The samples of each class that stay, [C].
    left = labels.sum(0) if dataset.is_multilabel else labels.bincount(minlength=len(dataset.class_names))
    wanted = max(round(fraction * samples), 1)
    held_out = torch.zeros(samples, dtype=torch.bool)
    for group in torch.randperm(len(members), generator=generator).tolist():
        positions = members[group]
        own = labels[positions]
        classes, counts = _count_by_class(own)
        fits = len(positions) <= wanted and (own.ndim == 1 or bool(own.any(1).all()))
        if fits and bool((left[classes] > counts).all()):
            held_out[positions] = True
            left[classes] -= counts
            wanted -= len(positions)
        if wanted == 0:
            break
    return held_out


def _count_by_class(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes in `labels`, [n] or [n, C], and their numbers of samples. No [n, C] matrix is made of class ids."""
    if labels.ndim == 1:
        classes, counts = labels.unique(return_counts=True)
        return classes, counts
    counts = labels.sum(0)
    classes = counts.nonzero().flatten()
    return classes, counts[classes]


def _check_class_distance(name: str, distance: Tensor, classes: int) -> None:
    """Raise ValueError if `distance` is not a matrix of distances between `classes` classes."""
    expected = f"Dataset {name}: class_distance must be float32 [{classes}, {classes}] in [0, 1], symmetric, zero on the diagonal"
    if distance.dtype != torch.float32 or distance.shape != (classes, classes):
        raise ValueError(f"{expected}; got {checks.describe(distance)}")
    if not ((distance >= 0) & (distance <= 1)).all():
        raise ValueError(f"{expected}; got values from {float(distance.min())} to {float(distance.max())}")
    if not torch.equal(distance, distance.T) or bool(distance.diagonal().any()):
        raise ValueError(f"{expected}; got an asymmetric one or one with a diagonal other than zero")
