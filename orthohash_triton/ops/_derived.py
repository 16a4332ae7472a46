"""Values that are computed once from a tensor that does not change, such as the packed form of a codebook.

Values are kept only for tensors that a public function received from its caller in eager mode (`shown`). A compiled graph also
passes memory of its own, which it reuses for other values and writes to without a version count, so nothing is kept for it.
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class _Known(NamedTuple):
    tensor: weakref.ref
    version: tuple[int, int]
    values: dict[str, Any]


_known: dict[int, _Known] = {}  # by id, which is faster than a weak dictionary; `tensor` is the owner of the id


def shown(tensor: Tensor) -> None:
    """Allow `derived` to keep values of `tensor` until it is freed or written to. The caller must hold a reference to it."""
    if torch.compiler.is_compiling() or tensor.is_inference():  # a traced tensor, or one that does not count its writes
        return
    if _values(tensor) is None:
        key = id(tensor)
        _known[key] = _Known(weakref.ref(tensor, lambda gone: _forget(key, gone)), _version(tensor), {})


def derived(tensor: Tensor, what: str, make: Callable[[], T]) -> T:
    """Return `make()`, or its earlier result `what` if `tensor` has not been written to since it was passed to `shown`."""
    values = None if tensor.is_inference() else _values(tensor)
    if values is None:
        return make()
    if what not in values:
        values[what] = make()
    return values[what]


def _values(tensor: Tensor) -> dict[str, Any] | None:
    known = _known.get(id(tensor))
    return known.values if known is not None and known.tensor() is tensor and known.version == _version(tensor) else None


def _version(tensor: Tensor) -> tuple[int, int]:
    return tensor._version, tensor.data_ptr()


def _forget(key: int, gone: weakref.ref) -> None:
    known = _known.get(key)
    if known is not None and known.tensor is gone:  # the entry may belong to a newer tensor with the same id
        del _known[key]
