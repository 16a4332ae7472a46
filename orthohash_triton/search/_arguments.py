"""Checks of the arguments that both indexes take, and conversion of answers to the kind of the queries."""

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import as_array, as_tensor
from ..ops.hamming_topk import MISSING_DISTANCE, check_missing
from ..ops.pack_codes import pack_codes


def integers(op: str, name: str, value: Any, *, ntotal: int) -> np.ndarray:
    """Return a tensor, array, list, tuple or range of integers as int64 [M] in host memory, never sharing the caller's memory.

    Raises:
        IndexError: `value` is a range of more ids than the `ntotal` codes of an index have, which would not fit memory.
        TypeError: `value` is of another type or does not hold integers.
        ValueError: `value` has another number of dimensions or exceeds int64.
    """
    given = value
    if isinstance(value, range) and _length(value) > ntotal:
        raise IndexError(f"{op}: {name} must be in the index, which holds {ntotal} codes; got {value}")
    if isinstance(value, list | tuple | range):
        with suppress(ValueError):  # numpy raises for lists of different lengths
            value = np.asarray(value if len(value) else np.empty(0, np.int64))
    if not isinstance(value, np.ndarray | Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, an array or a list of integers; got {checks.describe(value)}")
    if isinstance(value, Tensor):
        is_whole = not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    else:
        is_whole = value.dtype.kind in "iu"
    if not is_whole:
        raise TypeError(f"{op}: {name} must be integers; got {checks.describe(given)}")
    if value.ndim != 1:
        raise ValueError(f"{op}: {name} must be integers [M]; got {checks.describe(given)}")
    numbers = value.cpu().numpy() if isinstance(value, Tensor) else value
    if numbers.dtype == np.uint64 and (numbers > np.iinfo(np.int64).max).any():
        raise ValueError(f"{op}: {name} must fit int64; got {numbers.max()}")
    return numbers.astype(np.int64)


def _length(numbers: range) -> int:
    """Return the length of a range, for which `len` fails from 2**63 on."""
    return (numbers[-1] - numbers[0]) // numbers.step + 1 if numbers else 0


def consecutive_ids(op: str, start: Any, count: Any, ntotal: int, *, own_ids: bool) -> np.ndarray:
    """Return the ids `start` to `start + count - 1`, int64; for a `count` of -1 all positions from `start` on.

    Raises:
        IndexError: An index of `ntotal` codes cannot hold these ids.
        ValueError: `count` is -1 and the index has ids of its own.
    """
    start = checks.integer(op, "id", start, minimum=-(2**63), maximum=2**63 - 1)
    count = checks.integer(op, "count", count, minimum=-1)
    if count == -1:
        if own_ids:
            raise ValueError(
                f"{op}: count must be given for an index with ids of its own, which need not be consecutive. "
                "reconstruct_batch(index.ids) gives all codes"
            )
        if not 0 <= start <= ntotal:
            raise IndexError(f"{op}: id {start} is not in the index, which holds {ntotal} codes")
        count = ntotal - start
    if count > ntotal:
        raise IndexError(f"{op}: the index holds {ntotal} codes, and cannot hold {count} ids from {start} on")
    return np.arange(start, min(start + count, 2**63), dtype=np.int64)


def neighbour_count(op: str, k: Any, queries: int, ntotal: int) -> int:
    """Check that `k` is an integer from 1 to 2**31 - 1 that `queries` in `ntotal` codes can be asked for, and return it."""
    k = checks.integer(op, "k", k, minimum=1, maximum=MISSING_DISTANCE)
    check_missing(op, k, queries, ntotal)
    return k


def is_mask(value: Any) -> bool:
    """Return whether `value` is a tensor or array of bools."""
    return getattr(value, "dtype", None) in (torch.bool, np.bool_)


def position_mask(op: str, name: str, value: Any, count: int, codes: str = "of the index") -> Tensor:
    """Return `value` as a bool mask [count] over positions, on the device where it is; `codes` describes the codes in errors."""
    mask = checks.tensor(op, name, as_tensor(value), dtypes=(torch.bool,), ndim=1, shape="[ntotal], one entry a position,")
    if len(mask) != count:
        raise ValueError(f"{op}: {name} must have one entry for each of the {count} codes {codes}; got {checks.describe(value)}")
    return mask


def check_kind_of_ids(op: str, ntotal: int, *, has_ids: bool, adds_ids: bool) -> None:
    """Raise RuntimeError if codes with positions as ids and codes with ids of their own would be mixed in one index."""
    if ntotal and has_ids and not adds_ids:
        raise RuntimeError(f"{op}: the index has ids of its own. Use add_with_ids")
    if ntotal and adds_ids and not has_ids:
        raise RuntimeError(f"{op}: the {ntotal} codes of the index have positions as ids. Use add, or a fresh index")


def ids_of_codes(op: str, ids: Any, count: int) -> np.ndarray:
    """Check that there is one id for each of `count` codes, and return `ids` as int64 [count]."""
    if isinstance(ids, range) and _length(ids) != count:
        raise ValueError(f"{op}: ids must be one for each of the {count} codes; got {ids}")
    numbers = integers(op, "ids", ids, ntotal=count)
    if len(numbers) != count:
        raise ValueError(f"{op}: ids must be one for each of the {count} codes; got {len(numbers)}")
    return numbers


def centres_of(op: str, centres: Any, bits: int) -> Tensor:
    """Return centres of codes of `bits` bits, given packed or as +-1 [C, bits], as packed codes uint8 [C, bits/8] on the CPU."""
    given = as_tensor(centres) if isinstance(centres, np.ndarray) else centres
    if not isinstance(given, Tensor):
        raise TypeError(f"{op}: centres must be a tensor or an array; got {checks.describe(centres)}")
    width = bits // 8 if given.dtype == torch.uint8 else bits
    if given.ndim != 2 or given.shape[1] != width or len(given) == 0:
        raise ValueError(
            f"{op}: centres must be packed codes, uint8 [C, {bits // 8}], or +-1 [C, {bits}], with C of 1 or more; "
            f"got {checks.describe(centres)}"
        )
    given = given.detach().cpu()
    if given.dtype != torch.uint8:
        if not bool((given.abs() == 1).all()):
            raise ValueError(f"{op}: centres that are not packed must be +-1; got {checks.describe(centres)} with other values")
        given = pack_codes(given)
    return given.clone()


def in_kind(queries: Any, *answer: Tensor) -> tuple[Any, ...]:
    """Return the tensors of `answer` as numpy arrays if `queries` is a numpy array, otherwise unchanged."""
    return as_array(tuple(part.cpu() for part in answer)) if isinstance(queries, np.ndarray) else answer
