"""The steps of a search by spans: find the nearest code of every span, choose k spans, and compute their distances.

A span is a run of consecutive codes; its nearest code represents it. No branch depends on the data, so a pass takes the same time
for every gallery. The scan collects nothing: per distance it only takes one minimum.
"""

import triton
import triton.language as tl
from torch import Tensor

from ._bits import popcount
from ._device import Family, device_of
from ._distances import code_distances, group_of, int8_bits, query_words_of, rows_in_flight
from ._sizes import cdiv, next_power_of_2
from ._smallest import block_of, first_of, held, kept
from .launch import launch

_SLOTS = (32, 128, 1024)  # numbers of chosen spans for which a program is compiled
# Where NVIDIA's compiler aims at 64 or 72 registers and spills a few bytes: (family, warps) -> (most words of a code for which
# this happens, min_blocks_per_sm that prevents it).
_TIGHT: dict[tuple[Family, int], tuple[int, int]] = {("sm_86", 2): (4, 8), ("sm_90", 8): (1, 3), ("sm_100", 8): (1, 3)}


def nearest_by_popcount(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, nearest: Tensor, *, span: int, block_m: int, rows: int, programs: int
) -> None:
    """Fill `nearest` int16 or int32 [Q, ceil(N / span)] with the distance of each span's nearest code.

    queries: int32 words [Q, W], gallery: [N, W], mask: uint8 [N]; a code whose mask is 0 counts as 32 W + 1 away. A program of
    one warp keeps `block_m` queries in registers and reads `rows` groups of codes at a time; `span` is a power of two and a
    multiple of the codes in them. About `programs` programs share the work.
    """
    words, spans = gallery.shape[1], nearest.shape[1]
    query_blocks = cdiv(queries.shape[0], block_m)
    splits = min(spans, cdiv(programs, query_blocks))
    launch(_nearest_by_popcount, (query_blocks * splits,), queries, gallery, mask, nearest, queries.shape[0], gallery.shape[0],
           splits, spans, WORDS=words, BLOCK_M=block_m, GROUP=group_of(words), ROWS=rows, SPAN=span,
           SLOW_POPCOUNT=device_of(gallery.device).backend == "cuda", num_warps=1)  # fmt: skip


def nearest_by_dot(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, nearest: Tensor, *, span: int, block_m: int, rows: int, programs: int
) -> None:
    """Fill `nearest` with the distance of each span's nearest code, computed by tensor cores.

    The arguments are those of `nearest_by_popcount`. A tile has `rows` codes and `block_m` queries, expanded to int8 bits.
    """
    words, spans = gallery.shape[1], nearest.shape[1]
    query_blocks = cdiv(queries.shape[0], block_m)
    splits = min(spans, cdiv(programs, query_blocks))
    launch(_nearest_by_dot, (query_blocks * splits,), queries, gallery, mask, nearest, queries.shape[0], gallery.shape[0],
           splits, spans, WORDS=words, WIDTH=next_power_of_2(words), BLOCK_M=block_m, ROWS=rows, SPAN=span,
           num_warps=4, num_stages=4)  # fmt: skip


def span_distances(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, nearest: Tensor | None, chosen: Tensor, distances: Tensor, *, span: int
) -> None:
    """Fill `distances` [Q, k * span] with the distances to all codes of k spans, 32 W + 1 for a code that may not be found.

    `chosen` int32 [Q, k] holds the numbers of the spans. With `nearest`, which `_smallest.candidates` returns for the nearest
    codes of all spans, `chosen` is filled too, in the order of spans: every program of a query chooses again, which takes less
    time than another launch.
    """
    words, k = gallery.shape[1], chosen.shape[1]
    count = nearest.shape[1] if nearest is not None else 0
    block, warps = block_of(count, k, least=1024) if nearest is not None else (0, 4)
    device = device_of(gallery.device)
    splits = cdiv(32 * device.multiprocessors, warps * queries.shape[0])
    rows = warps * rows_in_flight(words, device.warp_size)
    # A program takes as many spans as fill its first step of rows.
    slots = max(min(next_power_of_2(cdiv(k, splits)), max(_SLOTS)), rows * group_of(words) // span)
    splits = cdiv(k, slots)
    most_words, min_blocks = _TIGHT.get((device.family, warps), (0, None))
    launch(_span_distances, (queries.shape[0] * splits,), queries, gallery, mask, nearest, chosen, distances, gallery.shape[0],
           count, k, splits, slots, WORDS=words, GROUP=group_of(words), ROWS=rows, SPAN=span,
           SLOTS=min(room for room in _SLOTS if room >= slots), BLOCK=block,
           SLOW_POPCOUNT=device.backend == "cuda", num_warps=warps,
           min_blocks_per_sm=min_blocks if words <= most_words else None)  # fmt: skip


@triton.jit
def _program(query_count, BLOCK_M: tl.constexpr):
    """Return the program's split of the gallery and its first query.

    Programs of one split have consecutive numbers, so that they run at the same time and share the split in the cache.
    """
    query_blocks = tl.cdiv(query_count, BLOCK_M)
    return (tl.program_id(0) // query_blocks).to(tl.int64), (tl.program_id(0) % query_blocks).to(tl.int64) * BLOCK_M


@triton.jit
def _nearer(best, queries, query_words, first_query, query_count, gallery, mask, rows, end, WORDS: tl.constexpr,
            BLOCK_M: tl.constexpr, GROUP: tl.constexpr, SLOW_POPCOUNT: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """Return the smaller of `best`, int32 [ROWS] for each query, and the distances to the codes rows + g, g < GROUP."""
    distances = code_distances(
        queries, query_words, first_query, query_count, gallery, rows, end, WORDS, BLOCK_M, GROUP, SLOW_POPCOUNT, WHOLE
    )
    nearer = best
    for code in tl.static_range(GROUP):
        if mask is not None or not WHOLE:
            live = rows + code < end
            if mask is not None:
                live = tl.load(mask + (rows + code), mask=live, other=0) != 0
            handicap = tl.where(live, 0, 32 * WORDS + 1)  # one addition, which merges with those of the words
        minima = ()
        for query in tl.static_range(BLOCK_M):
            distance = distances[query * GROUP + code]
            if mask is not None or not WHOLE:
                distance += handicap
            minima += (tl.minimum(nearer[query], distance),)
        nearer = minima
    return nearer


@triton.jit(do_not_specialize=["query_count", "gallery_count", "splits", "spans"])
def _nearest_by_popcount(queries, gallery, mask, nearest, query_count, gallery_count, splits, spans, WORDS: tl.constexpr,
                         BLOCK_M: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr,
                         SLOW_POPCOUNT: tl.constexpr):  # fmt: skip
    """Find the nearest codes for BLOCK_M queries in every splits-th span of the gallery.

    queries, gallery: int32 words [Q, W], [N, W]; mask: uint8 [N] or None; nearest: out, int16 or int32 [Q, spans].
    """
    split, first_query = _program(query_count, BLOCK_M)
    query_words = query_words_of(queries, first_query, query_count, WORDS, BLOCK_M)
    rows = tl.arange(0, ROWS).to(tl.int64) * GROUP
    for span in range(split, spans, splits):
        start = span * SPAN
        end = tl.minimum(start + SPAN, gallery_count)
        best = ()
        for _ in tl.static_range(BLOCK_M):
            best += (tl.full([ROWS], 32 * WORDS + 1, tl.int32),)
        whole = (end - start) // (ROWS * GROUP)
        for tile in range(whole):
            best = _nearer(best, queries, query_words, first_query, query_count, gallery, mask,
                           start + tile * (ROWS * GROUP) + rows, end, WORDS, BLOCK_M, GROUP, SLOW_POPCOUNT, True)  # fmt: skip
        rest = start + whole * (ROWS * GROUP)
        if rest < end:
            best = _nearer(best, queries, query_words, first_query, query_count, gallery, mask,
                           rest + rows, end, WORDS, BLOCK_M, GROUP, SLOW_POPCOUNT, False)  # fmt: skip
        for query in tl.static_range(BLOCK_M):
            least = tl.min(best[query], axis=0)
            place = nearest + ((first_query + query) * spans + span)
            tl.store(place, least.to(nearest.dtype.element_ty), mask=first_query + query < query_count)


@triton.jit(do_not_specialize=["query_count", "gallery_count", "splits", "spans"])
def _nearest_by_dot(queries, gallery, mask, nearest, query_count, gallery_count, splits, spans, WORDS: tl.constexpr,
                    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """Find the nearest code of each span with tensor cores, for BLOCK_M queries and tiles of ROWS codes.

    The arguments are those of `_nearest_by_popcount`.

    The distance of a code with bits a to a query with bits q is |q| + a . (1 - 2 q). WIDTH is WORDS, rounded up to a power of 2.
    """
    split, first_query = _program(query_count, BLOCK_M)
    query_rows = first_query + tl.arange(0, BLOCK_M)
    query_live = query_rows < query_count
    word = tl.arange(0, WIDTH)
    words = tl.load(queries + (query_rows[:, None] * WORDS + word[None, :]),
                    mask=query_live[:, None] & (word < WORDS)[None, :], other=0)  # fmt: skip
    ones = tl.sum(popcount(words), axis=1)
    signs = tl.trans(1 - 2 * int8_bits(words))  # [K, BLOCK_M]
    # One loop runs over the tiles of all spans, so that the next codes are loaded at the end of a span too.
    tiles: tl.constexpr = SPAN // ROWS
    best = tl.full([ROWS, BLOCK_M], 32 * WORDS + 1, tl.int32)
    for step in range(tl.cdiv(spans - split, splits) * tiles):
        span = split + step // tiles * splits
        # Past the end of the gallery the last code is read again, which changes no minimum of the last span.
        rows = tl.minimum(span * SPAN + step % tiles * ROWS + tl.arange(0, ROWS), gallery_count - 1)
        place = gallery + (rows[:, None] * WORDS + word[None, :])
        if WORDS == WIDTH:
            codes = tl.load(place)
        else:
            codes = tl.load(place, mask=(word < WORDS)[None, :], other=0)
        distances = tl.dot(int8_bits(codes), signs, out_dtype=tl.int32)
        if mask is not None:
            live = tl.load(mask + rows) != 0
            distances += tl.where(live, 0, 64 * WORDS + 1)[:, None]
        best = tl.minimum(best, distances)
        if step % tiles == tiles - 1:
            least = tl.minimum(tl.min(best, axis=0) + ones, 32 * WORDS + 1)
            tl.store(nearest + (query_rows * spans + span), least.to(nearest.dtype.element_ty), mask=query_live)
            best = tl.full([ROWS, BLOCK_M], 32 * WORDS + 1, tl.int32)


@triton.jit(do_not_specialize=["gallery_count", "nearest_count", "k", "splits", "slots"])
def _span_distances(queries, gallery, mask, nearest, chosen, distances, gallery_count, nearest_count, k, splits, slots,
                    WORDS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr, SLOTS: tl.constexpr,
                    BLOCK: tl.constexpr, SLOW_POPCOUNT: tl.constexpr):  # fmt: skip
    """Compute the distances of one query to all codes of `slots` chosen spans, at most SLOTS.

    queries, gallery: int32 words [Q, W], [N, W]; mask: uint8 [N] or None; nearest: None, or a query's candidates [Q,
    nearest_count], from which the program chooses k spans; chosen: int32 [Q, k], out with `nearest`; distances: out, [Q, k *
    SPAN]. BLOCK: how many candidates a program holds. ROWS groups of codes are read at a time.
    """
    query = (tl.program_id(0) // splits).to(tl.int64)
    query_words = query_words_of(queries, query, query + 1, WORDS, 1)
    first_slot = tl.program_id(0) % splits * slots
    slot = first_slot + tl.arange(0, SLOTS)
    end_slot = tl.minimum(first_slot + slots, k)
    if nearest is not None:
        value, place = held(nearest, query, 0, nearest_count, 32 * WORDS + 1, BLOCK)
        _, upto = kept(value, k, 32 * WORDS + 1)
        spans = tl.gather(place, first_of(upto, tl.minimum(slot + 1, k), BLOCK), axis=0)
        tl.store(chosen + (query * k + slot), spans, mask=slot < end_slot)
        spans = tl.where(slot < end_slot, spans, 0)
    else:
        spans = tl.load(chosen + (query * k + slot), mask=slot < end_slot, other=0)

    target = distances + (query * k + first_slot) * SPAN
    live = (end_slot - first_slot) * SPAN
    whole = (tl.max(spans, axis=0) + 1).to(tl.int64) * SPAN <= gallery_count
    for first in range(0, live, ROWS * GROUP):
        within = first + tl.arange(0, ROWS) * GROUP
        rows = tl.gather(spans, within // SPAN, axis=0).to(tl.int64) * SPAN + within % SPAN
        if whole:
            _store_distances(queries, query_words, query, gallery, mask, rows, gallery_count, target, within, live,
                             WORDS, GROUP, SLOW_POPCOUNT, True)  # fmt: skip
        else:
            _store_distances(queries, query_words, query, gallery, mask, rows, gallery_count, target, within, live,
                             WORDS, GROUP, SLOW_POPCOUNT, False)  # fmt: skip


@triton.jit
def _store_distances(queries, query_words, query, gallery, mask, rows, gallery_count, target, within, live,
                     WORDS: tl.constexpr, GROUP: tl.constexpr, SLOW_POPCOUNT: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """Compute the distances to the codes rows + g, and store them at the addresses target + within + g where within < live."""
    distances = code_distances(queries, query_words, query, query + 1, gallery, rows, gallery_count, WORDS, 1, GROUP,
                           SLOW_POPCOUNT, WHOLE)  # fmt: skip
    for code in tl.static_range(GROUP):
        counts = rows + code < gallery_count
        if mask is not None:
            counts = tl.load(mask + (rows + code), mask=counts, other=0) != 0
        distance = tl.where(counts, distances[code], 32 * WORDS + 1)
        tl.store(target + (within + code).to(tl.int64), distance.to(target.dtype.element_ty), mask=within < live)
