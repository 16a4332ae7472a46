"""Passes that narrow a search down: the nearest code of every span of the gallery, the spans worth a look, and their codes.

A span is a run of codes, and stands for its nearest one. No branch depends on the data, so that a pass takes the same time for
every gallery, and nothing is collected in the scan itself: one minimum a distance is all that it does beside the distance.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._bits import popcount
from ._sizes import cdiv, next_power_of_2
from ._smallest import block_of, first_of, held, kept
from .launch import architecture, backend, launch, multiprocessor_count, properties

UNROLLED_WORDS = tl.constexpr(16)  # longer codes are read in a loop
_MOST_SLOTS = 1024  # chosen spans of a program
# Where NVIDIA's compiler, left alone, aims at 64 or 72 registers and misses by a few bytes: an architecture and the warps of a
# program, for codes of at most so many words; and how many programs are to fit instead.
_TIGHT = {("sm_86", 2): (4, 8), ("sm_89", 2): (4, 8), ("sm_90", 8): (1, 3), ("sm_100", 8): (1, 3)}


def group_of(words: int) -> int:
    """Codes of `words` 32-bit words that are read together: the fewest that fill whole 128-bit loads."""
    if words > UNROLLED_WORDS.value:
        return 1
    return 4 if words % 2 else 2 if words % 4 else 1


def warp_size(device: torch.device) -> int:
    """Threads of a warp on `device`; where there is no GPU, those of the GPUs for data centres that are compiled for."""
    known = properties(device)
    return known.warp_size if known else 64 if backend() == "hip" else 32


def rows_in_flight(words: int, lanes: int) -> int:
    """Groups of codes that a warp reads at a time where memory is the limit: at least four 128-bit loads a lane."""
    quads = group_of(words) * words // 4 if words <= UNROLLED_WORDS.value else 1
    return lanes * max(1, 4 // quads)


def nearest_by_popcount(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, nearest: Tensor, *, span: int, block_q: int, rows: int, programs: int
) -> None:
    """The distance of each span's nearest code, int16 or int32 [Q, ceil(N / span)], from codes in words, [Q, W] and [N, W].

    A program of one warp holds `block_q` queries in registers and meets `rows` groups of codes at a time; `span` is a power of
    two and a multiple of them. mask: uint8 [N]; a code that does not count is 32 W + 1 away.
    """
    words, spans = gallery.shape[1], nearest.shape[1]
    groups = cdiv(queries.shape[0], block_q)
    splits = min(spans, cdiv(programs, groups))
    launch(_nearest_by_popcount, (groups * splits,), queries, gallery, mask, nearest, queries.shape[0], gallery.shape[0],
           splits, spans, WORDS=words, BLOCK_Q=block_q, GROUP=group_of(words), ROWS=rows, SPAN=span,
           SLOW_POPCOUNT=backend() == "cuda", num_warps=1)  # fmt: skip


def nearest_by_dot(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, nearest: Tensor, *, span: int, block_q: int, rows: int, programs: int
) -> None:
    """`nearest_by_popcount` on tensor cores, for tiles of `rows` codes and `block_q` queries: bits as int8, 0 and 1 or +-1."""
    words, spans = gallery.shape[1], nearest.shape[1]
    groups = cdiv(queries.shape[0], block_q)
    splits = min(spans, cdiv(programs, groups))
    launch(_nearest_by_dot, (groups * splits,), queries, gallery, mask, nearest, queries.shape[0], gallery.shape[0],
           splits, spans, WORDS=words, WIDTH=next_power_of_2(words), BLOCK_Q=block_q, ROWS=rows, SPAN=span,
           num_warps=4, num_stages=4)  # fmt: skip


def span_distances(
    queries: Tensor, gallery: Tensor, mask: Tensor | None, nearest: Tensor | None, chosen: Tensor, distances: Tensor, *, span: int
) -> None:
    """Distances to all codes of the k spans `chosen` int32 [Q, k]: [Q, k * span]; 32 W + 1 to a code that does not count.

    With `nearest`, what `_smallest.candidates` returns for the spans' nearest codes, the spans are chosen here, by every program
    of a query again, which takes less time than one more launch; `chosen` is filled with them, in the order of places.
    """
    words, k = gallery.shape[1], chosen.shape[1]
    count = nearest.shape[1] if nearest is not None else 0
    block, warps = block_of(count, k) if nearest is not None else (0, 4)
    parts = cdiv(32 * multiprocessor_count(gallery.device), warps * queries.shape[0])
    slots = min(next_power_of_2(cdiv(k, parts)), _MOST_SLOTS)
    parts = cdiv(k, slots)
    rows = min(warps * rows_in_flight(words, warp_size(gallery.device)), slots * span // group_of(words))
    most_words, fits = _TIGHT.get((architecture(gallery.device), warps), (0, None))
    launch(_span_distances, (queries.shape[0] * parts,), queries, gallery, mask, nearest, chosen, distances, gallery.shape[0],
           count, k, parts, WORDS=words, GROUP=group_of(words), ROWS=rows, SPAN=span, SLOTS=slots, BLOCK=block,
           SLOW_POPCOUNT=backend() == "cuda", num_warps=warps, fits=fits if words <= most_words else None)  # fmt: skip


@triton.jit
def _program(query_count, BLOCK_Q: tl.constexpr):
    """A program's part of the gallery and its first query. Programs of one part run side by side and share it in the cache."""
    groups = tl.cdiv(query_count, BLOCK_Q)
    return (tl.program_id(0) // groups).to(tl.int64), (tl.program_id(0) % groups).to(tl.int64) * BLOCK_Q


@triton.jit
def query_words_of(queries, first_query, query_count, WORDS: tl.constexpr, BLOCK_Q: tl.constexpr):
    """The words of BLOCK_Q queries, a scalar each; none of codes that are read in a loop."""
    words = ()
    if WORDS <= UNROLLED_WORDS:
        for query in tl.static_range(BLOCK_Q):
            for word in tl.static_range(WORDS):
                place = queries + ((first_query + query) * WORDS + word)
                words += (tl.load(place, mask=first_query + query < query_count, other=0),)
    return words


@triton.jit
def code_distances(queries, query_words, first_query, query_count, gallery, rows, end, WORDS: tl.constexpr,
               BLOCK_Q: tl.constexpr, GROUP: tl.constexpr, SLOW_POPCOUNT: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """Distances int32 [ROWS] to the code at rows + g: entry query * GROUP + g of a tuple.

    WHOLE: all of them lie before `end`; otherwise those behind it get any distance.
    """
    distances = ()
    # Where a code may be missing, the last one instead: a load with a mask is one that the compiler cannot move.
    if GROUP == 1 and not WHOLE:
        rows = tl.minimum(rows, end - 1)
    if WORDS <= UNROLLED_WORDS:
        words = _codes(gallery, rows, end, WORDS, GROUP, GROUP == 1 or WHOLE)
        for query in tl.static_range(BLOCK_Q):
            for code in tl.static_range(GROUP):
                differing = ()
                for word in tl.static_range(WORDS):
                    differing += (words[code * WORDS + word] ^ query_words[query * WORDS + word],)
                distances += (_set_bits(differing, WORDS, SLOW_POPCOUNT),)
    else:
        for _ in tl.static_range(BLOCK_Q):
            distances += (tl.zeros([rows.shape[0]], tl.int32),)
        for first_word in range(0, WORDS, 4):
            distances = add_four_words(distances, queries, first_query, query_count, gallery, rows, first_word, WORDS, BLOCK_Q)
    return distances


@triton.jit
def _set_bits(words, COUNT: tl.constexpr, SLOW_POPCOUNT: tl.constexpr):
    """The set bits of COUNT words. Adders of three bits, a few logic instructions, make four popcounts of eight.

    Without its bound, which is no instruction, the doubling of a popcount would hide it from the compiler.
    """
    whole: tl.constexpr = COUNT // 4 * 4 if SLOW_POPCOUNT else 0
    total = tl.zeros(words[0].shape, tl.int32)
    for first in tl.static_range(0, whole // 8 * 8, 8):
        sum0, carry0 = add_bits(words[first], words[first + 1], words[first + 2])
        sum1, carry1 = add_bits(words[first + 3], words[first + 4], words[first + 5])
        ones, carry2 = add_bits(sum0, sum1, words[first + 6])
        twos, fours = add_bits(carry0, carry1, carry2)
        total += popcount(ones) + popcount(words[first + 7])
        total += 2 * tl.minimum(popcount(twos), 32) + 4 * tl.minimum(popcount(fours), 32)
    for first in tl.static_range(whole // 8 * 8, whole, 4):
        ones, twos = add_bits(words[first], words[first + 1], words[first + 2])
        total += popcount(ones) + popcount(words[first + 3]) + 2 * tl.minimum(popcount(twos), 32)
    for word in tl.static_range(whole, COUNT):
        total += popcount(words[word])
    return total


@triton.jit
def add_bits(a, b, c):
    """Sum and carry of three bits, in every place of a word."""
    return a ^ b ^ c, (a & b) | (c & (a ^ b))


@triton.jit
def _codes(gallery, rows, end, WORDS: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr):
    """The words of GROUP codes from each of `rows` int64 [ROWS] on: word w of the code at rows + g is entry g * WORDS + w.

    Loads of 128 bits, each a thread's own; word by word where a code of a group may be missing.
    """
    words = ()
    if WHOLE:
        for quad in tl.static_range(GROUP * WORDS // 4):
            place = (rows * WORDS + 4 * quad)[:, None] + tl.arange(0, 4)[None, :]
            words += _columns(tl.load(gallery + place))
    else:
        for code in tl.static_range(GROUP):
            for word in tl.static_range(WORDS):
                words += (tl.load(gallery + (tl.minimum(rows + code, end - 1) * WORDS + word)),)
    return words


@triton.jit
def _columns(quads):
    """The four columns of [ROWS, 4], which stay in the registers of the threads that loaded them."""
    even, odd = tl.split(tl.reshape(quads, [quads.shape[0], 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def add_four_words(distances, queries, first_query, query_count, gallery, rows, first_word, WORDS: tl.constexpr,
                   BLOCK_Q: tl.constexpr):  # fmt: skip
    word = first_word + tl.arange(0, 4).to(tl.int64)
    place = gallery + ((rows * WORDS)[:, None] + word[None, :])
    if WORDS % 4 == 0:
        columns = _columns(tl.load(place))
    else:
        columns = _columns(tl.load(place, mask=(word < WORDS)[None, :], other=0))
    sums = ()
    for query in tl.static_range(BLOCK_Q):
        total = distances[query]
        for column in tl.static_range(4):
            live = (first_query + query < query_count) & (first_word + column < WORDS)
            query_word = tl.load(queries + ((first_query + query) * WORDS + first_word + column), mask=live, other=0)
            total += popcount(columns[column] ^ query_word)
        sums += (total,)
    return sums


@triton.jit
def _nearer(best, queries, query_words, first_query, query_count, gallery, mask, rows, end, WORDS: tl.constexpr,
            BLOCK_Q: tl.constexpr, GROUP: tl.constexpr, SLOW_POPCOUNT: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """`best`, for each query int32 [ROWS], against the codes at rows + g."""
    distances = code_distances(
        queries, query_words, first_query, query_count, gallery, rows, end, WORDS, BLOCK_Q, GROUP, SLOW_POPCOUNT, WHOLE
    )
    nearer = best
    for code in tl.static_range(GROUP):
        if mask is not None or not WHOLE:
            live = rows + code < end
            if mask is not None:
                live = tl.load(mask + (rows + code), mask=live, other=0) != 0
            handicap = tl.where(live, 0, 32 * WORDS + 1)  # one addition, which joins those of the words
        minima = ()
        for query in tl.static_range(BLOCK_Q):
            distance = distances[query * GROUP + code]
            if mask is not None or not WHOLE:
                distance += handicap
            minima += (tl.minimum(nearer[query], distance),)
        nearer = minima
    return nearer


@triton.jit(do_not_specialize=["query_count", "gallery_count", "splits", "spans"])
def _nearest_by_popcount(queries, gallery, mask, nearest, query_count, gallery_count, splits, spans, WORDS: tl.constexpr,
                         BLOCK_Q: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr,
                         SLOW_POPCOUNT: tl.constexpr):  # fmt: skip
    split, first_query = _program(query_count, BLOCK_Q)
    query_words = query_words_of(queries, first_query, query_count, WORDS, BLOCK_Q)
    rows = tl.arange(0, ROWS).to(tl.int64) * GROUP
    for span in range(split, spans, splits):
        start = span * SPAN
        end = tl.minimum(start + SPAN, gallery_count)
        best = ()
        for _ in tl.static_range(BLOCK_Q):
            best += (tl.full([ROWS], 32 * WORDS + 1, tl.int32),)
        whole = (end - start) // (ROWS * GROUP)
        for tile in range(whole):
            best = _nearer(best, queries, query_words, first_query, query_count, gallery, mask,
                           start + tile * (ROWS * GROUP) + rows, end, WORDS, BLOCK_Q, GROUP, SLOW_POPCOUNT, True)  # fmt: skip
        rest = start + whole * (ROWS * GROUP)
        if rest < end:
            best = _nearer(best, queries, query_words, first_query, query_count, gallery, mask,
                           rest + rows, end, WORDS, BLOCK_Q, GROUP, SLOW_POPCOUNT, False)  # fmt: skip
        for query in tl.static_range(BLOCK_Q):
            least = tl.min(best[query], axis=0)
            place = nearest + ((first_query + query) * spans + span)
            tl.store(place, least.to(nearest.dtype.element_ty), mask=first_query + query < query_count)


@triton.jit
def _int8_bits(words):
    """int32 [ROWS, W] -> int8 [ROWS, 32 W], a 0 or 1 for each bit; all codes in one order of bits, which is not the stored one.

    Four bits in two instructions: the compiler sees that the four bytes taken apart here go together again.
    """
    bits = (words[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 0x01010101
    low, high = bits.to(tl.int16), (bits >> 16).to(tl.int16)
    even = tl.join(low.to(tl.int8), high.to(tl.int8))
    odd = tl.join((low >> 8).to(tl.int8), (high >> 8).to(tl.int8))
    return tl.reshape(tl.join(even, odd), [words.shape[0], 32 * words.shape[1]])


@triton.jit(do_not_specialize=["query_count", "gallery_count", "splits", "spans"])
def _nearest_by_dot(queries, gallery, mask, nearest, query_count, gallery_count, splits, spans, WORDS: tl.constexpr,
                    WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """With a the bits of a code and q those of a query, the distance is |q| + a . (1 - 2 q)."""
    split, first_query = _program(query_count, BLOCK_Q)
    query_rows = first_query + tl.arange(0, BLOCK_Q)
    query_live = query_rows < query_count
    word = tl.arange(0, WIDTH)
    words = tl.load(queries + (query_rows[:, None] * WORDS + word[None, :]),
                    mask=query_live[:, None] & (word < WORDS)[None, :], other=0)  # fmt: skip
    ones = tl.sum(popcount(words), axis=1)
    signs = tl.trans(1 - 2 * _int8_bits(words))  # [K, BLOCK_Q]
    # One loop for the tiles of all spans, so that the next codes are on their way at the end of a span too.
    tiles: tl.constexpr = SPAN // ROWS
    best = tl.full([ROWS, BLOCK_Q], 32 * WORDS + 1, tl.int32)
    for step in range(tl.cdiv(spans - split, splits) * tiles):
        span = split + step // tiles * splits
        # Past the end of the gallery the last code again: it changes no minimum of the last span.
        rows = tl.minimum(span * SPAN + step % tiles * ROWS + tl.arange(0, ROWS), gallery_count - 1)
        place = gallery + (rows[:, None] * WORDS + word[None, :])
        if WORDS == WIDTH:
            codes = tl.load(place)
        else:
            codes = tl.load(place, mask=(word < WORDS)[None, :], other=0)
        distances = tl.dot(_int8_bits(codes), signs, out_dtype=tl.int32)
        if mask is not None:
            live = tl.load(mask + rows) != 0
            distances += tl.where(live, 0, 64 * WORDS + 1)[:, None]
        best = tl.minimum(best, distances)
        if step % tiles == tiles - 1:
            least = tl.minimum(tl.min(best, axis=0) + ones, 32 * WORDS + 1)
            tl.store(nearest + (query_rows * spans + span), least.to(nearest.dtype.element_ty), mask=query_live)
            best = tl.full([ROWS, BLOCK_Q], 32 * WORDS + 1, tl.int32)


@triton.jit(do_not_specialize=["gallery_count", "nearest_count", "k", "parts"])
def _span_distances(queries, gallery, mask, nearest, chosen, distances, gallery_count, nearest_count, k, parts,
                    WORDS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, SPAN: tl.constexpr, SLOTS: tl.constexpr,
                    BLOCK: tl.constexpr, SLOW_POPCOUNT: tl.constexpr):  # fmt: skip
    query = (tl.program_id(0) // parts).to(tl.int64)
    query_words = query_words_of(queries, query, query + 1, WORDS, 1)
    first_slot = tl.program_id(0) % parts * SLOTS
    slot = first_slot + tl.arange(0, SLOTS)
    if nearest is not None:
        value, place = held(nearest, query, 0, nearest_count, 32 * WORDS + 1, BLOCK)
        _, upto = kept(value, k, 32 * WORDS + 1)
        spans = tl.gather(place, first_of(upto, tl.minimum(slot + 1, k), BLOCK), axis=0)
        tl.store(chosen + (query * k + slot), spans, mask=slot < k)
    else:
        spans = tl.load(chosen + (query * k + slot), mask=slot < k, other=0)

    target = distances + (query * k + first_slot) * SPAN
    live = tl.minimum(k - first_slot, SLOTS) * SPAN
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
    distances = code_distances(queries, query_words, query, query + 1, gallery, rows, gallery_count, WORDS, 1, GROUP,
                           SLOW_POPCOUNT, WHOLE)  # fmt: skip
    for code in tl.static_range(GROUP):
        counts = rows + code < gallery_count
        if mask is not None:
            counts = tl.load(mask + (rows + code), mask=counts, other=0) != 0
        distance = tl.where(counts, distances[code], 32 * WORDS + 1)
        tl.store(target + (within + code).to(tl.int64), distance.to(target.dtype.element_ty), mask=within < live)
