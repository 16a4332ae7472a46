"""Arguments of the indexes: ids, masks, and answers in the kind of the queries."""

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import as_array, as_tensor


def integers(op: str, name: str, value: Any) -> np.ndarray:
    """A tensor, array, list, tuple or range of integers as int64 [M] in host memory; never memory of the caller's."""
    if isinstance(value, list | tuple | range):
        with suppress(ValueError):  # lists of several lengths are no array
            value = np.asarray(value if len(value) else np.empty(0, np.int64))
    if not isinstance(value, np.ndarray | Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, an array or a list of integers; got {checks.describe(value)}")
    if isinstance(value, Tensor):
        whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    else:
        whole = value.dtype.kind in "iu"
    if not whole:
        raise TypeError(f"{op}: {name} must be integers; got {found(value)}")
    if value.ndim != 1:
        raise ValueError(f"{op}: {name} must be integers [M]; got {found(value)}")
    numbers = value.cpu().numpy() if isinstance(value, Tensor) else value
    if numbers.dtype == np.uint64 and (numbers > np.iinfo(np.int64).max).any():
        raise ValueError(f"{op}: {name} must fit int64; got {numbers.max()}")
    return numbers.astype(np.int64)


def consecutive_ids(op: str, start: Any, count: Any, held: int, *, own_ids: bool) -> np.ndarray:
    """The ids `start` to `start + count - 1`, int64; of an index of `held` codes, all from `start` on where `count` is -1."""
    start = checks.integer(op, "id", start, minimum=-(2**63), maximum=2**63 - 1)
    count = checks.integer(op, "count", count, minimum=-1)
    if count == -1:
        if own_ids:
            raise ValueError(
                f"{op}: count must be given for an index with ids of its own, which need not follow one another. "
                "reconstruct_batch(index.ids) gives all codes"
            )
        if not 0 <= start <= held:
            raise IndexError(f"{op}: id {start} is not in the index, which holds {held} codes")
        count = held - start
    if count > held:
        raise IndexError(f"{op}: the index holds {held} codes, and cannot hold {count} ids from {start} on")
    return np.arange(start, min(start + count, 2**63), dtype=np.int64)


def position_mask(op: str, name: str, value: Any, count: int) -> Tensor:
    """A bool mask [count] over the positions of an index, where it lies."""
    mask = checks.tensor(op, name, as_tensor(value), dtypes=(torch.bool,), ndim=1, shape="[ntotal], one entry a position,")
    if len(mask) != count:
        raise ValueError(f"{op}: {name} must have one entry for each of the {count} codes of the index; got {found(mask)}")
    return mask


def in_kind(queries: Any, *answer: Tensor) -> tuple[Any, ...]:
    """`answer` as arrays where `queries` are one."""
    return as_array(tuple(part.cpu() for part in answer)) if isinstance(queries, np.ndarray) else answer


def found(value: Tensor | np.ndarray) -> str:
    """What came, without its values."""
    return checks.describe(value) if isinstance(value, Tensor) else f"{value.dtype} {list(value.shape)}"
