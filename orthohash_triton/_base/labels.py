"""The meaning of labels, which is the same wherever labels are passed or read.

    [N]     class ids: integers, or names of classes where these are accepted;
    [N, C]  which of C classes each row has: zeros and ones;
    [N, 1]  a column of class ids, as tables and scikit-learn have it, if its type is an integer or text. Which rows have the
            only class of a data set, if its type is bool. A column of floating-point numbers could be either, and is refused.

Zeros and ones of a single class would make nothing relevant to the rows with 0, so an integer column is never read as such.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import checks
from .arrays import as_tensor

_INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64}
_NAMES = "OSUT"  # kinds of numpy's dtypes that can hold names: objects, bytes and two of text
_ROWS_OF_NAMES = "Rows of several names become zeros and ones [N, C] with sklearn.preprocessing.MultiLabelBinarizer"


def is_integer(labels: Tensor) -> bool:
    """Return whether the dtype of `labels` is an integer, of any width, signed or not. A bool is none."""
    return labels.dtype in _INTEGERS


def flatten_column(op: str, name: str, labels: Tensor, *, error: type[Exception] = TypeError) -> Tensor:
    """Return class ids [N] for a column [N, 1] of integers, and other labels unchanged.

    Args:
        op, name: the function (or file) and the argument, for the message.
        labels: labels of any shape.
        error: type of the exception.

    Raises:
        error: a column of floating-point or complex numbers.

    Example:
        >>> import torch
        >>> from orthohash_triton._base import labels
        >>> labels.flatten_column("metric", "labels", torch.tensor([[3], [0]]))
        tensor([3, 0])
        >>> labels.flatten_column("metric", "labels", torch.tensor([[True], [False]])).shape
        torch.Size([2, 1])
    """
    if labels.ndim != 2 or labels.shape[1] != 1 or labels.dtype == torch.bool:
        return labels
    if not is_integer(labels):
        raise error(
            f"{op}: {name} {list(labels.shape)} of {checks.dtype_name(labels.dtype)} can be a column of class ids, or zeros and "
            "ones of a single class. Convert class ids to integers, and zeros and ones to bool"
        )
    return labels[:, 0]


class Sides(NamedTuple):
    """The labels of queries and gallery, and whether they were names, whose numbers mean nothing outside of one call."""

    queries: Any
    gallery: Any
    are_names: bool


def as_label_tensors(op: str, names: tuple[str, str], labels: tuple[Any, Any], device: torch.device) -> Sides:
    """Return the labels of two sides as tensors, if they are lists, arrays, columns of a table, or names of classes.

    Names (str or bytes) of both sides are numbered together in alphabetical order. Tensors, and what cannot be converted, are
    returned unchanged, so that the check of the argument can name it.

    Args:
        op, names: the function and the two arguments, for messages.
        labels: the labels of each side.
        device: where labels that are neither tensors nor numbers of an array are put.

    Raises:
        TypeError: names on one side only, names mixed with numbers, or rows of several names.
        ValueError: rows of different lengths.

    Example:
        >>> import torch
        >>> from orthohash_triton._base import labels
        >>> names = ("query_labels", "gallery_labels")
        >>> labels.as_label_tensors("metric", names, (["dog"], ["cat", "dog"]), torch.device("cpu"))
        Sides(queries=tensor([1]), gallery=tensor([0, 1]), are_names=True)
    """
    arrays = [_as_array(op, name, own) for name, own in zip(names, labels, strict=True)]
    texts = [isinstance(array, np.ndarray) and array.dtype.kind == "U" for array in arrays]
    if any(texts) and not all(texts):
        given = " and ".join(f"{name} {checks.describe(own)}" for name, own in zip(names, labels, strict=True))
        raise TypeError(f"{op}: labels must be names on both sides or numbers on both sides; got {given}")
    if all(texts):
        ids = np.unique(np.concatenate(arrays), return_inverse=True)[1].reshape(-1)
        arrays = np.split(ids, [len(arrays[0])])
    queries, gallery = (_on_device(array, own, device) for array, own in zip(arrays, labels, strict=True))
    return Sides(queries, gallery, all(texts))


def _on_device(array: Any, given: Any, device: torch.device) -> Any:
    """Return `array` as a tensor, which stays in host memory if numbers were given as an array."""
    tensor = as_tensor(array)
    numbers = isinstance(given, np.ndarray) and given.dtype.kind not in _NAMES
    return tensor if not isinstance(tensor, Tensor) or isinstance(given, Tensor) or numbers else tensor.to(device)


def _as_array(op: str, name: str, labels: Any) -> Any:
    """Return labels as an array of numbers, or of text [N]. Tensors and things that are no labels are returned unchanged."""
    if isinstance(labels, Tensor | str | bytes) or not (hasattr(labels, "__array__") or isinstance(labels, list | tuple)):
        return labels
    if isinstance(labels, list | tuple) and any(isinstance(label, Tensor) for label in labels):
        labels = [label.tolist() if isinstance(label, Tensor) else label for label in labels]
    try:
        array = np.asarray(labels)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{op}: {name} must have rows of one length; got {checks.describe(labels)}. {_ROWS_OF_NAMES}") from error
    if array.dtype.kind in _NAMES:
        return _as_text(op, name, labels, array)
    return array.astype(np.int64) if array.size == 0 and isinstance(labels, list | tuple) else array


def _as_text(op: str, name: str, given: Any, array: np.ndarray) -> np.ndarray:
    """Return an array of names, of text, bytes or objects, as text [N]."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    elements = [given[i] for i in range(len(array))] if isinstance(given, list | tuple) else array.tolist()
    if array.ndim == 1 and array.dtype.kind == "O" and all(map(_fits_int64, elements)):
        return array.astype(np.int64)  # a column of integers in a table of objects
    # numpy turns [1, "a"] into text, so that the elements of a list are checked, and not those of the array.
    flat = [element[0] if isinstance(element, list | tuple) and len(element) == 1 else element for element in elements]
    if array.ndim != 1 or not all(isinstance(element, str | bytes) for element in flat):
        raise TypeError(f"{op}: {name} must be one name per row, or numbers; got {checks.describe(given)}. {_ROWS_OF_NAMES}")
    return np.array([class_name_text(element) for element in flat], dtype=np.str_)


def _fits_int64(element: Any) -> bool:
    return isinstance(element, int | np.integer) and not isinstance(element, bool) and -(2**63) <= int(element) < 2**63


def class_name_text(name: str | bytes) -> str:
    """Return the name of a class as text. Bytes are UTF-8; others are kept as escapes.

    Example:
        >>> from orthohash_triton._base import labels
        >>> labels.class_name_text(b"cat"), labels.class_name_text("dog")
        ('cat', 'dog')
    """
    return name.decode("utf-8", errors="backslashreplace") if isinstance(name, bytes) else name
