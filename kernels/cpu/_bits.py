"""Bit machinery of the CPU kernels: vector instructions that Numba has no name for, built as LLVM IR.

A scan takes the gallery in blocks. `load_block` turns the rows of a block into word planes (plane w holds word w of every
code), and two scorers go through them in steps of STEP codes until one of a step is near enough:

- `word_hits` counts bits of 64-bit words, for one query. Where the CPU counts bits in vectors (AVX-512 VPOPCNTDQ) nothing is
  faster, and it needs no preparation, so that it also serves few queries.
- `next_near_rows` counts bits of rows as they lie in memory, for one query: no preparation, and as fast as memory can be read.
- `plane_hits` works on planes of bytes or nibbles (`split_block`), which cost a little to prepare, once for all queries, and
  takes queries in pairs. With a byte shuffle (AVX2) a plane holds a nibble of every code, and one lookup in a table of 16
  bytes answers for both queries of a pair: the low half of the byte says in how many bits the nibble differs from the one,
  the high half from the other. Four lookups are added before the halves are taken apart; to keep the sums below 16 one lookup
  of the four answers 3 where it should answer 4, so that a few codes seem nearer than they are and are turned down when their
  distance is computed. Elsewhere a plane holds a byte of every code, and its bits are counted in vectors of bytes (one
  instruction on Arm). Sums saturate at 255.
"""

import functools
import itertools
import math

import numba
import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._compiler import compiler

LANES = 32  # codes in one vector: a 256-bit register of bytes
VECTORS = 4  # vectors scored together, so that latencies overlap and the branch is rare
STEP = LANES * VECTORS

# Numba keys its cache on disk by a function's own file: after a change in this one, delete kernels/cpu/__pycache__/*.nb[ic].
compiled = compiler(boundscheck=False)
inlined = compiler(boundscheck=False, forceinline=True)

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES, _WORDS, _QUAD = ir.VectorType(_I8, LANES), ir.VectorType(_I64, LANES), ir.VectorType(_I64, 4)

ROW_PATTERN = 8  # words that a query is repeated to for `next_near_rows`
_SHORT_ROWS = (1, 2, 4)  # words of a row that it has own code for
_ROW_STEP = 32  # words of them that it takes at once
_LONG_ROWS = 4  # that it takes at once otherwise
_ROWS_AHEAD = 4096  # bytes: a plain scan of memory waits without prefetching (measured on Zen 3: 20 to 30 per cent)
_EVEN_LANES, _ODD_LANES = (ir.Constant(ir.VectorType(_I32, 4), [first, first + 2, first + 4, first + 6]) for first in (0, 1))


def _cpu_features() -> set[str]:
    """What Numba compiles for: this CPU, unless its environment variables name another."""
    if numba.config.CPU_FEATURES is not None:
        return {feature[1:] for feature in numba.config.CPU_FEATURES.split(",") if feature.startswith("+")}
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


_FEATURES = _cpu_features()
NIBBLES = "avx2" in _FEATURES
PLANES_PER_BYTE = 2 if NIBBLES else 1
_PLANES_A_GROUP = 4 if NIBBLES else 1
VECTOR_POPCOUNT = "avx512vpopcntdq" in _FEATURES
BLOCKS_PAY_FROM = 4 if VECTOR_POPCOUNT else 6  # queries; fewer are faster on rows as they lie in memory


def plane_count(width: int) -> int:
    """Planes that `plane_hits` reads for codes of `width` bytes."""
    return math.ceil(width * PLANES_PER_BYTE / _PLANES_A_GROUP) * _PLANES_A_GROUP


def pair_tables(queries: np.ndarray) -> np.ndarray:
    """What `plane_hits` reads of queries uint8 [Q, B], Q even: an entry for each two, uint8 [Q/2, plane_count(B), ...]."""
    pairs = queries.reshape(-1, 2, queries.shape[1]).transpose(0, 2, 1)  # [Q/2, B, 2]
    if not NIBBLES:
        return np.ascontiguousarray(pairs)
    nibbles = np.stack([pairs & 15, pairs >> 4], axis=2)  # [Q/2, B, 2, 2]
    set_bits = np.array([value.bit_count() for value in range(16)], np.uint8)
    counts = set_bits[nibbles[..., None] ^ np.arange(16, dtype=np.uint8)]  # [Q/2, B, 2, 2, 16]
    counts = counts.reshape(len(pairs), -1, 2, 16)
    counts[:, ::_PLANES_A_GROUP] = np.minimum(counts[:, ::_PLANES_A_GROUP], 3)
    tables = np.zeros((len(pairs), plane_count(queries.shape[1]), 16), np.uint8)
    tables[:, : counts.shape[1]] = counts[:, :, 0] | counts[:, :, 1] << 4
    return tables


def _pointer(builder, address, byte_offset, element):
    return builder.inttoptr(builder.add(address, byte_offset), element.as_pointer())


def _constant(value):
    return ir.Constant(_I64, value)


def _byte_constant(value):
    return ir.Constant(_BYTES, [value] * LANES)


def _splat(builder, value, vector):
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), zeros)


def _zeroed(builder, vector, count):
    places = [cgutils.alloca_once(builder, vector) for _ in range(count)]
    for place in places:
        builder.store(ir.Constant(vector, None), place)
    return places


def _call(builder, name, result, *arguments):
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments)


def _opaque(builder, value):
    """`value`, hidden from LLVM's optimiser, which would otherwise take a mask to pieces, lane by lane."""
    barrier = ir.InlineAsm(ir.FunctionType(value.type, [value.type]), "", "=r,0")
    return builder.call(barrier, [value])


def _hit_masks(builder, sums, limit):
    """The lanes of VECTORS vectors that are below `limit`, as 64-bit masks."""
    lanes = [builder.zext(_opaque(builder, builder.bitcast(builder.icmp_unsigned("<", s, limit), _I32)), _I64) for s in sums]
    return [builder.or_(low, builder.shl(high, _constant(LANES))) for low, high in zip(lanes[::2], lanes[1::2], strict=True)]


def _any_below(builder, sums, limits):
    """Whether a lane of the vectors sums[i] is below limits[i], for any i. A minimum of bytes costs one instruction a vector."""
    below = []
    for vectors, limit in zip(sums, limits, strict=True):
        name = f"llvm.umin.v{LANES}i{limit.type.element.width}"
        smallest = functools.reduce(lambda a, b, name=name: _call(builder, name, a.type, a, b), vectors)
        below.append(builder.icmp_unsigned("<", smallest, limit))
    lanes = builder.bitcast(functools.reduce(builder.or_, below), _I32)
    return builder.icmp_unsigned("!=", lanes, ir.Constant(_I32, 0))


def _scan_until_hit(context, builder, signature, first, stop, limits, score):
    """Take step after step of codes, from `first`, until one has a hit: its first code and the masks for each limit.

    Without a hit the first code is `stop` or more, and the masks mean nothing. score(code) builds the sums of the step at `code`:
    VECTORS vectors for each of `limits`.
    """
    code_place = cgutils.alloca_once_value(builder, first)
    places = [_zeroed(builder, limit.type, VECTORS) for limit in limits]
    condition, body, following, end = (builder.append_basic_block(f"scan.{name}") for name in ("if", "do", "next", "end"))
    builder.branch(condition)
    builder.position_at_end(condition)
    code = builder.load(code_place)
    builder.cbranch(builder.icmp_signed("<", code, stop), body, end)
    builder.position_at_end(body)
    sums = score(code)
    for place, value in zip(itertools.chain(*places), itertools.chain(*sums), strict=True):
        builder.store(value, place)
    builder.cbranch(_any_below(builder, sums, limits), end, following)
    builder.position_at_end(following)
    builder.store(builder.add(code, _constant(STEP)), code_place)
    builder.branch(condition)
    builder.position_at_end(end)
    masks = [_hit_masks(builder, map(builder.load, place), limit) for place, limit in zip(places, limits, strict=True)]
    return context.make_tuple(builder, signature.return_type, [builder.load(code_place), *itertools.chain(*masks)])


@intrinsic
def word_hits(typing, planes, stride, words, first, stop, query, limit):
    """From code `first` on, the next step of which a code is nearer than `limit`: its first code, hits among 64 codes, among 64.

    planes, query: addresses of word planes [words, stride] and of the query's words. Without a hit the first code is `stop` or
    more.
    """
    signature = types.UniTuple(types.uint64, 1 + STEP // 64)(*[types.int64] * 7)

    def codegen(context, builder, signature, args):
        planes, stride, words, first, stop, query, limit = args

        def score(code):
            sums = []
            for vector in range(VECTORS):  # one after the other: the sums of one fill half the registers
                (total,) = _zeroed(builder, _WORDS, 1)
                with cgutils.for_range(builder, words) as loop:
                    query_word = builder.load(_pointer(builder, query, builder.mul(loop.index, _constant(8)), _I64))
                    index = builder.add(builder.mul(loop.index, stride), builder.add(code, _constant(vector * LANES)))
                    values = builder.load(_pointer(builder, planes, builder.mul(index, _constant(8)), _WORDS), align=8)
                    differing = builder.xor(values, _splat(builder, query_word, _WORDS))
                    count = _call(builder, f"llvm.ctpop.v{LANES}i64", _WORDS, differing)
                    builder.store(builder.add(builder.load(total), count), total)
                sums.append(builder.load(total))
            return [sums]

        return _scan_until_hit(context, builder, signature, first, stop, [_splat(builder, limit, _WORDS)], score)

    return signature, codegen


@intrinsic
def next_near_rows(typing, codes, words, first, stop, query, limit):
    """The next `rows_a_step(words)` rows, from `first` on in such steps, of which one is nearer than `limit`: the first of them.

    codes: the address of rows of `words` 64-bit words, at any alignment; query: of a query's words, repeated to ROW_PATTERN
    words or more. Without a hit it is the start of the last, incomplete step or `stop`: up to `stop` nothing else is near.
    """
    signature = types.int64(*[types.int64] * 6)

    def codegen(context, builder, signature, args):
        codes, words, first, stop, query, limit = args
        place = cgutils.alloca_once_value(builder, first)
        otherwise, end = builder.append_basic_block("rows.any"), builder.append_basic_block("rows.end")
        usual = builder.switch(words, otherwise)
        for count in _SHORT_ROWS:
            block = builder.append_basic_block(f"rows.{count}")
            usual.add_case(_constant(count), block)
            builder.position_at_end(block)
            counts = functools.partial(_row_counts, builder, codes, count, query)
            _row_loop(builder, _constant(count), stop, place, end, counts, limit)
        builder.position_at_end(otherwise)
        _row_loop(builder, words, stop, place, end, functools.partial(_long_row_counts, builder, codes, words, query), limit)
        builder.position_at_end(end)
        return builder.load(place)

    return signature, codegen


@intrinsic
def near_rows(typing, codes, words, row, query, limit, distances):
    """Which of the `rows_a_step(words)` rows from `row` on are nearer than `limit`, as bits; see `next_near_rows`.

    distances: the address where the int64 distances of those rows go.
    """
    signature = types.uint64(*[types.int64] * 6)

    def codegen(context, builder, signature, args):
        codes, words, row, query, limit, distances = args
        place = cgutils.alloca_once(builder, _I64)
        otherwise, end = builder.append_basic_block("near.any"), builder.append_basic_block("near.end")
        usual = builder.switch(words, otherwise)
        for count in _SHORT_ROWS:
            block = builder.append_basic_block(f"near.{count}")
            usual.add_case(_constant(count), block)
            builder.position_at_end(block)
            builder.store(_lanes_below(builder, _row_counts(builder, codes, count, query, row), limit, distances), place)
            builder.branch(end)
        builder.position_at_end(otherwise)
        builder.store(_lanes_below(builder, _long_row_counts(builder, codes, words, query, row), limit, distances), place)
        builder.branch(end)
        builder.position_at_end(end)
        return builder.load(place)

    return signature, codegen


@inlined
def rows_a_step(words):
    """Rows that `next_near_rows` takes at once."""
    return _ROW_STEP // words if words == 1 or words == 2 or words == 4 else _LONG_ROWS


def _row_loop(builder, words, stop, place, end, counts, limit):
    """From the row in `place` on, step by step, until one of counts(row) is below `limit` or the next step ends after `stop`."""
    step = _ROW_STEP // words.constant if isinstance(words, ir.Constant) else _LONG_ROWS
    condition, body, following = (builder.append_basic_block(f"rows.{name}") for name in ("if", "do", "next"))
    builder.branch(condition)
    builder.position_at_end(condition)
    row = builder.load(place)
    after = builder.add(row, _constant(step))
    builder.cbranch(builder.icmp_signed("<=", after, stop), body, end)
    builder.position_at_end(body)
    builder.cbranch(_one_below(builder, counts(row), limit), end, following)
    builder.position_at_end(following)
    builder.store(after, place)
    builder.branch(condition)


def _row_counts(builder, codes, words, query, row):
    """The distances of _ROW_STEP / words rows, in vectors: a sum for each row, from vectors of words."""
    address = builder.add(codes, builder.mul(row, _constant(8 * words)))
    pattern = [builder.load(_pointer(builder, query, _constant(32 * i), _QUAD), align=8) for i in range(2)]
    counts = []
    for i in range(_ROW_STEP // 4):
        if i % 2 == 0:  # one line of the cache is two vectors
            _prefetch(builder, builder.add(address, _constant(_ROWS_AHEAD + 32 * i)))
        values = builder.load(_pointer(builder, address, _constant(32 * i), _QUAD), align=1)
        counts.append(_call(builder, "llvm.ctpop.v4i64", _QUAD, builder.xor(values, pattern[i % 2])))
    while words > 1:
        counts = _add_neighbours(builder, counts, words)
        words //= 2
    return counts


def _long_row_counts(builder, codes, words, query, row):
    """The distances of _LONG_ROWS rows, of any number of words, in one vector: first words by fours, then what is left."""
    row_bytes = builder.mul(words, _constant(8))
    addresses = [builder.add(codes, builder.mul(builder.add(row, _constant(i)), row_bytes)) for i in range(4)]
    totals = _zeroed(builder, _QUAD, 4)
    whole = builder.udiv(words, _constant(4))
    with cgutils.for_range(builder, whole) as loop:
        offset = builder.mul(loop.index, _constant(32))
        others = builder.load(_pointer(builder, query, offset, _QUAD), align=8)
        for address, total in zip(addresses, totals, strict=True):
            _prefetch(builder, builder.add(builder.add(address, offset), _constant(_ROWS_AHEAD)))
            values = builder.load(_pointer(builder, address, offset, _QUAD), align=1)
            count = _call(builder, "llvm.ctpop.v4i64", _QUAD, builder.xor(values, others))
            builder.store(builder.add(builder.load(total), count), total)
    sums = _add_neighbours(builder, _add_neighbours(builder, [builder.load(total) for total in totals], 4), 2)
    (sum_,) = _zeroed(builder, _QUAD, 1)
    builder.store(sums[0], sum_)
    with cgutils.for_range_slice(builder, builder.mul(whole, _constant(4)), words, _constant(1), _I64, True) as (index, _):
        offset = builder.mul(index, _constant(8))
        values = ir.Constant(_QUAD, ir.Undefined)
        for lane, address in enumerate(addresses):
            word = builder.load(_pointer(builder, address, offset, _I64), align=1)
            values = builder.insert_element(values, word, ir.Constant(_I32, lane))
        other = builder.load(_pointer(builder, query, offset, _I64))
        count = _call(builder, "llvm.ctpop.v4i64", _QUAD, builder.xor(values, _splat(builder, other, _QUAD)))
        builder.store(builder.add(builder.load(sum_), count), sum_)
    return [builder.load(sum_)]


def _add_neighbours(builder, counts, words):
    """Sums of neighbouring counts of rows that are `words` counts long: two vectors make one."""
    pairs = list(zip(counts[::2], counts[1::2], strict=True))
    if words <= 4:  # neighbours are lanes of a vector, not vectors
        pairs = [[builder.shuffle_vector(*pair, lanes) for lanes in (_EVEN_LANES, _ODD_LANES)] for pair in pairs]
    return [builder.add(*pair) for pair in pairs]


def _one_below(builder, counts, limit):
    beyond = [builder.sub(count, _splat(builder, limit, _QUAD)) for count in counts]
    near = builder.icmp_signed("<", functools.reduce(builder.or_, beyond), ir.Constant(_QUAD, None))
    return builder.icmp_unsigned("!=", builder.bitcast(near, ir.IntType(4)), ir.Constant(ir.IntType(4), 0))


def _lanes_below(builder, counts, limit, copy):
    """Which lanes of vectors of counts are below `limit`, as bits; the counts are copied to the address `copy`."""
    limits, mask = _splat(builder, limit, _QUAD), _constant(0)
    for i, count in enumerate(counts):
        builder.store(count, _pointer(builder, copy, _constant(32 * i), _QUAD), align=8)
        lanes = builder.zext(builder.bitcast(builder.icmp_signed("<", count, limits), ir.IntType(4)), _I64)
        mask = builder.or_(mask, builder.shl(lanes, _constant(4 * i)))
    return mask


def _prefetch(builder, address):
    byte = _I8.as_pointer()
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32]), "llvm.prefetch.p0i8"
    )
    read, keep, data = ir.Constant(_I32, 0), ir.Constant(_I32, 3), ir.Constant(_I32, 1)
    builder.call(function, [builder.inttoptr(address, byte), read, keep, data])


@intrinsic
def plane_hits(typing, planes, stride, count, first, stop, table, limit, other_limit):
    """As `word_hits`, for two queries at once: the first code, two masks for the one query, two for the other.

    planes: the address of byte or nibble planes [count, stride]; table: that of an entry of `pair_tables`. Limits are at most
    255. Some hits are farther than the limit, by a few bits: the caller computes their distance.
    """
    signature = types.UniTuple(types.uint64, 1 + 2 * STEP // 64)(*[types.int64] * 8)

    def codegen(context, builder, signature, args):
        planes, stride, count, first, stop, table, *limits = args
        limits = [_splat(builder, builder.trunc(limit, _I8), _BYTES) for limit in limits]
        groups = builder.udiv(count, _constant(_PLANES_A_GROUP))

        def score(code):
            totals = [_zeroed(builder, _BYTES, VECTORS) for _ in limits]
            with cgutils.for_range(builder, groups) as loop:
                plane = builder.mul(loop.index, _constant(_PLANES_A_GROUP))
                for vector in range(VECTORS):
                    start = builder.add(code, _constant(vector * LANES))
                    partials = _group_distances(builder, planes, stride, plane, start, table)
                    for total, partial in zip(totals, partials, strict=True):
                        sum_ = _call(builder, f"llvm.uadd.sat.v{LANES}i8", _BYTES, builder.load(total[vector]), partial)
                        builder.store(sum_, total[vector])
            return [[builder.load(place) for place in total] for total in totals]

        return _scan_until_hit(context, builder, signature, first, stop, limits, score)

    return signature, codegen


def _group_distances(builder, planes, stride, first_plane, code, table):
    """What a group of planes adds to the distances of LANES codes from two queries."""
    looked_up = []
    for plane in (builder.add(first_plane, _constant(i)) for i in range(_PLANES_A_GROUP)):
        values = builder.load(_pointer(builder, planes, builder.add(builder.mul(plane, stride), code), _BYTES), align=LANES)
        if not NIBBLES:
            return [_differing_bits(builder, values, table, builder.mul(plane, _constant(2)), query) for query in range(2)]
        looked_up.append(_call(builder, "llvm.x86.avx2.pshuf.b", _BYTES, _table_entry(builder, table, plane), values))
    both = functools.reduce(builder.add, looked_up)
    return [builder.and_(both, _byte_constant(15)), builder.lshr(both, _byte_constant(4))]


def _table_entry(builder, table, plane):
    """Sixteen bytes, in both halves of a register, as the byte shuffle wants them."""
    narrow = ir.VectorType(_I8, 16)
    entry = builder.load(_pointer(builder, table, builder.mul(plane, _constant(16)), narrow), align=16)
    both_halves = ir.Constant(ir.VectorType(_I32, LANES), [*range(16), *range(16)])
    return builder.shuffle_vector(entry, ir.Constant(narrow, ir.Undefined), both_halves)


def _differing_bits(builder, values, table, offset, query):
    byte = builder.load(_pointer(builder, table, builder.add(offset, _constant(query)), _I8))
    return _call(builder, f"llvm.ctpop.v{LANES}i8", _BYTES, builder.xor(values, _splat(builder, byte, _BYTES)))


@intrinsic
def split_words(typing, words, planes, stride):
    """The bytes of LANES words at the address `words` go to 8 byte planes, or 16 nibble planes, at `planes`, `stride` apart."""
    signature = types.void(types.int64, types.int64, types.int64)

    def codegen(context, builder, signature, args):
        words, planes, stride = args
        vectors = [builder.load(_pointer(builder, words, _constant(LANES * i), _BYTES), align=8) for i in range(8)]
        for byte, values in enumerate(_deinterleave(builder, vectors)):
            for part, plane in enumerate(_parts(builder, values)):
                row = builder.mul(stride, _constant(byte * PLANES_PER_BYTE + part))
                builder.store(plane, _pointer(builder, planes, row, _BYTES), align=LANES)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def split_bits(typing, words, planes, stride):
    """The bits of LANES words at the address `words` go to 64 planes of LANES bits at `planes`, `stride` bytes apart."""
    signature = types.void(types.int64, types.int64, types.int64)

    def codegen(context, builder, signature, args):
        words, planes, stride = args
        vectors = [builder.load(_pointer(builder, words, _constant(LANES * i), _BYTES), align=8) for i in range(8)]
        for byte, values in enumerate(_deinterleave(builder, vectors)):
            for bit in reversed(range(8)):
                signs = builder.icmp_signed("<", values, ir.Constant(_BYTES, None))
                row = builder.mul(stride, _constant(8 * byte + bit))
                builder.store(_opaque(builder, builder.bitcast(signs, _I32)), _pointer(builder, planes, row, _I32), align=4)
                values = builder.add(values, values)
        return context.get_dummy_value()

    return signature, codegen


def _deinterleave(builder, vectors):
    """Vectors of one long row of elements -> the rows of its elements 0, n, 2n, ... , of 1, n + 1, ... for n vectors."""
    if len(vectors) == 1:
        return vectors
    indices = [ir.Constant(ir.VectorType(_I32, LANES), list(range(parity, 2 * LANES, 2))) for parity in (0, 1)]
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    even, odd = ([builder.shuffle_vector(*pair, index) for pair in pairs] for index in indices)
    rows = zip(_deinterleave(builder, even), _deinterleave(builder, odd), strict=True)
    return [row for pair in rows for row in pair]


def _parts(builder, values):
    if not NIBBLES:
        return [values]
    return [builder.and_(values, _byte_constant(15)), builder.lshr(values, _byte_constant(4))]


@intrinsic
def _word_at(typing, address):
    """The 64-bit word at any address."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], _I64.as_pointer()), align=1)

    return types.uint64(types.int64), codegen


@intrinsic
def popcount(typing, word):
    """Set bits of a uint64."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.ctpop.i64", _I64, args[0])

    return types.int64(types.uint64), codegen


@intrinsic
def lowest_bit(typing, word):
    """The position of the lowest set bit of a uint64 that is not zero."""

    def codegen(context, builder, signature, args):
        return _call(builder, "llvm.cttz.i64", _I64, args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen


@inlined
def row_distance(codes, words, row, query):
    """Between a row of `words` words at the address `codes` and the uint64 array `query`."""
    distance = np.int64(0)
    for word in range(words):
        distance += popcount(_word_at(codes + (row * words + word) * 8) ^ query[word])
    return distance


@compiled
def load_block(codes, first, count, planes):
    """Rows first .. first + count - 1 of uint8 `codes` [N, B] as uint64 word planes [ceil(B/8), >= count]."""
    width = codes.shape[1]
    whole = width // 8
    start = np.int64(codes.ctypes.data) + first * width
    for word in range(whole):
        for i in range(count):
            planes[word, i] = _word_at(start + i * width + 8 * word)
    if width % 8:
        for i in range(count):
            value = np.uint64(0)
            for byte in range(8 * whole, width):
                value |= np.uint64(codes[first + i, byte]) << np.uint64(8 * (byte - 8 * whole))
            planes[whole, i] = value


@compiled
def split_block(word_planes, count, planes):
    """Word planes [W, S] of `count` codes as the planes [8 * W * PLANES_PER_BYTE, S] of `plane_hits`; S is a multiple of STEP."""
    stride = np.int64(planes.shape[1])
    for word in range(word_planes.shape[0]):
        source = np.int64(word_planes[word].ctypes.data)
        target = np.int64(planes[8 * word * PLANES_PER_BYTE].ctypes.data)
        for first in range(0, count, LANES):
            split_words(source + 8 * first, target + first, stride)
