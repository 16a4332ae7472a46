"""The arrays beside the features of a file: labels, class names, distances and groups, checked and put together by part."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._base.arrays import as_tensor
from .._base.labels import class_name_text, flatten_column, is_integer
from .._base.quoting import quoted
from .._base.reading import naming
from ._spelling import find_similar
from .dataset import UNLABELLED, Dataset

KEYS = {  # the keys that a file may have beside features and labels, and names that probably mean them
    "class_names": ("classes", "names", "label_names", "classnames", "categories"),
    "class_distance": ("class_distances", "distance", "distances"),
    "groups": ("group", "group_ids"),
    "name": (),
}


class Part(NamedTuple):
    """One file of features.

    Attributes:
        path: the file.
        name: description, for messages.
        features: float32 [N, D].
        labels: class ids int64 [N], or bool [N, C]; None without labels.
        class_names: C names, or None.
        class_distance: float32 [C, C], or None.
        groups: int64 [N], or None.
    """

    path: Path
    name: str
    features: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...] | None
    class_distance: Tensor | None
    groups: Tensor | None


def make_part(path: Path, features: Tensor, arrays: Mapping[str, Any], labels_path: Path) -> Part:
    """Return the part with `features` and the other `arrays` of the file `path`, whose labels are in `labels_path`.

    Raises:
        ValueError: an array has another shape, type or value than `Part` describes, or a key is misspelled.
    """
    for key, synonyms in KEYS.items():
        if key not in arrays and (near := find_similar(set(arrays) - {"features", "labels", *KEYS}, (key,), synonyms)):
            raise ValueError(f"{path} has the key {quoted(near)}, which probably is {quoted(key)}. Rename it, or leave it out")
    with naming(labels_path, "file of labels"):  # which may be another file than `path`
        labels = _labels(labels_path, arrays["labels"], len(features)) if "labels" in arrays else None
    return Part(
        path,
        _name(path, arrays["name"]) if "name" in arrays else str(path),
        features,
        labels,
        _class_names(path, arrays["class_names"]) if "class_names" in arrays else None,
        _distance(path, arrays["class_distance"]) if "class_distance" in arrays else None,
        _groups(path, arrays["groups"], len(features)) if "groups" in arrays else None,
    )


def make_datasets(parts: Sequence[Part]) -> list[Dataset]:
    """Return the data set of each part, with the same classes.

    Class names and distances that one part has apply to all. Without them, class ids are numbered in ascending order.

    Raises:
        ValueError: labels of different kinds, other class names, or a class id without a name.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from orthohash_triton.data._parts import Part, make_datasets
        >>> part = Part(Path("x.npz"), "x", torch.zeros(2, 3), torch.tensor([70_000, 4]), None, None, None)
        >>> dataset = make_datasets([part])[0]
        >>> dataset.labels, dataset.class_names
        (tensor([1, 0]), ('4', '70000'))
    """
    if not any(part.labels is not None for part in parts):
        return [Dataset(part.features, _zeros(part), (UNLABELLED,), part.name, groups=part.groups) for part in parts]
    _require_one_kind(parts)
    distance = next((part.class_distance for part in parts if part.class_distance is not None), None)
    names, given = _common_names(parts), "class_names"
    labels = [part.labels for part in parts if part.labels is not None]
    if names is None:
        given = "class_distance"
        labels, names = _numbered(labels, distance)
    for part, own in zip(parts, labels, strict=True):
        if own.ndim == 1 and len(own) and int(own.max()) >= len(names):
            raise ValueError(
                f"{part.path}: labels must lie in [0, {len(names)}), because {given} has as many; got {int(own.max())}"
            )
    return [
        Dataset(part.features, own, names, part.name, class_distance=distance, groups=part.groups)
        for part, own in zip(parts, labels, strict=True)
    ]


def _zeros(part: Part) -> Tensor:
    return torch.zeros(len(part.features), dtype=torch.int64)


def _require_one_kind(parts: Sequence[Part]) -> None:
    """Raise ValueError if some parts have labels of another kind than the others, or have no labels."""
    folder = parts[0].path.parent
    if len({None if part.labels is None else part.labels.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(f"{part.path} {'none' if part.labels is None else list(part.labels.shape)}" for part in parts)
        raise ValueError(f"{folder}: every part must have labels of one kind, [N] or [N, C] with one C; got {shapes}")


def _common_names(parts: Sequence[Part]) -> tuple[str, ...] | None:
    """Return the class names of the parts that have some, the longest ones if the others are the beginning of them."""
    named = [part for part in parts if part.class_names is not None]
    if not named:
        return None
    longest = max(named, key=lambda part: len(part.class_names or ()))
    names = longest.class_names or ()
    for part in named:
        if part.class_names != names[: len(part.class_names or ())]:
            raise ValueError(
                f"{part.path}: class_names differ from those of {longest.path}, so that class ids mean other classes. "
                "Give all parts the same class_names"
            )
    return names


def _numbered(labels: list[Tensor], distance: Tensor | None) -> tuple[list[Tensor], tuple[str, ...]]:
    """Return labels of all parts, and the names of the classes, which are numbers.

    These are the positions in `distance`, or the columns of multi-hot labels, or else the class ids that occur.
    """
    if distance is not None or labels[0].ndim == 2:
        count = len(distance) if distance is not None else labels[0].shape[1]
        return labels, tuple(map(str, range(count)))
    found, ids = torch.cat(labels).unique(return_inverse=True)
    return list(ids.split([len(own) for own in labels])), tuple(map(str, found.tolist()))


def _labels(path: Path, labels: Any, rows: int) -> Tensor:
    """Convert integers [N] to int64 and zeros and ones [N, C] to bool. Raise ValueError for other labels."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: labels must be integers [N], or zeros and ones [N, C]; got {labels.dtype} {list(labels.shape)}. "
            "Number names with numpy.unique(labels, return_inverse=True), the same way in all files"
        )
    labels = flatten_column(str(path), "labels", as_tensor(labels), error=ValueError)
    if labels.ndim not in (1, 2) or len(labels) != rows or (labels.ndim == 1 and not is_integer(labels)):
        raise ValueError(
            f"{path}: labels must be integers [{rows}], one per row, or zeros and ones [{rows}, C]; "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    labels = labels.long() if is_integer(labels) else labels
    if labels.ndim == 1:
        if rows and int(labels.min()) < 0:
            raise ValueError(
                f"{path}: labels must be class ids of at least 0; got {int(labels.min())}. Leave out rows without a class"
            )
        return labels
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"{path}: labels [N, C] must be zeros and ones; got values from {labels.min()} to {labels.max()}")
    return labels.bool()


def _name(path: Path, name: Any) -> str:
    if not isinstance(name, np.ndarray) or name.size != 1 or name.dtype.kind not in "SU":
        raise ValueError(f"{path}: name must be one text; got {_described(name)}")
    return class_name_text(name.item())


def _class_names(path: Path, names: Any) -> tuple[str, ...]:
    """Return class names, which may be text, bytes or integers."""
    if (
        not isinstance(names, np.ndarray | Tensor)
        or names.ndim != 1
        or not (isinstance(names, Tensor) or names.dtype.kind in "SUiu")
    ):
        raise ValueError(f"{path}: class_names must be text [C], one for each class; got {_described(names)}")
    return tuple(class_name_text(name) if isinstance(name, str | bytes) else str(name) for name in names.tolist())


def _distance(path: Path, distance: Any) -> Tensor:
    tensor = as_tensor(distance)
    if not isinstance(tensor, Tensor) or tensor.is_complex() or tensor.ndim != 2 or tensor.shape[0] != tensor.shape[1]:
        raise ValueError(f"{path}: class_distance must be numbers [C, C]; got {_described(distance)}")
    return tensor.float()


def _groups(path: Path, groups: Any, rows: int) -> Tensor:
    """Return the group of each row, int64 [N]. Names of groups are numbered."""
    if isinstance(groups, np.ndarray) and groups.dtype.kind in "SU":
        groups = np.unique(groups, return_inverse=True)[1].reshape(groups.shape)
    tensor = as_tensor(groups)
    tensor = flatten_column(str(path), "groups", tensor, error=ValueError) if isinstance(tensor, Tensor) else tensor
    if not isinstance(tensor, Tensor) or not is_integer(tensor) or tensor.shape != (rows,):
        raise ValueError(f"{path}: groups must be integers or text [{rows}], one per row; got {_described(groups)}")
    return tensor.long()


def _described(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray | Tensor) else repr(array)[:60]
