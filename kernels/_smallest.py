"""Selection of the k smallest of many small integers without sorting the others.

A program holds a few thousand values in registers and halves their range until it knows the k-th smallest; then it keeps the
values below that, and the first of the values equal to it. A longer row is divided into splits; the k smallest values of each
split go on to the next launch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._sizes import cdiv, next_power_of_2
from .launch import launch
from .missing import MISSING_DISTANCE, MISSING_ID

HELD = 4096  # values that a program holds in registers
ORDERED = 1024  # the largest k for which one program orders the result
_VALUES_PER_WARP = 512
_MISSING_DISTANCE = tl.constexpr(MISSING_DISTANCE)
_MISSING_ID = tl.constexpr(MISSING_ID)


def ordered_at_once(k: int, largest: int) -> bool:
    """Return whether `nearest_first` can order k values up to `largest`: it sorts keys of 32 bits."""
    return k <= ORDERED and (largest + 2) * next_power_of_2(k) < 2**31


def candidates(values: Tensor, largest: int, k: int) -> Tensor:
    """Reduce each row of `values` [Q, M], integers up to `largest`, to at most HELD entries that include its k smallest.

    Returns `values` where M is at most HELD, otherwise int64 [Q, M' <= HELD]: value << 32 | place in the row, in the order of
    places. Of equal values the first are kept. Entries with the value `largest` + 1 are padding. k is at most ORDERED.
    """
    while values.shape[1] > HELD:
        splits = cdiv(values.shape[1], HELD)
        fewer = values.new_empty(values.shape[0], splits * k, dtype=torch.int64)
        launch(_candidates, (values.shape[0] * splits,), values, fewer, values.shape[1], k, splits, LARGEST=largest, BLOCK=HELD,
               num_warps=HELD // _VALUES_PER_WARP)  # fmt: skip
        values = fewer
    return values


def candidate_bytes(count: int, k: int) -> int:
    """Return how many bytes `candidates` allocates for a row of `count` values.

    These are the result of one launch, and half as much for the result of the next.
    """
    return 12 * k * cdiv(count, HELD) if count > HELD else 0


def first_smallest(values: Tensor, largest: int, places: Tensor, smallest: Tensor | None = None) -> None:
    """Fill `places` int32 [Q, k] with the places of the k smallest values of each row of `values` [Q, M], in ascending order.

    Of equal values the first are taken. `smallest` [Q, k] is filled with the values. k is at most M, and any number: one program
    takes a row and reads it again for each halving. No value is above `largest`.
    """
    launch(_first_smallest, (values.shape[0],), values, places, smallest, values.shape[1], places.shape[1],
           LARGEST=largest, BLOCK=HELD, num_warps=HELD // _VALUES_PER_WARP)  # fmt: skip


def nearest_first(
    values: Tensor, largest: int, chosen: Tensor, span: int, limits: Tensor | None, distances: Tensor, ids: Tensor
) -> None:
    """Fill `distances` int32 and `ids` int64 [Q, k] with the k smallest `values`, which `candidates` returns, nearest first.

    Place p of a row is code p % span of the span chosen[p // span]; `chosen` int32 [Q, k] is ascending, so places are in the
    order of gallery rows. A value that is `largest` or more, or not below the query's limit in `limits` int32 [Q], is missing.
    """
    k = distances.shape[1]
    block, warps = block_of(values.shape[1], k)
    launch(_nearest_first, (values.shape[0],), values, chosen, limits, distances, ids, values.shape[1], k, LARGEST=largest,
           SPAN=span, K=next_power_of_2(k), BLOCK=block, num_warps=warps)  # fmt: skip


def block_of(count: int, k: int, *, least: int = 0) -> tuple[int, int]:
    """Return how many values, at least `least`, a program holds for a row of `count` candidates, and its number of warps."""
    block = max(next_power_of_2(count), next_power_of_2(k), _VALUES_PER_WARP, least)
    return block, block // _VALUES_PER_WARP


@triton.jit
def held(values, row, split, count, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """Load one split of a row: return its values int32 [BLOCK], LARGEST + 1 past the end, and their places in the first row."""
    here = split * BLOCK + tl.arange(0, BLOCK)
    place = values + (row * count + here)
    if values.dtype.element_ty == tl.int64:
        pair = tl.load(place, mask=here < count, other=(LARGEST + 1) << 32)
        return (pair >> 32).to(tl.int32), pair.to(tl.int32)
    else:
        return tl.load(place, mask=here < count, other=LARGEST + 1).to(tl.int32), here


@triton.jit
def kept(value, k, LARGEST: tl.constexpr):
    """Return which of `value` int32 [BLOCK] are the k smallest, and the number of them up to each place. k <= BLOCK.

    Of equal values the first are taken.
    """
    # The k-th smallest value is one of least .. most; `below` values are less than `least`.
    least, most, below = 0, LARGEST + 1, 0
    while least < most:
        middle = (least + most) // 2
        total = tl.sum((value <= middle).to(tl.int32), axis=0)
        if total >= k:
            most = middle
        else:
            least = middle + 1
            below = total
    tied = value == least
    counts = tl.cumsum((value < least).to(tl.int32) | (tied.to(tl.int32) << 16), axis=0)  # two sums, each up to BLOCK < 2**16
    ties = counts >> 16
    room = k - below
    return (value < least) | (tied & (ties <= room)), (counts & 0xFFFF) + tl.minimum(ties, room)


@triton.jit(do_not_specialize=["k", "splits"])
def _candidates(values, fewer, count, k, splits, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """Keep the k smallest values of one split of a row. values: [Q, count]; fewer: out, int64 [Q, splits * k]."""
    row = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    value, place = held(values, row, split, count, LARGEST, BLOCK)
    keep, upto = kept(value, k, LARGEST)
    slot = (row * splits + split) * k + (upto - 1)
    tl.store(fewer + slot, (value.to(tl.int64) << 32) | place.to(tl.int64), mask=keep)


@triton.jit(do_not_specialize=["k"])
def _nearest_first(values, chosen, limits, distances, ids, count, k,
                   LARGEST: tl.constexpr, SPAN: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Order the k nearest codes of one query. See `nearest_first` for the arguments; values: [Q, count], K: k rounded up."""
    row = tl.program_id(0).to(tl.int64)
    value, place = held(values, row, 0, count, LARGEST, BLOCK)
    _, upto = kept(value, k, LARGEST)
    slot = tl.arange(0, K)
    position = first_of(upto, slot + 1, BLOCK)
    # Equal distances keep the order of their slots, which is the order of rows.
    key = tl.sort(tl.where(slot < k, tl.gather(value, position, axis=0) * K + slot, 0x7FFFFFFF))
    distance, order = key // K, key % K
    place = tl.gather(place, tl.gather(position, order, axis=0), axis=0)

    found = (slot < k) & (distance < LARGEST)
    if limits is not None:
        found = found & (distance < tl.load(limits + row))
    span = tl.load(chosen + (row * k + place // SPAN), mask=found, other=0)
    tl.store(distances + (row * k + slot), tl.where(found, distance, _MISSING_DISTANCE), mask=slot < k)
    tl.store(ids + (row * k + slot), tl.where(found, span.to(tl.int64) * SPAN + place % SPAN, _MISSING_ID), mask=slot < k)


@triton.jit
def first_of(counts, wanted, BLOCK: tl.constexpr):
    """Find by bisection the first places where ascending `counts` [BLOCK] reach `wanted` [K]. The last count reaches all."""
    position = tl.zeros(wanted.shape, tl.int32)
    step = BLOCK // 2
    while step > 0:
        short = tl.gather(counts, position + (step - 1), axis=0) < wanted
        position += tl.where(short, step, 0)
        step //= 2
    return position


@triton.jit(do_not_specialize=["k"])
def _first_smallest(values, places, smallest, count, k, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """Find the k smallest values of one row. values: [Q, count]; places: out, int32 [Q, k]; smallest: out, [Q, k], or None."""
    row = tl.program_id(0).to(tl.int64)
    # The k-th smallest value is one of least .. most; `below` values are less than `least`.
    least, most, below = 0, LARGEST, 0
    while least < most:
        middle = (least + most) // 2
        within = tl.zeros([BLOCK], tl.int32)
        for first in range(0, count, BLOCK):
            value, _ = _block(values, row, first, count, LARGEST, BLOCK)
            within += (value <= middle).to(tl.int32)
        total = tl.sum(within, axis=0)
        if total >= k:
            most = middle
        else:
            least = middle + 1
            below = total
    kept, ties = 0, 0
    for first in range(0, count, BLOCK):
        value, place = _block(values, row, first, count, LARGEST, BLOCK)
        tied = value == least
        tied_here = tl.sum(tied.to(tl.int32), axis=0)
        keep = (value < least) | (tied & (below + ties + tl.cumsum(tied.to(tl.int32), axis=0) <= k))
        slot = row * k + kept + tl.cumsum(keep.to(tl.int32), axis=0) - 1
        tl.store(places + slot, place, mask=keep)
        if smallest is not None:
            tl.store(smallest + slot, value, mask=keep)
        kept += tl.sum(keep.to(tl.int32), axis=0)
        ties += tied_here


@triton.jit
def _block(values, row, first, count, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """Return BLOCK values of a row from `first` on, LARGEST + 1 past its end, and their places."""
    place = first + tl.arange(0, BLOCK)
    return tl.load(values + (row * count + place), mask=place < count, other=LARGEST + 1).to(tl.int32), place
