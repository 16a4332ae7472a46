"""What is computed once from a tensor that does not change, such as the packed form of a codebook."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T")


class _Known(NamedTuple):
    tensor: weakref.ref
    version: tuple[int, int]
    values: dict[str, Any]


_known: dict[int, _Known] = {}  # by id, which is quicker than a weak dictionary; `tensor` says whose id it is


def derived(tensor: Tensor, what: str, make: Callable[[], T]) -> T:
    """`make()`, remembered for as long as `tensor` lives and is not written to."""
    if tensor.is_inference():  # such tensors do not count their writes
        return make()
    key = id(tensor)
    version = (tensor._version, tensor.data_ptr())
    known = _known.get(key)
    if known is None or known.tensor() is not tensor or known.version != version:
        known = _known[key] = _Known(weakref.ref(tensor, lambda gone: _forget(key, gone)), version, {})
    if what not in known.values:
        known.values[what] = make()
    return known.values[what]


def _forget(key: int, gone: weakref.ref) -> None:
    known = _known.get(key)
    if known is not None and known.tensor is gone:  # not the entry of a newer tensor at the same address
        del _known[key]
