"""Read packed codes and compute Hamming distances in the registers of a program."""

import triton
import triton.language as tl

from ._bits import popcount

UNROLLED_WORDS = tl.constexpr(16)  # longer codes are read in a loop


def group_of(words: int) -> int:
    """Codes of `words` 32-bit words that are read together: the fewest that fill whole 128-bit loads."""
    if words > UNROLLED_WORDS.value:
        return 1
    return 4 if words % 2 else 2 if words % 4 else 1


def rows_in_flight(words: int, lanes: int) -> int:
    """Groups of codes that a warp reads at a time where memory is the limit: at least four 128-bit loads a lane."""
    quads = group_of(words) * words // 4 if words <= UNROLLED_WORDS.value else 1
    return lanes * max(1, 4 // quads)


@triton.jit
def tile_distances(queries, gallery, query_rows, query_live, rows, live, WORDS: tl.constexpr):
    """int32 [BLOCK_Q, BLOCK_N] from codes of WORDS int32 words; row numbers are int64, dead rows read as zeros."""
    differing = tl.zeros([query_rows.shape[0], rows.shape[0]], tl.int32)
    for word in range(WORDS):
        query_words = tl.load(queries + (query_rows * WORDS + word), mask=query_live, other=0)  # [BLOCK_Q]
        words = tl.load(gallery + (rows * WORDS + word), mask=live, other=0)  # [BLOCK_N]
        differing += popcount(query_words[:, None] ^ words[None, :])
    return differing


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
def int8_bits(words):
    """int32 [ROWS, W] -> int8 [ROWS, 32 W], a 0 or 1 for each bit; all codes in one order of bits, which is not the stored one.

    Four bits in two instructions: the compiler sees that the four bytes taken apart here go together again.
    """
    bits = (words[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 0x01010101
    low, high = bits.to(tl.int16), (bits >> 16).to(tl.int16)
    even = tl.join(low.to(tl.int8), high.to(tl.int8))
    odd = tl.join((low >> 8).to(tl.int8), (high >> 8).to(tl.int8))
    return tl.reshape(tl.join(even, odd), [words.shape[0], 32 * words.shape[1]])
