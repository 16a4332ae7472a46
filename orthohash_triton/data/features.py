"""Files of features: .npz or .safetensors with the keys `features` [N, D] and `labels`, or .npy.

`labels` are class ids [N], or zeros and ones [N, C] if a row can have several classes or none. Optional keys are `class_distance`
[C, C] and `groups` [N], and in .npz files also `class_names` [C] and `name`; see `Dataset`. The labels of X.npy are in
X.labels.npy. A file without labels is an unlabelled data set.

With `class_names` or `class_distance`, class ids are positions in them. Without, they may have gaps: the classes are those that
occur, and are called by their ids.

One file is split at random. A folder with train.* and query.* (and gallery.*, validation.*) has its own split.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base import checks, formats
from .._base.files import atomic_write
from .._base.quoting import quoted
from .._base.reading import reader
from ._parts import Part, make_datasets, make_part
from .dataset import Dataset, Splits
from .listing import PARTS, part_places, splits_of

EXTENSIONS = (".npz", ".safetensors", ".npy")


@reader("file of features")
def load(path: str | Path, *, labels: str | Path | None = None) -> Dataset:
    """Load the features of one file, as float32 [N, D], with their labels.

    Features of any floating type are converted. Labels of one dimension become int64 [N], a matrix becomes bool [N, C].

    Args:
        path: a .npz, .safetensors or .npy file.
        labels: a .npy file of labels. Default for X.npy: X.labels.npy, if it exists.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file cannot be read, or its arrays have other shapes, types or values than described above.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from orthohash_triton.data import features
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mine.npz"
        ...     np.savez(path, features=np.ones((3, 2)), labels=np.array([0, 2, 2]))
        ...     dataset = features.load(path)
        >>> dataset.inputs.dtype, dataset.class_names
        (torch.float32, ('0', '2'))
    """
    return make_datasets([_read_part(Path(path), labels)])[0]


@reader("file of features")
def open_rows(path: str | Path) -> np.ndarray:
    """Return the features of one file, floating [N, D]. Those of a .npy file are mapped into memory and read on access.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from orthohash_triton.data import features
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder) / "rows.npy", np.ones((3, 2)))
        ...     type(features.open_rows(Path(folder) / "rows.npy")).__name__
        'memmap'
    """
    path = Path(path)
    arrays = {"features": _read_npy(path, mmap=True)} if path.suffix == ".npy" else _read(path)
    return _floating(path, arrays)


def save(path: str | Path, dataset: Dataset) -> None:
    """Write `dataset`, which holds features, as a .npz file that `load` reads back unchanged.

    Raises:
        ValueError: `dataset` holds images, or `path` does not end in .npz.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from orthohash_triton.data import Dataset, features
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dataset = Dataset(torch.ones(2, 3), torch.tensor([0, 1]), ("cat", "dog"), "toy")
        ...     features.save(Path(folder) / "toy.npz", dataset)
        ...     features.load(Path(folder) / "toy.npz").class_names
        ('cat', 'dog')
    """
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


@reader("file of features")
def load_unlabelled(path: str | Path) -> Tensor:
    """Load the features of one file, float32 [N, D], and ignore its labels.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it cannot be read, or holds no features.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from orthohash_triton.data import features
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder) / "rows.npy", np.ones((3, 2)))
        ...     features.load_unlabelled(Path(folder) / "rows.npy").shape
        torch.Size([3, 2])
    """
    return _checked_features(Path(path), _read(Path(path)))


def checked_rows(path: str | Path, rows: np.ndarray) -> Tensor:
    """Convert `rows` [M, D] of the features in the file `path` to a float32 tensor.

    Raises:
        ValueError: they hold NaN or infinity, or values that are too large for float32.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton.data import features
        >>> features.checked_rows("rows.npy", np.array([[1.0, np.nan]]))
        Traceback (most recent call last):
        ...
        ValueError: rows.npy: features hold NaN or infinity; remove those rows
    """
    with np.errstate(over="ignore"):  # values that are too large for float32 become infinite, which is an error below
        features = torch.from_numpy(np.require(rows, np.float32, "W"))
    if not torch.isfinite(features).all():
        raise ValueError(f"{path}: features hold NaN or infinity; remove those rows")
    return features


@reader("file of features")
def _read_part(path: Path, labels: str | Path | None = None) -> Part:
    """Read one file of features with everything beside them; see `load`."""
    arrays = _read(path)
    if (place := _labels_file(path, labels)) is not None:
        arrays["labels"] = _read_npy(place)
    features = _checked_features(path, arrays)
    if not set(arrays) <= {"features", "name"}:
        _member_of(path, arrays, "labels")
    return make_part(path, features, arrays, place or path)


def _checked_features(path: Path, arrays: dict[str, Any]) -> Tensor:
    """Return the features of `arrays` as float32 [N, D]."""
    return checked_rows(path, _floating(path, arrays))


def _floating(path: Path, arrays: dict[str, Any]) -> np.ndarray:
    """Return the features of `arrays` as a numpy array, after a check of shape and type."""
    features = _member_of(path, arrays, "features")
    if isinstance(features, Tensor):
        if not features.is_floating_point():
            raise ValueError(f"{path}: features must be floating [N, D]; got {features.dtype} {list(features.shape)}")
        features = features.float().numpy()  # numpy has no bfloat16
    if features.ndim != 2 or features.dtype.kind != "f":
        raise ValueError(f"{path}: features must be floating [N, D]; got {features.dtype} {list(features.shape)}")
    return features


def _member_of(path: Path, arrays: dict[str, Any], key: str) -> Any:
    """Return `arrays[key]`. Raise ValueError if there is no such key."""
    if key not in arrays:
        raise ValueError(
            f"{path} lacks the key {quoted(key)}; it has {', '.join(sorted(arrays)) or 'nothing'}. "
            "Expected features [N, D] and labels [N] or [N, C]"
        )
    return arrays[key]


def load_splits(path: str | Path, *, query_fraction: float = 0.1, seed: int = 0, labels: str | Path | None = None) -> Splits:
    """Load the three sets from one file, split at random, or from a folder of train, query and perhaps gallery files.

    Args:
        path: a file, or a folder of files.
        query_fraction, seed: see `split_stratified`; for one file.
        labels: see `load`; for one file.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be read, or the parts do not fit together.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from orthohash_triton.data import features
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part, count in (("train", 4), ("query", 2)):
        ...         np.savez(Path(folder) / f"{part}.npz", features=np.ones((count, 3)), labels=np.arange(count) % 2)
        ...     [len(part) for part in features.load_splits(folder)]
        [4, 4, 2]
    """
    path = Path(path)
    if not path.is_dir():
        return splits_of({"all": load(path, labels=labels)}, str(path), query_fraction=query_fraction, seed=seed)
    places = {part: member(path, part) for part in PARTS if part in ("train", "query") or has_member(path, part)}
    datasets = make_datasets([_read_part(place) for place in places.values()])
    return splits_of(dict(zip(places, datasets, strict=True)), str(path), query_fraction=query_fraction, seed=seed)


def has_member(folder: Path, part: str) -> bool:
    """Return True if `folder` holds a file of features of `part` (see PARTS), with any of EXTENSIONS.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data import features
        >>> features.has_member(Path("/nowhere"), "train")
        False
    """
    return bool(_members(folder, part))


def member(folder: Path, part: str) -> Path:
    """Return the file of features of `part` (see PARTS) in `folder`, with any of EXTENSIONS.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data import features
        >>> features.member(Path("/nowhere"), "train")
        Traceback (most recent call last):
        ...
        FileNotFoundError: /nowhere has none of train.npz, train.safetensors, train.npy
    """
    found = _members(folder, part)
    if not found:
        raise FileNotFoundError(f"{folder} has none of {', '.join(part + extension for extension in EXTENSIONS)}")
    if len(found) > 1:
        raise ValueError(f"{folder} has both {found[0].name} and {found[1].name}, two files of one part; keep one")
    return found[0]


def _members(folder: Path, part: str) -> list[Path]:
    """Return the files of features of `part` in `folder`."""
    places = (part_places(folder, extension, Path.is_file) for extension in EXTENSIONS)
    return [own[part] for own in places if part in own]


def _read(path: Path) -> dict[str, Any]:
    """Read all arrays of a file of features, by key."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a .npz, .safetensors or .npy file of features")
    if path.suffix == ".safetensors":
        return formats.read_tensors(path)
    if path.suffix == ".npy":
        return {"features": _read_npy(path)}
    if path.suffix != ".npz":
        raise ValueError(f"{path}: expected a .npz, .safetensors or .npy file; got {path.suffix or 'no extension'}")
    return formats.read_npz(path)


def _read_npy(path: Path, *, mmap: bool = False) -> np.ndarray:
    """Read the array of a .npy file, or map it into memory."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a .npy file")
    return formats.read_npy(path, mmap=mmap)


def _labels_file(path: Path, labels: str | Path | None) -> Path | None:
    """Return the file of the labels that belong to the features at `path`, or None if the features file itself holds them."""
    if labels is not None:
        return Path(labels)
    default = path.with_suffix(".labels.npy")
    return default if path.suffix == ".npy" and default.is_file() else None
