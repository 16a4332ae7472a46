"""Bit machinery of the CPU kernels: vector instructions that Numba has no name for, built as LLVM IR.

A scan takes the gallery in blocks. `load_block` turns the rows of a block into word planes (plane w holds word w of every
code), and two scorers go through them in steps of STEP codes until one of a step is near enough:

- `word_hits` counts bits of 64-bit words, for one query. Where the CPU counts bits in vectors (AVX-512 VPOPCNTDQ) nothing is
  faster, and it needs no preparation, so that it also serves few queries.
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

LANES = 32  # codes in one vector: a 256-bit register of bytes
VECTORS = 4  # vectors scored together, so that latencies overlap and the branch is rare
STEP = LANES * VECTORS

# Numba keys its cache on disk by a function's own file: after a change in this one, delete kernels/cpu/__pycache__/*.nb[ic].
compiled = numba.njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)
inlined = numba.njit(cache=True, nogil=True, error_model="numpy", boundscheck=False, forceinline=True)

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES, _WORDS = ir.VectorType(_I8, LANES), ir.VectorType(_I64, LANES)


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
PLANES_PAY_FROM = 2**62 if VECTOR_POPCOUNT else 4  # queries


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
def next_row(typing, codes, words, first, stop, query, limit):
    """The next row, from `first` on, that is nearer than `limit`: (row, distance); without one (stop, anything).

    codes, query: addresses of rows of `words` 64-bit words.
    """
    signature = types.UniTuple(types.int64, 2)(*[types.int64] * 6)

    def codegen(context, builder, signature, args):
        codes, words, first, stop, query, limit = args
        row_place = cgutils.alloca_once_value(builder, first)
        distance_place = cgutils.alloca_once(builder, _I64)
        end = builder.append_basic_block("rows.end")
        otherwise = builder.append_basic_block("rows.any")
        usual = builder.switch(words, otherwise)
        for count in (*map(_constant, (1, 2, 4, 8)), words):
            block = otherwise if count is words else builder.append_basic_block(f"rows.{count.constant}")
            if count is not words:
                usual.add_case(count, block)
            builder.position_at_end(block)
            _row_loop(builder, codes, count, stop, query, limit, row_place, distance_place, end)
        builder.position_at_end(end)
        return context.make_tuple(builder, signature.return_type, [builder.load(row_place), builder.load(distance_place)])

    return signature, codegen


def _row_loop(builder, codes, words, stop, query, limit, row_place, distance_place, end):
    condition, body, following = (builder.append_basic_block(f"rows.{name}") for name in ("if", "do", "next"))
    builder.branch(condition)
    builder.position_at_end(condition)
    row = builder.load(row_place)
    builder.cbranch(builder.icmp_signed("<", row, stop), body, end)
    builder.position_at_end(body)
    distance = _row_distance(builder, builder.add(codes, builder.mul(row, builder.mul(words, _constant(8)))), words, query)
    builder.store(distance, distance_place)
    builder.cbranch(builder.icmp_signed("<", distance, limit), end, following)
    builder.position_at_end(following)
    builder.store(builder.add(row, _constant(1)), row_place)
    builder.branch(condition)


def _row_distance(builder, row, words, query):
    def word_distance(word):
        offset = builder.mul(word, _constant(8))
        code, other = (builder.load(_pointer(builder, address, offset, _I64), align=1) for address in (row, query))
        differing = _opaque(builder, builder.xor(code, other))  # LLVM would count four words in a vector, with more ado than gain
        return _call(builder, "llvm.ctpop.i64", _I64, differing)

    if isinstance(words, ir.Constant):
        return functools.reduce(builder.add, [word_distance(_constant(word)) for word in range(words.constant)])
    (total,) = _zeroed(builder, _I64, 1)
    with cgutils.for_range(builder, words) as loop:
        builder.store(builder.add(builder.load(total), word_distance(loop.index)), total)
    return builder.load(total)


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
