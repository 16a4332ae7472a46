"""Counters of codes by distance, in the registers of each thread.

A thread reads its share of the gallery for one query and has a counter for every distance. Registers cannot be indexed, so the
counters are bit-sliced: bit b of plane p of word w is bit p of the count at distance 32 w + b. Each distance is one bit of a
word, and three-bit adders add the bits of a batch of codes to the planes. That takes a few logic instructions per code, whatever
the data, without shared memory, votes or atomics.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._distances import UNROLLED_WORDS, add_bits, code_distances
from ._sizes import cdiv

BATCH = 8  # codes that a thread counts together
NOWHERE = tl.constexpr(2**30)  # a distance without a counter


class Counters(NamedTuple):
    """Layout of the counters of a program. The distances of long codes are divided into blocks, each with programs of its own."""

    words: int  # words of 32 distances in a block
    blocks: int
    last: bool  # whether the largest distance, K, is not in the words of the last block and has a counter of its own
    planes: int  # bit planes of a counter, one for each bit of a count

    @property
    def bins(self) -> int:
        """Return the number of distances that have a counter, over all blocks."""
        return 32 * self.words * self.blocks + self.last

    def constexprs(self) -> dict[str, int]:
        """Return the kernel constants that describe these counters."""
        return {"COUNTED": self.words, "BLOCKED": self.blocks > 1, "LAST": self.last, "PLANES": self.planes}


def counters(bits: int, most_words: int, batches: int, most_planes: int) -> Counters:
    """Lay out counters for distances 0 .. `bits`, at most `most_words` words in a block, for `batches` batches per thread."""
    words = min(cdiv(bits, 32), most_words)
    blocks = cdiv(bits, 32 * words)
    planes = 8 if batches <= most_batches(8) else most_planes
    return Counters(words, blocks, bits + 1 > 32 * words * blocks, planes)


def most_batches(planes: int) -> int:
    """Return how many batches a thread can count before a counter overflows, even if all codes are at one distance."""
    return (2**planes - 1) // BATCH


def segments(values: Tensor, group: int, splits: int, lanes: int, batches: int, batch: int) -> Tensor:
    """Reorder rows [N, ...] for kernels in which each thread reads a segment of consecutive rows; return [N', ...].

    A segment is a run of batches * batch rows; segment s belongs to thread s % lanes of split s // lanes. What is stored side by
    side is what `batch_rows` reads together. Zeros fill up the last segments.
    """
    width = values.shape[1]
    padded = torch.nn.functional.pad(values, (0, 0, 0, splits * lanes * batches * batch - len(values)))
    laid = padded.view(splits, lanes, batches, group, batch // group, width).permute(0, 2, 4, 1, 3, 5)
    return laid.reshape(-1, width)


# Loads have one dimension, [BATCH * LANES]: with every version of the compiler each row of [BATCH, LANES] is then one value per
# thread, and no value moves between threads.


@triton.jit
def batch_rows(split, steps, step, BATCH: tl.constexpr, GROUP: tl.constexpr, LANES: tl.constexpr):
    """Return the row numbers of a batch, int64 [BATCH * LANES]: item i of lane l is entry i * LANES + l."""
    place = tl.arange(0, BATCH * LANES)
    item, thread = place // LANES, place % LANES
    place = item % (BATCH // GROUP) * (LANES * GROUP) + item // (BATCH // GROUP) + thread * GROUP
    # This keeps the compiler from loading two neighbouring labels in one thread and exchanging them afterwards.
    return (split * steps + step) * (BATCH * LANES) + tl.max_contiguous(place, 1)


@triton.jit
def batch_distances(queries, query_words, query, gallery, split, steps, step, size, BATCH: tl.constexpr, WORDS: tl.constexpr,
                    GROUP: tl.constexpr, LANES: tl.constexpr, SLOW_POPCOUNT: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """Return the distances int32 [BATCH, LANES] of a batch of codes. WHOLE: all of its rows are before row `size`."""
    # A thread has registers for 32 to 64 words of codes at a time, so a batch of long codes is read in several chunks.
    CHUNKS: tl.constexpr = BATCH // 2 if (GROUP < 4) and (WORDS > 8 and WORDS <= UNROLLED_WORDS) else 1
    GROUPS: tl.constexpr = BATCH // GROUP // CHUNKS
    rows = (split * steps + step) * (BATCH * LANES) + tl.arange(0, GROUPS * LANES).to(tl.int64) * GROUP
    found = ()
    for chunk in tl.static_range(CHUNKS):
        found += code_distances(queries, query_words, query, query + 1, gallery, rows + chunk * (GROUPS * LANES * GROUP), size,
                                WORDS, 1, GROUP, SLOW_POPCOUNT, WHOLE)  # fmt: skip
    # Item g * (BATCH // GROUP) + p * GROUPS + j is code g of group j of chunk p.
    code = tl.arange(0, GROUP)[:, None, None, None]
    chunk_of_batch = tl.arange(0, CHUNKS)[None, :, None, None]
    distances = tl.zeros([GROUP, CHUNKS, GROUPS, LANES], tl.int32)
    for chunk in tl.static_range(CHUNKS):
        for g in tl.static_range(GROUP):
            one = tl.reshape(found[chunk * GROUP + g], [1, 1, GROUPS, LANES])
            distances = tl.where((code == g) & (chunk_of_batch == chunk), one, distances)
    return tl.reshape(distances, [BATCH, LANES])


@triton.jit
def batch_relevance(query_labels, gallery_labels, query, rows, size, BATCH: tl.constexpr, LANES: tl.constexpr,
                    LABELS: tl.constexpr, SHARED: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """Return which codes of a batch are relevant to the query, bool [BATCH, LANES]; arbitrary from row `size` on.

    SHARED: labels are sets of classes, LABELS words of bits, that must share a class; otherwise the words must be equal. WHOLE:
    all rows are before row `size`.
    """
    if not WHOLE:
        rows = tl.minimum(rows, size - 1)
    found = tl.zeros([BATCH * LANES], tl.int1)
    for word in range(LABELS):
        wanted = tl.load(query_labels + (query * LABELS + word))
        labels = tl.load(gallery_labels + (rows * LABELS + word))
        if SHARED:
            found = found | ((wanted & labels) != 0)
        else:
            found = found | (wanted == labels)
    return tl.reshape(found, [BATCH, LANES])


@triton.jit
def only_live(distances, rows, split, batches, step, size, GROUP: tl.constexpr, SEGMENTED: tl.constexpr):
    """Return the distances of a batch, replaced by NOWHERE for codes past the first `size` of the gallery.

    SEGMENTED: the number of codes of a batch for which `segments` reordered the gallery, or 0 where it did not.
    """
    BATCH: tl.constexpr = distances.shape[0]
    LANES: tl.constexpr = distances.shape[1]
    if SEGMENTED:
        runs: tl.constexpr = SEGMENTED // GROUP
        item = tl.arange(0, BATCH)[:, None]
        group, code = item % (BATCH // GROUP), item // (BATCH // GROUP)
        segment = split * LANES + tl.arange(0, LANES)[None, :]
        left = tl.minimum(size - (segment * batches + step) * BATCH, BATCH).to(tl.int32)
        live = group // runs * SEGMENTED + code * runs + group % runs < left
    else:
        live = tl.reshape(rows < size, [BATCH, LANES])
    return tl.where(live, distances, NOWHERE)


@triton.jit
def weight(wanted):
    """Return the increment for an item in a sum that counts all items in its low 16 bits and relevant items above them."""
    return tl.where(wanted, 0x10001, 1)


@triton.jit
def items_of(batch):
    """Return the rows [1, LANES] of a tensor [BATCH, LANES] as a tuple, without moving values between threads.

    The sum over zeros costs no instruction and keeps the layout, which `tl.split` changes with some compilers.
    """
    items = ()
    for item in tl.static_range(batch.shape[0]):
        items += (tl.sum(tl.where(tl.arange(0, batch.shape[0])[:, None] == item, batch, 0), axis=0, keep_dims=True),)
    return items


@triton.jit
def _bit(place, word: tl.constexpr):
    """Return a 32-bit mask of the bit for `place`, or 0 where the place is not in word number `word`."""
    return tl.where((place >> 5) == word, 1 << (place & 31), 0)


@triton.jit
def no_counts(LANES: tl.constexpr, COUNTED: tl.constexpr, PLANES: tl.constexpr):
    """Return counters that are all zero, as a tuple of int32 [1, LANES]: plane p of word w is entry w * PLANES + p."""
    planes = ()
    for _ in tl.static_range(COUNTED * PLANES):
        planes += (tl.zeros([1, LANES], tl.int32),)
    return planes


@triton.jit
def count_batch(planes, items, masks, COUNTED: tl.constexpr, PLANES: tl.constexpr):
    """Count a batch of items and return the new planes; `items` holds the items' places, a tuple of int32 [1, LANES].

    masks: a tuple of the same kind, -1 for an item that counts and 0 for another, or empty where all count.
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
    """Add four items to the two lowest planes of a word; return these planes and the carry to the next plane."""
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
    """Return the counts int32 [BATCH, LANES] at the distances `places` of the items of a batch."""
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
    """Return the counts int32 [1, LANES] at distance 32 * word + bit."""
    counts = tl.zeros(planes[0].shape, tl.int32)
    for plane in tl.static_range(PLANES):
        counts += ((planes[word * PLANES + plane] >> bit) & 1) << plane
    return counts
