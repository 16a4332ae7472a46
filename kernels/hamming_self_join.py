"""All pairs of near codes with Triton: codes that are equal on a substring are brought together by a sort, and compared.

Equal codes are joined once: a sort by words gives the distinct codes, the entries. For each table of a plan (see _substrings.py)
the entries are sorted by a key of their substrings; codes of a run of equal keys are compared in tiles. A first pass counts the
pairs of each row, the sums of these counts are the places of the pairs, and a second pass writes them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from ._bits import as_words
from ._distances import tile_distances
from ._self_join import require_room_for
from ._sizes import cdiv
from ._substrings import Costs, Plan, expected_pairs, plan, sampled
from .launch import launch

_BLOCK_M, _BLOCK_N = 32, 32
_KEY_ROWS = 256
_CHUNK = 2**24  # pairs that are written together
_LARGEST_SORT = 2**31 - 1  # elements that torch.sort takes on a GPU
_COSTS = Costs(row=2, candidate=0.05, pair=0.01)  # nanoseconds, estimated for a GPU

Take = Callable[[Tensor, Tensor, Tensor], bool]
"""Take a chunk of pairs of entries, int32 a and b, a < b, and distances, int32; return whether to go on."""


Unite = Callable[[np.ndarray, np.ndarray], int]


class Entries(NamedTuple):
    """Distinct codes in the order of their first positions."""

    words: Tensor  # int32 [E, W]
    positions: Tensor  # int64 [N], ascending within an entry
    starts: Tensor  # int64 [E + 1]: where the positions of each entry begin


def hamming_self_join(codes: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return the pairs of codes nearer than `limit`: (pairs int64 [M, 2], i < j, ascending; distances int32 [M]).

    codes: uint8 [N, B], N < 2**31; limit: 0 .. 8 B + 1. The host waits for the number of pairs of each table.

    Raises:
        MemoryError: if the answer does not fit into the memory that is free, before it is made.
        RuntimeError: where M is more than torch can sort.
    """
    count, device = len(codes), codes.device
    if limit == 0 or count < 2:
        return codes.new_empty((0, 2), dtype=torch.int64), codes.new_empty(0, dtype=torch.int32)
    likely = expected_pairs(_sample(as_words(codes)), count, limit)
    require_room_for(likely // 2, 0, count, limit, device, f"about {likely:,} pairs are expected; half of them, ")
    entries = entries_of(codes)
    sizes = entries.starts.diff()
    total, kept = int((sizes * (sizes - 1) // 2).sum()), 0
    found: list[tuple[Tensor, Tensor, Tensor]] = []

    def take(first: Tensor, second: Tensor, distances: Tensor) -> bool:
        nonlocal total, kept
        total, kept = total + int((sizes[first] * sizes[second]).sum()), kept + len(first)
        _require_sort_and_room(total, kept, count, limit, device)
        found.append((first, second, distances))
        return True

    _require_sort_and_room(total, kept, count, limit, device)
    if limit > 1 and len(sizes) > 1:
        find_near(entries.words, limit, _plan(entries.words, limit), take)
    return in_order(entries, found)


def _require_sort_and_room(total: int, kept: int, count: int, limit: int, device: torch.device) -> None:
    # Sorted pairs need their keys, the order and a copy of both besides the answer.
    require_room_for(2 * total, kept, count, limit, device, "counting twice for their sort, at least ")
    if total > _LARGEST_SORT:
        raise RuntimeError(
            f"hamming_self_join: {total:,} pairs or more are near enough, more than the {_LARGEST_SORT:,} that can be put in "
            "order at once. Lower the radius, join a part of the codes at a time, or use search.near_duplicates"
        )


def near_components(codes: Tensor, limit: int, unite: Unite, report: Callable[[int, int], None]) -> Tensor:
    """Return the first position, int64 [N], of the connected component of each code, where codes nearer than `limit` are linked.

    The pairs of entries are found on the GPU in chunks and linked on the host. unite: link the pairs uint64 a << 32 | b in a
    forest of parents int32 [E], and return how many components became fewer. report: called with the steps done and all steps.
    """
    if limit == 0 or len(codes) < 2:
        return torch.arange(len(codes), device=codes.device)
    entries = entries_of(codes)
    count = len(entries.words)
    parents, left = np.arange(count, dtype=np.int32), count

    def take(first: Tensor, second: Tensor, distances: Tensor) -> bool:
        nonlocal left
        pairs = (first.long() << 32 | second).cpu().numpy().view(np.uint64)
        left -= unite(parents, pairs)
        return left > 1

    if limit > 1 and count > 1:
        find_near(entries.words, limit, _plan(entries.words, limit), take, report)
    roots = torch.from_numpy(_roots(parents)).to(codes.device)
    groups = torch.empty(len(codes), dtype=torch.int64, device=codes.device)
    groups[entries.positions] = torch.repeat_interleave(entries.positions[entries.starts[roots]], entries.starts.diff())
    return groups


def _roots(parents: np.ndarray) -> np.ndarray:
    """Return the root of each entry, int64 [E]; parents come before their children."""
    roots = parents.astype(np.int64)
    while not np.array_equal(roots, further := roots[roots]):
        roots = further
    return roots


def entries_of(codes: Tensor) -> Entries:
    """Return the distinct codes of uint8 [N, B], neither N nor B 0, with their positions."""
    words = as_words(codes)
    order = torch.arange(len(words), device=words.device)
    for word in reversed(range(words.shape[1])):
        order = order[torch.sort(words[order, word], stable=True).indices]
    ordered = words[order]
    is_first = torch.nn.functional.pad((ordered[1:] != ordered[:-1]).any(1), (1, 0), value=True)
    starts = is_first.nonzero().flatten()
    sizes = torch.diff(starts, append=starts.new_tensor([len(words)]))
    by_position = torch.argsort(order[starts])
    starts_by_position = torch.nn.functional.pad(sizes[by_position].cumsum(0), (1, 0))
    moved = torch.repeat_interleave(starts[by_position] - starts_by_position[:-1], sizes[by_position], output_size=len(words))
    positions = order[moved + torch.arange(len(words), device=words.device)]
    return Entries(words[positions[starts_by_position[:-1]]], positions, starts_by_position)


def _sample(words: Tensor) -> np.ndarray:
    """Return a sample of codes int32 [N, W] on the host, uint64 [S, ceil(W / 2)]."""
    few = words[torch.from_numpy(sampled(len(words))).to(words.device)]
    return torch.nn.functional.pad(few, (0, few.shape[1] % 2)).cpu().numpy().view(np.uint64)


def _plan(words: Tensor, limit: int) -> Plan:
    return plan(_sample(words), len(words), limit - 1, _COSTS)


def find_near(
    words: Tensor, limit: int, chosen: Plan, take: Take, report: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Pass every pair of distinct codes int32 [E, W] nearer than `limit` to `take`, until it returns False."""
    masks = torch.from_numpy(chosen.masks.view(np.int32)[:, : words.shape[1]].copy()).to(words.device)
    for step, table in enumerate(chosen.tables, 1):
        rows = torch.arange(len(words), device=words.device)
        ends = torch.full_like(rows, len(words))
        if table:
            mask = torch.from_numpy(chosen.mask(table).view(np.int32)[: words.shape[1]].copy()).to(words.device)
            rows, ends = runs(keys_of(words, mask))
        wanted = torch.zeros(max((*table, -1)) + 1, dtype=torch.int32, device=words.device)
        wanted[list(table)] = 1
        if len(rows):
            run = Runs(words[rows], rows.int(), ends, masks, wanted, limit)
            counts = run.near()
            for first, last, places, total in _chunks(counts):
                if not take(*run.write(first, last, places, total)):
                    return
        report(step, len(chosen.tables))


def keys_of(words: Tensor, mask: Tensor) -> Tensor:
    """Return a hash, int64 [E], of the bits of codes int32 [E, W] that `mask` int32 [W] selects."""
    keys = torch.empty(len(words), dtype=torch.int64, device=words.device)
    launch(_hash_rows, (cdiv(len(words), _KEY_ROWS),), words, mask, keys, len(words), WORDS=words.shape[1], ROWS=_KEY_ROWS)
    return keys


def runs(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows whose keys are not unique, int64 [R], in the order of (key, row), and where their runs end, int64 [R]."""
    ordered, rows = torch.sort(keys, stable=True)
    same = torch.nn.functional.pad(ordered[1:] == ordered[:-1], (1, 1), value=False)
    kept = (same[1:] | same[:-1]).nonzero().flatten()
    rows, begins = rows[kept], ~same[kept]
    starts = torch.nn.functional.pad(begins.nonzero().flatten(), (0, 1), value=len(rows))
    return rows, starts[begins.cumsum(0)]


def _chunks(counts: Tensor) -> list[tuple[int, int, Tensor, int]]:
    """Divide rows with `counts`, int32 [R], into chunks of about _CHUNK pairs: (first, last, places int64 [R], pairs)."""
    ends = counts.cumsum(0)
    total = int(ends[-1])
    if total == 0:
        return []
    limits = torch.arange(_CHUNK, total + _CHUNK, _CHUNK, device=ends.device)
    blocks = torch.searchsorted(ends, limits.clamp(max=total)) // _BLOCK_M + 1  # the block of rows that reaches each limit
    bounds = [0, *(min(block * _BLOCK_M, len(counts)) for block in dict.fromkeys(blocks.tolist()))]
    sums = [0, *ends[torch.tensor(bounds[1:], device=ends.device) - 1].tolist()]
    starts = ends - counts
    return [
        (bounds[i], bounds[i + 1], starts - sums[i], sums[i + 1] - sums[i])
        for i in range(len(bounds) - 1)
        if sums[i + 1] > sums[i]
    ]


class Runs(NamedTuple):
    """Codes in runs of equal keys. A pair belongs to the first table, in ascending order of substrings, in which it is equal."""

    words: Tensor  # int32 [R, W]
    entries: Tensor  # int32 [R], ascending within a run
    ends: Tensor  # int64 [R]: where the run of each code ends
    masks: Tensor  # int32 [m, W]: the bits of each substring
    wanted: Tensor  # int32 [last substring of the table + 1]: 1 for those of the table; a pair is equal on these and no others
    limit: int

    def near(self) -> Tensor:
        """Return the number of near codes that follow each code in its run, int32 [R]."""
        counts = torch.empty(len(self.words), dtype=torch.int32, device=self.words.device)
        self._launch(0, len(self.words), counts, None, counts, counts, counts)
        return counts

    def write(self, first: int, last: int, places: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pairs of rows first .. last - 1, `first` a multiple of a block: entries a < b and distances, int32 [total].

        places: int64 [R], where the pairs of each row begin.
        """
        found = [torch.empty(total, dtype=torch.int32, device=self.words.device) for _ in range(3)]
        self._launch(first, last, None, places, *found)
        return found[0], found[1], found[2]

    def _launch(self, first: int, last: int, counts: Tensor | None, places: Tensor | None, *found: Tensor) -> None:
        launch(
            _compare, (cdiv(last - first, _BLOCK_M),), self.words, self.entries, self.ends, self.masks, self.wanted,
            self.limit, first, last, len(self.words), len(self.wanted), counts if places is None else places, *found,
            WORDS=self.words.shape[1], WRITE=places is not None, BLOCK_M=_BLOCK_M, BLOCK_N=_BLOCK_N,
        )  # fmt: skip


def in_order(entries: Entries, found: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the pairs of positions that equal codes and pairs of entries stand for, ascending, and their distances."""
    sizes, count = entries.starts.diff(), len(entries.positions)
    own = torch.arange(len(sizes), device=sizes.device)
    own = own[sizes > 1].int()
    first, second, distances = (torch.cat(parts) for parts in zip((own, own, torch.zeros_like(own)), *found, strict=True))
    products = sizes[first] * sizes[second]
    starts = products.cumsum(0) - products
    which = torch.repeat_interleave(torch.arange(len(products), device=sizes.device), products)
    slot = torch.arange(len(which), device=sizes.device) - starts[which]
    first, second = first[which], second[which]
    width = sizes[second]
    i = entries.positions[entries.starts[first] + slot // width]
    j = entries.positions[entries.starts[second] + slot % width]
    once = (first != second) | (i < j)  # an entry is combined with itself in both orders
    keys, distances = (torch.minimum(i, j) * count + torch.maximum(i, j))[once], distances[which][once]
    keys, order = torch.sort(keys)
    return torch.stack((keys // count, keys % count), 1), distances[order]


@triton.jit(do_not_specialize=["count"])
def _hash_rows(
    codes,  # int32 words [E, W]
    mask,  # int32 [W]
    keys,  # out: int64 [E]
    count, WORDS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Hash the bits of ROWS codes that are set in the mask."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = rows < count
    low, high = tl.zeros([ROWS], tl.uint32), tl.zeros([ROWS], tl.uint32)
    for word in range(WORDS):
        bits = tl.load(codes + (rows * WORDS + word), mask=live, other=0) & tl.load(mask + word)
        bits = bits.to(tl.uint32, bitcast=True)
        low, high = _mixed(low ^ bits, 0x9E3779B1), _mixed(high ^ bits, 0x85EBCA6B)
    tl.store(keys + rows, high.to(tl.int64) << 32 | low.to(tl.int64), mask=live)


@triton.jit
def _mixed(value, MULTIPLIER: tl.constexpr):
    value = value * MULTIPLIER
    value = (value ^ (value >> 15)) * MULTIPLIER
    return value ^ (value >> 13)


@triton.jit(do_not_specialize=["limit", "first", "last", "count", "substrings"])
def _compare(
    codes,  # int32 words [R, W], in runs
    entries,  # int32 [R]
    ends,  # int64 [R], where the run of each code ends
    masks,  # int32 [m, W]
    wanted,  # int32 [substrings]
    limit, first, last, count, substrings,
    places,  # int64 [R], where the pairs of each row begin, or, without WRITE, out: int32 [R], how many there are
    found_first, found_second, found_distances,  # out: int32 [pairs], with WRITE
    WORDS: tl.constexpr, WRITE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Compare BLOCK_M codes with those that follow them in their runs; count or write the pairs that belong to this table."""
    start = first + tl.program_id(0).to(tl.int64) * BLOCK_M
    rows = start + tl.arange(0, BLOCK_M)
    live = rows < last
    row_ends = tl.load(ends + rows, mask=live, other=0)
    number = tl.zeros([BLOCK_M], tl.int32)
    if WRITE:
        begin = tl.load(places + rows, mask=live, other=0)
        of_rows = tl.load(entries + rows, mask=live, other=0)
    end = tl.max(row_ends, 0)
    tile = start
    while tile < end:
        columns = tile + tl.arange(0, BLOCK_N)
        column_live = columns < count
        distances = tile_distances(codes, codes, rows, live, columns, column_live, WORDS)
        near = (distances < limit) & (columns[None, :] > rows[:, None]) & (columns[None, :] < row_ends[:, None])
        if tl.max(tl.max(near.to(tl.int32), 1), 0) > 0:
            near &= _belongs(codes, rows, live, columns, column_live, masks, wanted, substrings, WORDS)
            hits = near.to(tl.int32)
            if WRITE:
                slots = begin[:, None] + (number[:, None] + tl.cumsum(hits, 1) - 1)
                shape: tl.constexpr = [BLOCK_M, BLOCK_N]
                of_columns = tl.load(entries + columns, mask=column_live, other=0)
                tl.store(found_first + slots, tl.broadcast_to(of_rows[:, None], shape), mask=near)
                tl.store(found_second + slots, tl.broadcast_to(of_columns[None, :], shape), mask=near)
                tl.store(found_distances + slots, distances, mask=near)
            number += tl.sum(hits, 1)
        tile += BLOCK_N
    if not WRITE:
        tl.store(places + rows, number, mask=live)


@triton.jit
def _belongs(codes, rows, row_live, columns, column_live, masks, wanted, substrings, WORDS: tl.constexpr):
    """Return which pairs of a tile are equal on the wanted substrings, and on no other up to the last of these."""
    belongs = row_live[:, None] & column_live[None, :]
    for substring in range(substrings):
        differing = tl.zeros([rows.shape[0], columns.shape[0]], tl.int32)
        for word in range(WORDS):
            mask = tl.load(masks + (substring * WORDS + word))
            row_words = tl.load(codes + (rows * WORDS + word), mask=row_live, other=0) & mask
            words = tl.load(codes + (columns * WORDS + word), mask=column_live, other=0) & mask
            differing |= row_words[:, None] ^ words[None, :]
        belongs &= (differing == 0) == (tl.load(wanted + substring) == 1)
    return belongs
