"""Search for near codes by the pigeonhole principle on a CPU.

If two codes differ in at most r bits, then of r + 1 disjoint parts of their bits at least one is equal in both. A table lists the
rows of a gallery by the hash of one part, so that the codes with a given part are found without a scan. See _substrings.py for
the choice of the parts, _lookup_tables.py for the tables and _lookup_search.py for the search.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._blocks import as_array, in_words
from ._lookup_search import BLOCK, DISTANCE_BITS, POSITION_BITS, Gallery, in_order, search_block
from ._lookup_tables import Tables, fill_table, keep_rows
from ._ranges import over_ranges
from ._substrings import MAX_WEIGHT, MAX_WIDTH, choose, hash_bits
from ._threads import run_all

__all__ = [
    "MAX_WEIGHT",
    "MAX_WIDTH",
    "LookupTables",
    "Tables",
    "kept_tables",
    "lookup_cost",
    "lookup_search",
    "lookup_tables",
    "opened",
]

LARGEST_INT32 = 2**31 - 1
_NEVER = 2**62  # a step that is not taken


class LookupTables(NamedTuple):
    """The tables of a lookup, in plain tensors that can be kept in a file. T tables of N codes with B bytes, W = ceil(B / 8)."""

    of_bits: Tensor  # int16 [8 B]: the table whose substring holds the bit; -1 for none
    factors: Tensor  # int64 [T, W]: the odd numbers of the hashes
    steps: Tensor  # int32 [S, 2]: table, and number of bits that differ there; the first r + 1 steps find all codes within r bits
    starts: Tensor  # int32 [T, 2**b + 1], int64 for 2**31 codes or more: where the rows of each bucket begin
    rows: Tensor  # int64 [T, N]: (signature of the code, row in the lowest 32 bits, or 40 bits), by row in a bucket


def lookup_tables(codes: Tensor, radius: int, tables: int | None = None) -> LookupTables:
    """Return tables for searches of uint8 codes [N, B] within `radius` bits, which serve other radii, too.

    tables: their number; None chooses the number with the least expected cost.
    """
    array = as_array(codes)
    choice = choose(array, radius, tables=tables)
    count, width = array.shape
    number, bits = int(choice.tables.max()) + 1, hash_bits(count)
    factors = np.random.default_rng(0).integers(0, 2**64, (number, math.ceil(width / 8)), np.uint64) | np.uint64(1)
    dtype = np.int32 if count <= LARGEST_INT32 else np.int64
    starts, rows = np.empty((number, 2**bits + 1), dtype), np.empty((number, count), np.uint64)
    masks = _masks(choice.tables, number)
    numbers = np.uint64(64 - bits), row_bits(starts)
    run_all(fill_table, [(array, masks[t], factors[t], *numbers, starts[t], rows[t]) for t in range(number)])
    steps = np.array(choice.steps, np.int32).reshape(-1, 2)
    of = [torch.from_numpy(part) for part in (choice.tables, factors.view(np.int64), steps, starts, rows.view(np.int64))]
    return LookupTables(*of)


def row_bits(starts: np.ndarray) -> np.uint64:
    """Return the bits of a table's entry that hold the row; the others hold the signature."""
    return np.uint64(32 if starts.dtype == np.int32 else POSITION_BITS)


def _masks(of_bits: np.ndarray, tables: int) -> np.ndarray:
    """Return the bits of each table's substring, uint64 [T, W]."""
    return np.stack([in_words(np.packbits(of_bits[None] == t, axis=1, bitorder="little"))[0] for t in range(tables)])


def opened(tables: LookupTables) -> Tables:
    """Return the tables in the form that `lookup_search` reads, which shares their memory."""
    of_bits, factors, steps, starts, rows = (as_array(part) for part in tables)
    number = len(starts)
    widths = np.bincount(of_bits[of_bits >= 0], minlength=number)
    places = np.zeros((number, widths.max()), np.int64)
    for table in range(number):
        places[table, : widths[table]] = np.flatnonzero(of_bits == table)
    step_of = np.full((number, int(steps[:, 1].max()) + 2), _NEVER, np.int64)
    step_of[steps[:, 0], steps[:, 1]] = np.arange(len(steps))
    shift = np.uint64(64 - (starts.shape[1] - 2).bit_length())
    masks = _masks(of_bits, number)
    buckets = np.zeros(len(steps) + 1, np.int64)
    np.cumsum([math.comb(int(widths[table]), weight) for table, weight in steps.tolist()], out=buckets[1:])
    of_steps = steps.astype(np.int64), buckets, step_of
    of_rows = starts, rows.view(np.uint64), row_bits(starts)
    return Tables(masks, factors.view(np.uint64), shift, widths, places, *of_steps, *of_rows)


def kept_tables(tables: LookupTables, keep: Tensor) -> LookupTables:
    """Return the tables of the codes where `keep`, bool [N], is True, at their new positions."""
    flags = as_array(keep)
    starts, rows = as_array(tables.starts), as_array(tables.rows).view(np.uint64)
    renumbered = np.where(flags, np.cumsum(flags, dtype=np.int64) - 1, -1).astype(starts.dtype)
    new_starts, new_rows = np.empty_like(starts), np.empty((len(rows), int(flags.sum())), np.uint64)
    bits = row_bits(starts)
    run_all(keep_rows, [(renumbered, bits, starts[t], rows[t], new_starts[t], new_rows[t]) for t in range(len(rows))])
    return tables._replace(starts=torch.from_numpy(new_starts), rows=torch.from_numpy(new_rows.view(np.int64)))


def lookup_search(
    queries: Tensor, codes: Tensor, tables: Tables, mask: Tensor | None, limits: Tensor, k: int, budget: int, met: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the codes nearer than each query's limit: (lims int64 [Q+1], distances int32 [M], ids int64 [M]).

    queries: uint8 [Q, B], codes: uint8 [N, B], neither of them empty; mask: bool [N], True for rows that may be found; limits:
    int32 [Q]; k: 0 for all codes, or the number of codes of each query: it then has its k nearest codes in the result, or none
    if there are fewer within its limit; budget: the most buckets and codes that a query may meet; met: int64 [Q], set to the
    number of buckets and codes that each query met, or to -1 for a query that gave up and has no codes in the result.
    """
    lims = np.zeros(len(queries) + 1, np.int64)
    counts, keys = _searched(queries, codes, tables, mask, limits, k, budget, True, met)
    np.cumsum(counts, out=lims[1:])
    distances = (keys >> np.uint64(POSITION_BITS)).astype(np.int32) & np.int32(2**DISTANCE_BITS - 1)
    ids = (keys & np.uint64(2**POSITION_BITS - 1)).astype(np.int64)
    return torch.from_numpy(lims), torch.from_numpy(distances), torch.from_numpy(ids)


def lookup_cost(queries: Tensor, codes: Tensor, tables: Tables, limits: Tensor, budget: int, met: Tensor) -> None:
    """Write to `met`, int64 [Q], what `lookup_search` would write, without reading codes."""
    _searched(queries, codes, tables, None, limits, 0, budget, False, met)


def _searched(
    queries: Tensor,
    codes: Tensor,
    tables: Tables,
    mask: Tensor | None,
    limits: Tensor,
    k: int,
    budget: int,
    compares: bool,
    met: Tensor,
) -> tuple[np.ndarray, np.ndarray]:
    """Search on threads; return the number of codes of each query, and the keys of the codes."""
    words, limit = in_words(as_array(queries)), as_array(limits).clip(0).astype(np.int64)
    array, met_array = as_array(codes), met.numpy()
    allowed = np.ones(0, np.bool_) if mask is None else as_array(mask)
    gallery = Gallery(np.int64(array.ctypes.data), np.int64(array.shape[1]), allowed, tables)
    counts = np.empty(len(words), np.int64)
    parts: dict[int, np.ndarray] = {}

    def work(start: int, stop: int) -> None:
        for first in range(start, stop, BLOCK):
            part = slice(first, min(first + BLOCK, stop))
            of_part = met_array[part], counts[part]
            found, fill = search_block(words[part], limit[part], k, gallery, budget, compares, *of_part)
            parts[first] = in_order(found, fill, k, counts[part], met_array[part])

    over_ranges(work, len(words))
    keys = [parts[first] for first in sorted(parts)]
    return counts, np.concatenate(keys) if keys else np.empty(0, np.uint64)
