"""What every source of data answers with: samples with labels, and the three sets of a retrieval experiment."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import _checks


@dataclass(frozen=True)
class Dataset:
    """Labelled samples: images, or features computed beforehand.

    inputs       uint8 [N, H, W] (grey) or [N, 3, H, W] (RGB) for images; float32 [N, D] for features
    labels       int64 [N], class ids in [0, len(class_names))
    class_names  one name per class id
    name         where the samples came from, for people
    paths        the files of the images, where there are any
    """

    inputs: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    name: str
    paths: tuple[Path, ...] | None = None

    def __post_init__(self) -> None:
        images = self.inputs.dtype == torch.uint8 and self.inputs.ndim in (3, 4)
        features = self.inputs.dtype == torch.float32 and self.inputs.ndim == 2
        if not (images or features):
            raise ValueError(
                f"Dataset {self.name}: inputs must be images uint8 [N, H, W] or [N, 3, H, W], or features float32 [N, D]; "
                f"got {_checks.describe(self.inputs)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != (len(self.inputs),):
            raise ValueError(
                f"Dataset {self.name}: labels must be int64 [{len(self.inputs)}], one per sample; "
                f"got {_checks.describe(self.labels)}"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise ValueError(
                f"Dataset {self.name}: labels must lie in [0, {len(self.class_names)}), one id per class name; "
                f"got {int(self.labels.min())} to {int(self.labels.max())}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_images(self) -> bool:
        return self.inputs.dtype == torch.uint8

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image, or (D,) of one feature vector."""
        shape = tuple(self.inputs.shape[1:])
        return (1, *shape) if len(shape) == 2 else shape

    def subset(self, indices: Tensor) -> "Dataset":
        """The samples at `indices`, int64 [M], in that order."""
        paths = None if self.paths is None else tuple(self.paths[i] for i in indices.tolist())
        return Dataset(self.inputs[indices], self.labels[indices], self.class_names, self.name, paths)


class Splits(NamedTuple):
    """The sets of a retrieval experiment: learn on `train`, search `gallery` for each of `query`."""

    train: Dataset
    gallery: Dataset
    query: Dataset


def split_stratified(dataset: Dataset, query_fraction: float, seed: int) -> Splits:
    """Hold out `query_fraction` of every class as queries; the rest is both training set and gallery.

    The split depends on `seed` and the labels alone. A class of one sample stays in the gallery.
    """
    if not 0 < query_fraction < 1:
        raise ValueError(f"query_fraction must lie between 0 and 1; got {query_fraction!r}")
    generator = torch.Generator().manual_seed(seed)
    query, rest = [], []
    for label in range(len(dataset.class_names)):
        members = (dataset.labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = min(max(round(query_fraction * len(members)), 1), len(members) - 1) if len(members) else 0
        query.append(members[:held_out])
        rest.append(members[held_out:])
    gallery = dataset.subset(torch.cat(rest).sort().values)
    queries = dataset.subset(torch.cat(query).sort().values)
    if len(queries) == 0:
        raise ValueError(f"{dataset.name} leaves no query: every class has a single sample. Give each class at least two")
    return Splits(gallery, gallery, queries)
