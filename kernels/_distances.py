"""Device functions that read packed codes and compute Hamming distances in the registers of a program."""

import triton
import triton.language as tl

from ._bits import popcount

UNROLLED_WORDS = tl.constexpr(16)  # longer codes are read in a loop


def group_of(words: int) -> int:
    """Return how many codes of `words` 32-bit words a thread reads together: the fewest that fill whole 128-bit loads."""
    if words > UNROLLED_WORDS.value:
        return 1
    return 4 if words % 2 else 2 if words % 4 else 1


def rows_in_flight(words: int, lanes: int) -> int:
    """Return how many groups of codes a warp reads at a time where memory is the limit: at least four 128-bit loads per lane."""
    quads = group_of(words) * words // 4 if words <= UNROLLED_WORDS.value else 1
    return lanes * max(1, 4 // quads)


@triton.jit
def tile_distances(queries, gallery, query_rows, query_live, rows, live, WORDS: tl.constexpr):
    """Return the distances int32 [BLOCK_M, BLOCK_N] of one tile.

    queries, gallery: codes of WORDS int32 words; query_rows [BLOCK_M], rows [BLOCK_N]: int64 row numbers; query_live, live: which
    of them exist. The others are read as zeros.
    """
    differing = tl.zeros([query_rows.shape[0], rows.shape[0]], tl.int32)
    for word in range(WORDS):
        query_words = tl.load(queries + (query_rows * WORDS + word), mask=query_live, other=0)  # [BLOCK_M]
        words = tl.load(gallery + (rows * WORDS + word), mask=live, other=0)  # [BLOCK_N]
        differing += popcount(query_words[:, None] ^ words[None, :])
    return differing


@triton.jit
def query_words_of(queries, first_query, query_count, WORDS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Load the words of BLOCK_M queries as a tuple of scalars; return an empty tuple for codes that are read in a loop."""
    words = ()
    if WORDS <= UNROLLED_WORDS:
        for query in tl.static_range(BLOCK_M):
            for word in tl.static_range(WORDS):
                place = queries + ((first_query + query) * WORDS + word)
                words += (tl.load(place, mask=first_query + query < query_count, other=0),)
    return words


@triton.jit
def code_distances(queries, query_words, first_query, query_count, gallery, rows, end, WORDS: tl.constexpr,
               BLOCK_M: tl.constexpr, GROUP: tl.constexpr, SLOW_POPCOUNT: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """Return distances as a tuple of int32 [ROWS]: entry query * GROUP + g holds those from one query to the codes rows + g.

    queries, gallery: int32 words [Q, W], [N, W]; query_words: what `query_words_of` returns for BLOCK_M queries from
    `first_query` on; rows: int64 [ROWS], the first code of each group. WHOLE: all codes are before row `end`; otherwise the
    distance to a code from `end` on is arbitrary.
    """
    distances = ()
    # Read the last code in place of a missing one, because the compiler cannot move a load with a mask.
    if GROUP == 1 and not WHOLE:
        rows = tl.minimum(rows, end - 1)
    if WORDS <= UNROLLED_WORDS:
        words = _codes(gallery, rows, end, WORDS, GROUP, GROUP == 1 or WHOLE)
        for query in tl.static_range(BLOCK_M):
            for code in tl.static_range(GROUP):
                differing = ()
                for word in tl.static_range(WORDS):
                    differing += (words[code * WORDS + word] ^ query_words[query * WORDS + word],)
                distances += (_set_bits(differing, WORDS, SLOW_POPCOUNT),)
    else:
        for _ in tl.static_range(BLOCK_M):
            distances += (tl.zeros([rows.shape[0]], tl.int32),)
        for first_word in range(0, WORDS, 4):
            distances = add_four_words(distances, queries, first_query, query_count, gallery, rows, first_word, WORDS, BLOCK_M)
    return distances


@triton.jit
def _set_bits(words, COUNT: tl.constexpr, SLOW_POPCOUNT: tl.constexpr):
    """Return the number of set bits of COUNT words.

    With SLOW_POPCOUNT, three-bit adders replace eight population counts by four and a few logic instructions. The `minimum`
    with 32 costs no instruction; without it the compiler does not recognise a doubled population count.
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
    """Add three bits in every place of a word: return the sum and the carry."""
    return a ^ b ^ c, (a & b) | (c & (a ^ b))


@triton.jit
def _codes(gallery, rows, end, WORDS: tl.constexpr, GROUP: tl.constexpr, WHOLE: tl.constexpr):
    """Load codes as a tuple of int32 [ROWS]: entry g * WORDS + w is word w of the codes rows + g, rows int64 [ROWS].

    WHOLE: 128-bit loads, each by one thread; otherwise a code of a group may be missing, and words are loaded one by one.
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
    """Return the four columns of a tensor [ROWS, 4] as a tuple. They stay in the registers of the threads that loaded them."""
    even, odd = tl.split(tl.reshape(quads, [quads.shape[0], 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def add_four_words(distances, queries, first_query, query_count, gallery, rows, first_word, WORDS: tl.constexpr,
                   BLOCK_M: tl.constexpr):  # fmt: skip
    """Add the differing bits of four words from `first_word` on to `distances`, one int32 [ROWS] per query; return the sums."""
    word = first_word + tl.arange(0, 4).to(tl.int64)
    place = gallery + ((rows * WORDS)[:, None] + word[None, :])
    if WORDS % 4 == 0:
        columns = _columns(tl.load(place))
    else:
        columns = _columns(tl.load(place, mask=(word < WORDS)[None, :], other=0))
    sums = ()
    for query in tl.static_range(BLOCK_M):
        total = distances[query]
        for column in tl.static_range(4):
            live = (first_query + query < query_count) & (first_word + column < WORDS)
            query_word = tl.load(queries + ((first_query + query) * WORDS + first_word + column), mask=live, other=0)
            total += popcount(columns[column] ^ query_word)
        sums += (total,)
    return sums


@triton.jit
def int8_bits(words):
    """Return the bits of int32 [ROWS, W] as 0 and 1, int8 [ROWS, 32 W], in an order that is the same for all codes.

    The order is not the stored one. Four bits take two instructions, because the compiler sees that the four bytes that are
    separated here are put together again.
    """
    bits = (words[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 0x01010101
    low, high = bits.to(tl.int16), (bits >> 16).to(tl.int16)
    even = tl.join(low.to(tl.int8), high.to(tl.int8))
    odd = tl.join((low >> 8).to(tl.int8), (high >> 8).to(tl.int8))
    return tl.reshape(tl.join(even, odd), [words.shape[0], 32 * words.shape[1]])
