"""Features computed beforehand, in a .npz or .safetensors file with the keys `features` [N, D] and `labels` [N].

One file is split by a seed; a folder with train.*, query.* (and gallery.*) is split by hand.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, Splits, split_stratified

EXTENSIONS = (".npz", ".safetensors")


def load(path: str | Path) -> Dataset:
    """The features of one file, as float32 [N, D] (converted from any floating type), and its labels as int64 [N].

    An optional key `class_names` (.npz only) names the classes; they are numbered otherwise.
    """
    path = Path(path)
    arrays = _read(path)
    features, labels = _checked_features(path, arrays), torch.as_tensor(_member_of(path, arrays, "labels"))
    if labels.shape != (len(features),) or labels.is_floating_point():
        raise ValueError(
            f"{path}: labels must be integers [{len(features)}], one per row; got {labels.dtype} {list(labels.shape)}"
        )
    classes = int(labels.max()) + 1 if len(labels) else 0
    names = tuple(map(str, arrays["class_names"])) if "class_names" in arrays else tuple(map(str, range(classes)))
    return Dataset(features, labels.long(), names, str(path))


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


def _member_of(path: Path, arrays: dict[str, Any], key: str) -> Any:
    if key not in arrays:
        raise ValueError(
            f"{path} lacks the key {key!r}; it has {', '.join(sorted(arrays)) or 'nothing'}. "
            "Expected features [N, D] and labels [N]"
        )
    return arrays[key]


def load_splits(path: str | Path, *, query_fraction: float = 0.1, seed: int = 0) -> Splits:
    """The three sets of a features file (by `seed`), or of a folder holding train, query and perhaps gallery files."""
    path = Path(path)
    if not path.is_dir():
        return split_stratified(load(path), query_fraction, seed)
    train, query = load(_member(path, "train")), load(_member(path, "query"))
    gallery = load(_member(path, "gallery")) if has_member(path, "gallery") else train
    names = max((train.class_names, query.class_names, gallery.class_names), key=len)
    train, gallery, query = (Dataset(part.inputs, part.labels, names, part.name) for part in (train, gallery, query))
    return Splits(train, gallery, query)


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
