"""Features computed beforehand, in a .npz or .safetensors file with the keys `features` [N, D] and `labels`.

`labels` are class ids [N], or a matrix of zeros and ones [N, C] where a row has several classes or none. Optional keys:
`class_distance` [C, C] and `groups` [N], and in .npz files `class_names` [C] and `name`, as in `Dataset`.

One file is split by a seed; a folder with train.*, query.* (and gallery.*) is split by hand.
"""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._files import atomic_write
from ..ops import _checks
from .dataset import Dataset, Splits, split_stratified

EXTENSIONS = (".npz", ".safetensors")


def load(path: str | Path) -> Dataset:
    """The features of one file, as float32 [N, D] (converted from any floating type), with their labels.

    Labels of one dimension become int64 [N], a matrix becomes bool [N, C]; classes without names are numbered.
    """
    path = Path(path)
    arrays = _read(path)
    features = _checked_features(path, arrays)
    labels = _checked_labels(path, torch.as_tensor(_member_of(path, arrays, "labels")), len(features))
    distance = torch.as_tensor(arrays["class_distance"]).float() if "class_distance" in arrays else None
    groups = torch.as_tensor(arrays["groups"]).long() if "groups" in arrays else None
    name = str(arrays["name"]) if "name" in arrays else str(path)
    names = arrays["class_names"] if "class_names" in arrays else range(_count_classes(labels, distance))
    return Dataset(features, labels, tuple(map(str, names)), name, class_distance=distance, groups=groups)


def save(path: str | Path, dataset: Dataset) -> None:
    """Write features as a .npz file that `load` reads back unchanged."""
    path = Path(path)
    if dataset.is_images or path.suffix != ".npz":
        raise ValueError(
            f"features.save: expected features [N, D] and a path ending in .npz; got {_checks.describe(dataset.inputs)}, {path}"
        )
    arrays: dict[str, Any] = {
        "features": dataset.inputs.numpy(),
        "labels": dataset.labels.numpy(),
        "class_names": np.array(dataset.class_names),
        "name": np.array(dataset.name),
    }
    for key in ("class_distance", "groups"):
        if (values := getattr(dataset, key)) is not None:
            arrays[key] = values.numpy()
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def load_unlabelled(path: str | Path) -> Tensor:
    """The features of one file, float32 [N, D], whether or not it has labels."""
    return _checked_features(Path(path), _read(Path(path)))


def _checked_features(path: Path, arrays: dict[str, Any]) -> Tensor:
    features = torch.as_tensor(_member_of(path, arrays, "features"))
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"{path}: features must be floating [N, D]; got {features.dtype} {list(features.shape)}")
    if not torch.isfinite(features).all():
        raise ValueError(f"{path}: features hold NaN or infinity; remove those rows")
    return features.float()


def _checked_labels(path: Path, labels: Tensor, rows: int) -> Tensor:
    """int64 [N] of integers [N], bool [N, C] of a matrix of zeros and ones."""
    if labels.ndim not in (1, 2) or len(labels) != rows or (labels.ndim == 1 and labels.is_floating_point()):
        raise ValueError(
            f"{path}: labels must be integers [{rows}], one per row, or zeros and ones [{rows}, C]; "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    if labels.ndim == 1:
        return labels.long()
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"{path}: labels [N, C] must be zeros and ones; got values from {labels.min()} to {labels.max()}")
    return labels.bool()


def _count_classes(labels: Tensor, distance: Tensor | None) -> int:
    if labels.ndim == 2:
        return labels.shape[1]
    if distance is not None:
        return len(distance)
    return int(labels.max()) + 1 if len(labels) else 0


def _member_of(path: Path, arrays: dict[str, Any], key: str) -> Any:
    if key not in arrays:
        raise ValueError(
            f"{path} lacks the key {key!r}; it has {', '.join(sorted(arrays)) or 'nothing'}. "
            "Expected features [N, D] and labels [N] or [N, C]"
        )
    return arrays[key]


def load_splits(path: str | Path, *, query_fraction: float = 0.1, seed: int = 0) -> Splits:
    """The three sets of a features file (by `seed`), or of a folder holding train, query and perhaps gallery files."""
    path = Path(path)
    if not path.is_dir():
        return split_stratified(load(path), query_fraction, seed)
    train, query = load(_member(path, "train")), load(_member(path, "query"))
    gallery = load(_member(path, "gallery")) if has_member(path, "gallery") else train
    if len({part.labels.shape[1:] for part in (train, gallery, query)}) > 1:
        shapes = ", ".join(f"{part.name} {list(part.labels.shape)}" for part in (train, gallery, query))
        raise ValueError(f"{path}: every part must have labels of one kind, [N] or [N, C] with one C; got {shapes}")
    names = max((train.class_names, query.class_names, gallery.class_names), key=len)
    distance = train.class_distance
    return Splits(*(replace(part, class_names=names, class_distance=distance) for part in (train, gallery, query)))


def has_member(folder: Path, stem: str) -> bool:
    return any((folder / f"{stem}{extension}").is_file() for extension in EXTENSIONS)


def _member(folder: Path, stem: str) -> Path:
    for extension in EXTENSIONS:
        if (folder / f"{stem}{extension}").is_file():
            return folder / f"{stem}{extension}"
    raise FileNotFoundError(f"{folder} has neither {stem}.npz nor {stem}.safetensors")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a .npz or .safetensors file of features")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable .safetensors file ({error})") from error
    if path.suffix != ".npz":
        raise ValueError(f"{path}: expected a .npz or .safetensors file; got {path.suffix or 'no extension'}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable .npz file ({error})") from error
