"""Features computed beforehand, in a .npz or .safetensors file with the keys `features` [N, D] and `labels`, or in .npy files.

`labels` are class ids [N], or a matrix of zeros and ones [N, C] where a row has several classes or none. Optional keys:
`class_distance` [C, C] and `groups` [N], and in .npz files `class_names` [C] and `name`, as in `Dataset`. The labels of X.npy are
in X.labels.npy. A file of features and nothing else is unlabelled.

One file is split by a seed; a folder with train.*, query.* (and gallery.*, validation.*) is split by hand.
"""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.files import atomic_write
from .dataset import UNLABELLED, Dataset, Splits
from .listing import PARTS, splits_of

EXTENSIONS = (".npz", ".safetensors", ".npy")


def load(path: str | Path, *, labels: str | Path | None = None) -> Dataset:
    """The features of one file, as float32 [N, D] (converted from any floating type), with their labels.

    Labels of one dimension become int64 [N], a matrix becomes bool [N, C]; classes without names are numbered.

    labels  a .npy file of labels; of X.npy it is X.labels.npy unless said otherwise

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or its arrays are not of the kinds above.
    """
    path = Path(path)
    arrays = _read(path)
    if (place := _labels_file(path, labels)) is not None:
        arrays["labels"] = _read_npy(place)
    features = _checked_features(path, arrays)
    name = str(arrays["name"]) if "name" in arrays else str(path)
    if set(arrays) <= {"features", "name"}:
        return Dataset(features, torch.zeros(len(features), dtype=torch.int64), (UNLABELLED,), name)
    given = _member_of(path, arrays, "labels")
    if isinstance(given, np.ndarray) and given.dtype.kind not in "biuf":
        raise ValueError(
            f"{place or path}: labels must be integers [N], or zeros and ones [N, C]; got {given.dtype} {list(given.shape)}. "
            "Number names with numpy.unique(labels, return_inverse=True), the same way in all files"
        )
    own = _checked_labels(place or path, torch.as_tensor(given), len(features))
    distance = torch.as_tensor(arrays["class_distance"]).float() if "class_distance" in arrays else None
    groups = torch.as_tensor(arrays["groups"]).long() if "groups" in arrays else None
    names = arrays["class_names"] if "class_names" in arrays else range(_count_classes(own, distance))
    return Dataset(features, own, tuple(map(str, names)), name, class_distance=distance, groups=groups)


def open_rows(path: str | Path) -> np.ndarray:
    """The features of one file, floating [N, D]; those of a .npy file stay in it and are read where they are looked at."""
    path = Path(path)
    arrays = {"features": _read_npy(path, mmap=True)} if path.suffix == ".npy" else _read(path)
    return _floating(path, arrays)


def save(path: str | Path, dataset: Dataset) -> None:
    """Write features as a .npz file that `load` reads back unchanged."""
    path = Path(path)
    if dataset.is_images or not isinstance(dataset.inputs, Tensor) or path.suffix != ".npz":
        raise ValueError(
            f"features.save: expected features [N, D] and a path ending in .npz; got {checks.describe(dataset.inputs)}, {path}"
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


def checked_rows(path: str | Path, rows: np.ndarray) -> Tensor:
    """Some rows of the features of a file, float32 [M, D].

    Raises:
        ValueError: they hold NaN or infinity.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
        features = torch.from_numpy(np.require(rows, np.float32, "W"))
    if not torch.isfinite(features).all():
        raise ValueError(f"{path}: features hold NaN or infinity; remove those rows")
    return features


def _checked_features(path: Path, arrays: dict[str, Any]) -> Tensor:
    return checked_rows(path, _floating(path, arrays))


def _floating(path: Path, arrays: dict[str, Any]) -> np.ndarray:
    features = _member_of(path, arrays, "features")
    if isinstance(features, Tensor):
        if not features.is_floating_point():
            raise ValueError(f"{path}: features must be floating [N, D]; got {features.dtype} {list(features.shape)}")
        features = features.float().numpy()  # of bfloat16, which numpy lacks
    if features.ndim != 2 or features.dtype.kind != "f":
        raise ValueError(f"{path}: features must be floating [N, D]; got {features.dtype} {list(features.shape)}")
    return features


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


def load_splits(path: str | Path, *, query_fraction: float = 0.1, seed: int = 0, labels: str | Path | None = None) -> Splits:
    """The three sets of a features file (by `seed`), or of a folder holding train, query and perhaps gallery files.

    labels  of one file, as `load`
    """
    path = Path(path)
    if not path.is_dir():
        return splits_of({"all": load(path, labels=labels)}, str(path), query_fraction=query_fraction, seed=seed)
    parts = {part: load(member(path, part)) for part in PARTS if part in ("train", "query") or has_member(path, part)}
    if len({part.labels.shape[1:] for part in parts.values()}) > 1:
        shapes = ", ".join(f"{part.name} {list(part.labels.shape)}" for part in parts.values())
        raise ValueError(f"{path}: every part must have labels of one kind, [N] or [N, C] with one C; got {shapes}")
    names = max((part.class_names for part in parts.values()), key=len)
    distance = parts["train"].class_distance
    parts = {name: replace(part, class_names=names, class_distance=distance) for name, part in parts.items()}
    return splits_of(parts, str(path), query_fraction=query_fraction, seed=seed)


def has_member(folder: Path, stem: str) -> bool:
    return any((folder / f"{stem}{extension}").is_file() for extension in EXTENSIONS)


def member(folder: Path, stem: str) -> Path:
    for extension in EXTENSIONS:
        if (folder / f"{stem}{extension}").is_file():
            return folder / f"{stem}{extension}"
    raise FileNotFoundError(f"{folder} has none of {', '.join(stem + extension for extension in EXTENSIONS)}")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a .npz, .safetensors or .npy file of features")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable .safetensors file ({error})") from error
    if path.suffix == ".npy":
        return {"features": _read_npy(path)}
    if path.suffix != ".npz":
        raise ValueError(f"{path}: expected a .npz, .safetensors or .npy file; got {path.suffix or 'no extension'}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable .npz file ({error})") from error


def _read_npy(path: Path, *, mmap: bool = False) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a .npy file")
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r" if mmap else None)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npy file ({error})") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive of arrays; name it .npz")
    return array


def _labels_file(path: Path, labels: str | Path | None) -> Path | None:
    """Where the labels of the features at `path` are, if not in that file."""
    if labels is not None:
        return Path(labels)
    beside = path.with_suffix(".labels.npy")
    return beside if path.suffix == ".npy" and beside.is_file() else None
