"""Labels of queries and gallery, and the relevance that follows from them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.labels import as_label_tensors, flatten_column, is_integer
from ..ops.pack_codes import pack_codes

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # torch does not compare them
_KINDS = "integer class ids [N], or multi-hot rows [N, C] of 0 and 1"
_NAMES = ("query_labels", "gallery_labels")


@dataclass(frozen=True)
class Labels:
    """Checked labels of queries and gallery.

    Attributes:
        queries: int64 class ids [Q], or bool multi-hot rows [Q, C].
        gallery: int64 class ids [N], or bool multi-hot rows [N, C].
        are_names: True if the class ids number names, so that they mean nothing outside of these labels.
    """

    queries: Tensor
    gallery: Tensor
    are_names: bool = False

    @property
    def shared(self) -> bool:
        """True for multi-hot rows, where a shared class makes an item relevant; False for class ids."""
        return self.queries.ndim == 2

    def relevance(self, start: int, stop: int) -> Tensor:
        """Return which gallery items are relevant to the queries [start, stop): bool [stop - start, N]."""
        chunk = self.queries[start:stop]
        if self.shared:
            return (chunk.float() @ self.gallery.float().T) > 0
        return chunk[:, None] == self.gallery

    def grades(self, start: int, stop: int) -> Tensor:
        """Return how many classes the gallery items share with the queries [start, stop): int64 [stop - start, N]."""
        if self.shared:
            return (self.queries[start:stop].float() @ self.gallery.float().T).long()
        return self.relevance(start, stop).long()

    @property
    def highest_grade(self) -> int:
        """Largest number of classes that two items can share."""
        return self.queries.shape[1] if self.shared else 1

    def of_queries(self, rows: Tensor) -> "Labels":
        """Return the labels of some queries, and of the whole gallery."""
        return replace(self, queries=self.queries[rows])

    def query_words(self) -> Tensor:
        """Return the words of the queries; see `words`."""
        return _words(self.queries)

    def words(self) -> tuple[Tensor, Tensor]:
        """Return queries and gallery as int64 [rows, L] on their device: a word per class id, a bit per class of a row."""
        return _words(self.queries), _words(self.gallery)

    def as_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the words of labels in host memory as uint64 arrays, for the CPU kernels of metrics without a Triton kernel."""
        queries, gallery = (words.contiguous().numpy().view(np.uint64) for words in self.words())
        return queries, gallery


Rows = tuple[str, int]  # description and number of the rows that need a label each


def check(op: str, queries: Any, gallery: Any, ranked: Tensor, query_rows: Rows, gallery_rows: Rows) -> Labels:
    """Check the labels of both sides of a ranking. Tensors must be on the device of `ranked`.

    Labels may also be lists, columns of a table, and names of classes; a column [N, 1] of integers holds class ids.

    Raises:
        TypeError, ValueError: labels of another type, shape, device or length.
    """
    given = as_label_tensors(op, _NAMES, (queries, gallery), ranked.device)
    labels = Labels(
        _check(op, _NAMES[0], given.queries, ranked, query_rows),
        _check(op, _NAMES[1], given.gallery, ranked, gallery_rows),
        given.are_names,
    )
    if labels.queries.shape[1:] != labels.gallery.shape[1:]:
        raise ValueError(
            f"{op}: query_labels and gallery_labels must be of one kind, {_KINDS} with one C; "
            f"got {checks.describe(queries)} and {checks.describe(gallery)}"
        )
    return labels


def _check(op: str, name: str, labels: Any, ranked: Tensor, rows: Rows) -> Tensor:
    """Check the labels of one side, and convert them to int64 [rows] or bool [rows, C]."""
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"{op}: {name} must be a tensor, an array or a list of {_KINDS}, or of names; got {checks.describe(labels)}"
        )
    labels = flatten_column(op, name, labels)
    if labels.ndim not in (1, 2):
        raise ValueError(f"{op}: {name} must be {_KINDS}; got {checks.describe(labels)}")
    if not (is_integer(labels) or (labels.ndim == 2 and labels.dtype in (torch.bool, *_FLOATS))):
        raise TypeError(f"{op}: {name} must be {_KINDS}; got {checks.describe(labels)}. Convert class ids with .long()")
    checks.same_device(op, name, labels, rows[0], ranked)
    if len(labels) != rows[1]:
        raise ValueError(f"{op}: {name} must have one row for each of the {rows[1]} {rows[0]}; got {checks.describe(labels)}")
    if labels.ndim == 1:
        return labels.long()
    labels = labels.long() if labels.dtype in _UNSIGNED else labels
    if checks.may_read_values(labels) and not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"{op}: multi-hot {name} must hold only 0 and 1; got other values in {checks.describe(labels)}")
    return labels != 0


def _words(labels: Tensor) -> Tensor:
    """Return labels as int64 [rows, L]; see `Labels.words`."""
    if labels.ndim == 1:
        return labels[:, None]
    classes = labels.shape[1]
    whole_words = 64 * max(1, -(-classes // 64))
    return pack_codes(torch.nn.functional.pad(labels, (0, whole_words - classes))).view(torch.int64)
