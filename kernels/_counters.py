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

from ._sizes import cdiv
from ._spans import UNROLLED_WORDS, add_bits, add_four_words, code_distances

BATCH = tl.constexpr(8)  # codes of a thread that are added to its counters together
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
        return {"COUNTED": self.words, "BLOCKS": self.blocks, "LAST": self.last, "PLANES": self.planes}


def counters(bits: int, most_words: int, batches: int, most_planes: int) -> Counters:
    """Counters of distances 0 .. `bits`, `most_words` in a block, for `batches` of a thread."""
    words = min(cdiv(bits, 32), most_words)
    blocks = cdiv(bits, 32 * words)
    planes = 8 if batches <= most_batches(8) else most_planes
    return Counters(words, blocks, bits + 1 > 32 * words * blocks, planes)


def most_batches(planes: int) -> int:
    """How many batches of one distance the counters of a thread can hold."""
    return (2**planes - 1) // BATCH.value


def segments(values: Tensor, group: int, parts: int, rows: int, batches: int) -> Tensor:
    """Rows [N, ...] in the order in which threads read them that each walk a segment, a run of `batches` batches: [N', ...].

    Segment s is thread s % rows of part s // rows; `group` rows of it stand side by side. Zeros fill up the last segments.
    """
    width = values.shape[1]
    padded = torch.nn.functional.pad(values, (0, 0, 0, parts * rows * batches * BATCH.value - len(values)))
    laid = padded.view(parts, rows, batches, BATCH.value // group, group, width).permute(0, 2, 3, 1, 4, 5)
    return laid.reshape(-1, width)


@triton.jit
def batch_rows(part, steps, step, GROUP: tl.constexpr, ROWS: tl.constexpr):
    """Where the first of a thread's codes of a batch stand, int64 [ROWS]; the others as `item_rows` says."""
    return (part * steps + step) * (BATCH * ROWS) + tl.arange(0, ROWS).to(tl.int64) * GROUP


@triton.jit
def item_rows(rows, item: tl.constexpr, GROUP: tl.constexpr):
    return rows + (item // GROUP * (rows.shape[0] * GROUP) + item % GROUP)


@triton.jit
def batch_distances(queries, query_words, query, gallery, rows, stored, WORDS: tl.constexpr, GROUP: tl.constexpr,
                    SLOW_POPCOUNT: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """Distances int32 [ROWS] of a batch, a tuple. WHOLE: all of it lies before row `stored`."""
    distances = ()
    if WORDS <= UNROLLED_WORDS:
        for group in tl.static_range(BATCH // GROUP):
            distances += code_distances(queries, query_words, query, query + 1, gallery, item_rows(rows, group * GROUP, GROUP),
                                        stored, WORDS, 1, GROUP, SLOW_POPCOUNT, WHOLE)  # fmt: skip
    else:
        for _ in tl.static_range(BATCH):
            distances += (tl.zeros([rows.shape[0]], tl.int32),)
        for first_word in range(0, WORDS, 4):
            sums = ()
            for item in tl.static_range(BATCH):
                sums += add_four_words((distances[item],), queries, query, query + 1, gallery, item_rows(rows, item, GROUP),
                                       stored, first_word, WORDS, 1, WHOLE)  # fmt: skip
            distances = sums
    return distances


@triton.jit
def batch_relevance(query_labels, gallery_labels, query, rows, stored, GROUP: tl.constexpr, LABELS: tl.constexpr,
                    SHARED: tl.constexpr):  # fmt: skip
    """Whose labels fit: bool [ROWS], a tuple; what lies behind row `stored` may be anything."""
    relevance = ()
    for item in tl.static_range(BATCH):
        row = item_rows(rows, item, GROUP)
        found = tl.zeros([rows.shape[0]], tl.int1)
        for word in range(LABELS):
            wanted = tl.load(query_labels + (query * LABELS + word))
            labels = tl.load(gallery_labels + (row * LABELS + word), mask=row < stored, other=0)
            if SHARED:
                found = found | ((wanted & labels) != 0)
            else:
                found = found | (wanted == labels)
        relevance += (found,)
    return relevance


@triton.jit
def live_items(rows, part, batches, step, size, GROUP: tl.constexpr, SEGMENTED: tl.constexpr):
    """Which codes of a batch stand among the first `size` of the gallery: bool [ROWS], a tuple."""
    live = ()
    for item in tl.static_range(BATCH):
        if SEGMENTED:
            segment = part * rows.shape[0] + tl.arange(0, rows.shape[0])
            live += ((segment * batches + step) * BATCH + item < size,)
        else:
            live += (item_rows(rows, item, GROUP) < size,)
    return live


@triton.jit
def only_live(distances, live):
    """A batch's distances, and a distance without a counter instead of those to codes that are not there."""
    kept = ()
    for item in tl.static_range(BATCH):
        kept += (tl.where(live[item], distances[item], NOWHERE),)
    return kept


@triton.jit
def distance_bits(distances, first, COUNTED: tl.constexpr):
    """A batch's distances from `first` on, one bit each of COUNTED words: word w of item i is entry i * COUNTED + w."""
    bits = ()
    for item in tl.static_range(BATCH):
        place = distances[item] - first
        bit = 1 << (place & 31)
        for word in tl.static_range(COUNTED):
            bits += (tl.where((place >> 5) == word, bit, 0),)
    return bits


@triton.jit
def only(bits, wanted, COUNTED: tl.constexpr):
    """The bits of those items that are wanted."""
    kept = ()
    for item in tl.static_range(BATCH):
        for word in tl.static_range(COUNTED):
            kept += (tl.where(wanted[item], bits[item * COUNTED + word], 0),)
    return kept


@triton.jit
def no_counts(ROWS: tl.constexpr, COUNTED: tl.constexpr, PLANES: tl.constexpr):
    """Plane p of word w is entry w * PLANES + p."""
    planes = ()
    for _ in tl.static_range(COUNTED * PLANES):
        planes += (tl.zeros([ROWS], tl.int32),)
    return planes


@triton.jit
def count_batch(planes, bits, COUNTED: tl.constexpr, PLANES: tl.constexpr):
    """The planes with the bits of a batch added."""
    raised = ()
    for word in tl.static_range(COUNTED):
        ones, twos, fours = planes[word * PLANES], planes[word * PLANES + 1], planes[word * PLANES + 2]
        ones, two0 = add_bits(ones, bits[word], bits[COUNTED + word])
        ones, two1 = add_bits(ones, bits[2 * COUNTED + word], bits[3 * COUNTED + word])
        twos, four0 = add_bits(twos, two0, two1)
        ones, two2 = add_bits(ones, bits[4 * COUNTED + word], bits[5 * COUNTED + word])
        ones, two3 = add_bits(ones, bits[6 * COUNTED + word], bits[7 * COUNTED + word])
        twos, four1 = add_bits(twos, two2, two3)
        fours, carry = add_bits(fours, four0, four1)
        raised += (ones, twos, fours)
        for plane in tl.static_range(3, PLANES):
            higher = planes[word * PLANES + plane]
            raised += (higher ^ carry,)
            carry = higher & carry
    return raised


@triton.jit
def counts_at(planes, bits, item: tl.constexpr, COUNTED: tl.constexpr, PLANES: tl.constexpr):
    """The counts, int32 [ROWS], at the distances of one item of a batch, which its bits stand for."""
    counts = tl.zeros(planes[0].shape, tl.int32)
    for plane in tl.static_range(PLANES):
        found = planes[plane] & bits[item * COUNTED]
        for word in tl.static_range(1, COUNTED):
            found = found | (planes[word * PLANES + plane] & bits[item * COUNTED + word])
        counts += tl.where(found != 0, 1 << plane, 0)
    return counts


@triton.jit
def counts_of(planes, word: tl.constexpr, bit, PLANES: tl.constexpr):
    """The counts, int32 [ROWS], at distance 32 * word + bit."""
    counts = tl.zeros(planes[0].shape, tl.int32)
    for plane in tl.static_range(PLANES):
        counts += ((planes[word * PLANES + plane] >> bit) & 1) << plane
    return counts
