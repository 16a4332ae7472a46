"""Counters of codes by their distance, one set of them a thread, in registers.

A thread walks its share of the gallery for one query, and has a counter for every distance. Registers cannot be indexed, so
the counters are bit-sliced: bit b of plane p of word w is bit p of the count at distance 32 w + b. A distance is one bit of a
word, and adders of three bits bring the bits of a batch of codes into the planes: a few logic instructions a code, whatever the
data, without shared memory, votes or atomics.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._distances import UNROLLED_WORDS, add_bits, code_distances
from ._sizes import cdiv

BATCH = 8  # codes of a thread that are counted together
NOWHERE = tl.constexpr(2**30)


class Counters(NamedTuple):
    """The counters of a program. Codes of many bits have theirs in several blocks, each with programs of its own."""

    words: int  # of a block: 32 distances each
    blocks: int
    last: bool  # whether the largest distance, K, lies behind the words of the last block, in a counter of its own
    planes: int

    @property
    def bins(self) -> int:
        """Distances with a counter, of all blocks."""
        return 32 * self.words * self.blocks + self.last

    def constexprs(self) -> dict[str, int]:
        return {"COUNTED": self.words, "BLOCKED": self.blocks > 1, "LAST": self.last, "PLANES": self.planes}


def counters(bits: int, most_words: int, batches: int, most_planes: int) -> Counters:
    """Counters of distances 0 .. `bits`, `most_words` in a block, for `batches` of a thread."""
    words = min(cdiv(bits, 32), most_words)
    blocks = cdiv(bits, 32 * words)
    planes = 8 if batches <= most_batches(8) else most_planes
    return Counters(words, blocks, bits + 1 > 32 * words * blocks, planes)


def most_batches(planes: int) -> int:
    """How many batches of one distance the counters of a thread can hold."""
    return (2**planes - 1) // BATCH


def segments(values: Tensor, group: int, parts: int, rows: int, batches: int, batch: int) -> Tensor:
    """Rows [N, ...] in the order in which threads read them that walk a segment each, `batches` times `batch`: [N', ...].

    Segment s is thread s % rows of part s // rows; what stands side by side is as `batch_rows` says. Zeros fill up the last
    segments.
    """
    width = values.shape[1]
    padded = torch.nn.functional.pad(values, (0, 0, 0, parts * rows * batches * batch - len(values)))
    laid = padded.view(parts, rows, batches, group, batch // group, width).permute(0, 2, 4, 1, 3, 5)
    return laid.reshape(-1, width)


# Loads take one dimension, [BATCH * ROWS]: with every version of the compiler a row of [BATCH, ROWS] then goes through a warp,
# one thread a segment, and no value moves between threads.


@triton.jit
def batch_rows(part, steps, step, BATCH: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr):
    """Where a thread's codes of a batch stand, int64 [BATCH * ROWS]: GROUP of them side by side, each in a run of its own."""
    place = tl.arange(0, BATCH * ROWS)
    item, thread = place // ROWS, place % ROWS
    place = item % (BATCH // GROUP) * (ROWS * GROUP) + item // (BATCH // GROUP) + thread * GROUP
    # A thread is to read a code's label by itself, not two of neighbours and then swap them.
    return (part * steps + step) * (BATCH * ROWS) + tl.max_contiguous(place, 1)


@triton.jit
def batch_distances(queries, query_words, query, gallery, part, steps, step, size, BATCH: tl.constexpr, WORDS: tl.constexpr,
                    GROUP: tl.constexpr, ROWS: tl.constexpr, SLOW_POPCOUNT: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """Distances int32 [BATCH, ROWS] of a batch. WHOLE: all of it lies before row `size`."""
    # A thread has room for 32 words of codes at a time where they are many, and for 64 at most.
    PIECES: tl.constexpr = BATCH // 2 if (GROUP < 4) and (WORDS > 8 and WORDS <= UNROLLED_WORDS) else 1
    GROUPS: tl.constexpr = BATCH // GROUP // PIECES
    rows = (part * steps + step) * (BATCH * ROWS) + tl.arange(0, GROUPS * ROWS).to(tl.int64) * GROUP
    found = ()
    for piece in tl.static_range(PIECES):
        found += code_distances(queries, query_words, query, query + 1, gallery, rows + piece * (GROUPS * ROWS * GROUP), size,
                                WORDS, 1, GROUP, SLOW_POPCOUNT, WHOLE)  # fmt: skip
    # Item g * (BATCH // GROUP) + p * GROUPS + j is code g of group j of piece p.
    code = tl.arange(0, GROUP)[:, None, None, None]
    part_of_batch = tl.arange(0, PIECES)[None, :, None, None]
    distances = tl.zeros([GROUP, PIECES, GROUPS, ROWS], tl.int32)
    for piece in tl.static_range(PIECES):
        for g in tl.static_range(GROUP):
            one = tl.reshape(found[piece * GROUP + g], [1, 1, GROUPS, ROWS])
            distances = tl.where((code == g) & (part_of_batch == piece), one, distances)
    return tl.reshape(distances, [BATCH, ROWS])


@triton.jit
def batch_relevance(query_labels, gallery_labels, query, rows, size, BATCH: tl.constexpr, ROWS: tl.constexpr,
                    LABELS: tl.constexpr, SHARED: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """Whose labels fit: bool [BATCH, ROWS]; what lies behind row `size`, as some does unless WHOLE, may be anything."""
    if not WHOLE:
        rows = tl.minimum(rows, size - 1)
    found = tl.zeros([BATCH * ROWS], tl.int1)
    for word in range(LABELS):
        wanted = tl.load(query_labels + (query * LABELS + word))
        labels = tl.load(gallery_labels + (rows * LABELS + word))
        if SHARED:
            found = found | ((wanted & labels) != 0)
        else:
            found = found | (wanted == labels)
    return tl.reshape(found, [BATCH, ROWS])


@triton.jit
def only_live(distances, rows, part, batches, step, size, GROUP: tl.constexpr, SEGMENTED: tl.constexpr):
    """A batch's distances, and a distance without a counter instead of those to codes past the first `size` of the gallery.

    SEGMENTED: in batches of how many codes `segments` laid the gallery, 0 where it lies as it did.
    """
    BATCH: tl.constexpr = distances.shape[0]
    ROWS: tl.constexpr = distances.shape[1]
    if SEGMENTED:
        runs: tl.constexpr = SEGMENTED // GROUP
        item = tl.arange(0, BATCH)[:, None]
        group, code = item % (BATCH // GROUP), item // (BATCH // GROUP)
        segment = part * ROWS + tl.arange(0, ROWS)[None, :]
        left = tl.minimum(size - (segment * batches + step) * BATCH, BATCH).to(tl.int32)
        live = group // runs * SEGMENTED + code * runs + group % runs < left
    else:
        live = tl.reshape(rows < size, [BATCH, ROWS])
    return tl.where(live, distances, NOWHERE)


@triton.jit
def weight(wanted):
    """What an item adds to a sum of items and, 16 bits higher, of relevant ones."""
    return tl.where(wanted, 0x10001, 1)


@triton.jit
def items_of(batch):
    """The rows [1, ROWS] of a tensor [BATCH, ROWS], a tuple; every thread keeps what it has.

    A sum over zeros is no instruction, and needs no other layout, which `tl.split` does with some compilers.
    """
    items = ()
    for item in tl.static_range(batch.shape[0]):
        items += (tl.sum(tl.where(tl.arange(0, batch.shape[0])[:, None] == item, batch, 0), axis=0, keep_dims=True),)
    return items


@triton.jit
def _bit(place, word: tl.constexpr):
    """The bit of `word` that stands for a place, 0 where it is another word's."""
    return tl.where((place >> 5) == word, 1 << (place & 31), 0)


@triton.jit
def no_counts(ROWS: tl.constexpr, COUNTED: tl.constexpr, PLANES: tl.constexpr):
    """Plane p of word w is entry w * PLANES + p."""
    planes = ()
    for _ in tl.static_range(COUNTED * PLANES):
        planes += (tl.zeros([1, ROWS], tl.int32),)
    return planes


@triton.jit
def count_batch(planes, items, masks, COUNTED: tl.constexpr, PLANES: tl.constexpr):
    """The planes with a batch added, the places of whose items are a tuple of int32 [1, ROWS].

    masks: of the same kind, -1 for an item to count and 0 for another; empty where all of them count.
    """
    raised = ()
    for word in tl.static_range(COUNTED):
        ones, twos, fours = planes[word * PLANES], planes[word * PLANES + 1], planes[word * PLANES + 2]
        ones, twos, carry = _add_four_items(ones, twos, items, masks, 0, word)
        if len(items) == 8:
            ones, twos, four = _add_four_items(ones, twos, items, masks, 4, word)
            fours, carry = add_bits(fours, carry, four)
        else:
            fours, carry = fours ^ carry, fours & carry
        raised += (ones, twos, fours)
        for plane in tl.static_range(3, PLANES):
            higher = planes[word * PLANES + plane]
            raised += (higher ^ carry,)
            carry = higher & carry
    return raised


@triton.jit
def _add_four_items(ones, twos, items, masks, first: tl.constexpr, word: tl.constexpr):
    bits = ()
    for item in tl.static_range(first, first + 4):
        bit = _bit(items[item], word)
        bits += (bit & masks[item] if len(masks) else bit,)
    ones, two0 = add_bits(ones, bits[0], bits[1])
    ones, two1 = add_bits(ones, bits[2], bits[3])
    twos, four = add_bits(twos, two0, two1)
    return ones, twos, four


@triton.jit
def counts_at(planes, places, COUNTED: tl.constexpr, PLANES: tl.constexpr):
    """The counts, int32 [BATCH, ROWS], at the distances of the items of a batch, which its bits stand for."""
    counts = tl.zeros(places.shape, tl.int32)
    bits = ()
    for word in tl.static_range(COUNTED):
        bits += (_bit(places, word),)
    for plane in tl.static_range(PLANES):
        found = planes[plane] & bits[0]
        for word in tl.static_range(1, COUNTED):
            found = found | (planes[word * PLANES + plane] & bits[word])
        counts += tl.where(found != 0, 1 << plane, 0)
    return counts


@triton.jit
def counts_of(planes, word: tl.constexpr, bit, PLANES: tl.constexpr):
    """The counts, int32 [1, ROWS], at distance 32 * word + bit."""
    counts = tl.zeros(planes[0].shape, tl.int32)
    for plane in tl.static_range(PLANES):
        counts += ((planes[word * PLANES + plane] >> bit) & 1) << plane
    return counts
