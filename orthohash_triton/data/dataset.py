"""What every source of data answers with: samples with labels, and the three sets of a retrieval experiment."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .._base import checks
from .images import ImageFiles, Skipped

UNLABELLED = "unlabelled"
"""The one class of samples that came without labels."""

_NOTHING_TO_SPARE = "every class would lose its last sample. Give each class at least two, in groups of their own"


@dataclass(frozen=True)
class Dataset:
    """Labelled samples: images, or features computed beforehand.

    inputs          uint8 [N, H, W] (grey) or [N, 3, H, W] (RGB) for images, a tensor or `ImageFiles`, which decodes when asked;
                    float32 [N, D] for features
    labels          int64 [N], class ids in [0, C); or, where a sample has several classes or none, bool [N, C]
    class_names     one name per class: C of them
    name            where the samples came from, for people
    paths           the files of the images, where there are any
    class_distance  float32 [C, C], how far apart the classes are: in [0, 1], symmetric, zero on the diagonal
    groups          int64 [N]: samples of one group never come apart when the set is split (near-duplicates, for example)
    skipped         the files of the source that were left out, and why
    validation      of a training set: the samples that its source sets aside for choosing the best epoch
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
        samples, classes = len(self.inputs), len(self.class_names)
        ids = self.labels.dtype == torch.int64 and self.labels.shape == (samples,)
        multi_hot = self.labels.dtype == torch.bool and self.labels.shape == (samples, classes)
        if not (ids or multi_hot):
            raise ValueError(
                f"Dataset {self.name}: labels must be int64 [{samples}], one class id per sample, or bool "
                f"[{samples}, {classes}], one column per class name; got {checks.describe(self.labels)}"
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
        return self.inputs.dtype == torch.uint8

    @property
    def is_labelled(self) -> bool:
        """False where the source had no labels: every sample is then of the one class UNLABELLED."""
        return self.class_names != (UNLABELLED,)

    @property
    def is_multilabel(self) -> bool:
        """Whether `labels` are bool [N, C] rather than class ids [N]."""
        return self.labels.ndim == 2

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image, or (D,) of one feature vector."""
        shape = tuple(self.inputs.shape[1:])
        return (1, *shape) if len(shape) == 2 else shape

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """The inputs of each of `rows`, int64 [M], in turn; of image files, threads decode the next batches meanwhile."""
        if isinstance(self.inputs, ImageFiles):
            return self.inputs.batches(rows)
        inputs = self.inputs
        return (inputs[some] for some in rows)

    def subset(self, indices: Tensor) -> "Dataset":
        """The samples at `indices`, int64 [M], in that order; class names, class distances and what was skipped stay."""
        return replace(
            self,
            inputs=self.inputs.subset(indices) if isinstance(self.inputs, ImageFiles) else self.inputs[indices],
            labels=self.labels[indices],
            paths=None if self.paths is None else tuple(self.paths[i] for i in indices.tolist()),
            groups=None if self.groups is None else self.groups[indices],
        )


class Splits(NamedTuple):
    """The sets of a retrieval experiment: learn on `train`, search `gallery` for each of `query`."""

    train: Dataset
    gallery: Dataset
    query: Dataset

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The files of the sources of all sets that were left out, each once."""
        sets = [self.train, self.gallery, self.query, *([self.train.validation] if self.train.validation else [])]
        return tuple(dict.fromkeys(file for dataset in sets for file in dataset.skipped))


def split_stratified(dataset: Dataset, query_fraction: float, seed: int) -> Splits:
    """Hold out `query_fraction` of the samples as queries; the rest is both training set and gallery.

    Of class ids, that fraction of every class is held out, one sample at least; a class of one sample stays in the gallery.
    Of multi-hot labels, or with groups, that fraction of the whole is drawn, group by group. A group that would take the last
    sample of a class out of the gallery stays there, and so does one that has a sample of no class, for which no answer is
    right. The split depends on `seed`, the labels and the groups alone.

    Raises:
        ValueError: nothing can be held out.
    """
    gallery, queries = _hold_out(dataset, "query_fraction", query_fraction, seed)
    if len(queries) == 0:
        raise ValueError(f"{dataset.name} leaves no query: {_NOTHING_TO_SPARE}")
    return Splits(gallery, gallery, queries)


def split_validation(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """(training set, validation set): the two parts of a training set, disjoint, held out as `split_stratified` does."""
    train, validation = _hold_out(dataset, "fraction", fraction, seed)
    if len(validation) == 0:
        raise ValueError(f"{dataset.name} leaves no sample for validation: {_NOTHING_TO_SPARE}")
    return train, validation


def _hold_out(dataset: Dataset, argument: str, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    if not 0 < fraction < 1:
        raise ValueError(f"{argument} must lie between 0 and 1; got {fraction!r}")
    generator = torch.Generator().manual_seed(seed)
    by_group = dataset.is_multilabel or dataset.groups is not None
    held_out = (_draw_by_group if by_group else _draw_by_class)(dataset, fraction, generator)  # bool [N]
    return dataset.subset((~held_out).nonzero().flatten()), dataset.subset(held_out.nonzero().flatten())


def _draw_by_class(dataset: Dataset, fraction: float, generator: torch.Generator) -> Tensor:
    held_out = torch.zeros(len(dataset), dtype=torch.bool)
    for label in range(len(dataset.class_names)):
        members = (dataset.labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(round(fraction * len(members)), 1), len(members) - 1) if len(members) else 0
        held_out[members[:count]] = True
    return held_out


def _draw_by_group(dataset: Dataset, fraction: float, generator: torch.Generator) -> Tensor:
    samples, classes = len(dataset), len(dataset.class_names)
    labels = dataset.labels if dataset.is_multilabel else dataset.labels[:, None] == torch.arange(classes)  # [N, C]
    groups = torch.arange(samples) if dataset.groups is None else dataset.groups.unique(return_inverse=True)[1]
    members = groups.argsort(stable=True).split(groups.bincount().tolist())  # positions [n_g] of each of the G groups
    left = labels.sum(0)  # [C], samples of each class that are still in the gallery
    wanted = max(round(fraction * samples), 1)
    held_out = torch.zeros(samples, dtype=torch.bool)
    for group in torch.randperm(len(members), generator=generator).tolist():
        positions = members[group]
        own = labels[positions]  # [n_g, C]
        counts = own.sum(0)
        fits = len(positions) <= wanted and bool(own.any(1).all())
        if fits and bool((left > counts)[counts > 0].all()):
            held_out[positions] = True
            left -= counts
            wanted -= len(positions)
        if wanted == 0:
            break
    return held_out


def _check_class_distance(name: str, distance: Tensor, classes: int) -> None:
    expected = f"Dataset {name}: class_distance must be float32 [{classes}, {classes}] in [0, 1], symmetric, zero on the diagonal"
    if distance.dtype != torch.float32 or distance.shape != (classes, classes):
        raise ValueError(f"{expected}; got {checks.describe(distance)}")
    if not ((distance >= 0) & (distance <= 1)).all():
        raise ValueError(f"{expected}; got values from {float(distance.min())} to {float(distance.max())}")
    if not torch.equal(distance, distance.T) or bool(distance.diagonal().any()):
        raise ValueError(f"{expected}; got an asymmetric one or one with a diagonal other than zero")
