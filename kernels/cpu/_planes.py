"""Search for near codes in blocks of the gallery that are stored as planes, STEP codes at a time.

`load_block` of _bits.py turns the rows of a block into word planes: plane w holds word w of every code. Two functions search:

- `word_hits` counts bits of 64-bit words for one query. It is the fastest where the CPU counts bits in vectors (AVX-512
  VPOPCNTDQ), and it needs no preparation, so it also serves few queries.
- `plane_hits` reads planes of bytes or nibbles (`split_block`), whose preparation is shared by all queries, for two queries at a
  time. With a byte shuffle (AVX2) a plane holds a nibble of every code, and one lookup in a table of 16 bytes serves both
  queries: the low half of the byte is the number of bits in which the nibble differs from the first query, the high half from the
  second. Four lookups are added before the halves are separated. To keep the sums below 16, one lookup of the four gives 3
  instead of 4; so a few codes seem nearer than they are, and the caller rejects them by their exact distance. Without a byte
  shuffle a plane holds a byte of every code, and its bits are counted in vectors of bytes (one instruction on Arm). Sums saturate
  at 255.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._bits import NIBBLES, PLANES_PER_BYTE, STEP, VECTORS
from ._ir import BYTES, I8, I32, I64, LANES, WORDS, byte_constant, call, constant, opaque, pointer, splat, zeroed

_PLANES_PER_GROUP = 4 if NIBBLES else 1


def plane_count(width: int) -> int:
    """Return how many planes `plane_hits` reads for codes of `width` bytes."""
    return math.ceil(width * PLANES_PER_BYTE / _PLANES_PER_GROUP) * _PLANES_PER_GROUP


def pair_tables(queries: np.ndarray) -> np.ndarray:
    """Return the lookup tables of `plane_hits` for queries uint8 [Q, B], Q even: uint8 [Q/2, plane_count(B), ...]."""
    pairs = queries.reshape(-1, 2, queries.shape[1]).transpose(0, 2, 1)  # [Q/2, B, 2]
    if not NIBBLES:
        return np.ascontiguousarray(pairs)
    nibbles = np.stack([pairs & 15, pairs >> 4], axis=2)  # [Q/2, B, 2, 2]
    set_bits = np.array([value.bit_count() for value in range(16)], np.uint8)
    counts = set_bits[nibbles[..., None] ^ np.arange(16, dtype=np.uint8)]  # [Q/2, B, 2, 2, 16]
    counts = counts.reshape(len(pairs), -1, 2, 16)
    counts[:, ::_PLANES_PER_GROUP] = np.minimum(counts[:, ::_PLANES_PER_GROUP], 3)
    tables = np.zeros((len(pairs), plane_count(queries.shape[1]), 16), np.uint8)
    tables[:, : counts.shape[1]] = counts[:, :, 0] | counts[:, :, 1] << 4
    return tables


def _hit_masks(builder: ir.IRBuilder, sums: Iterable[ir.Value], limit: ir.Value) -> list[ir.Value]:
    """Return the lanes of VECTORS vectors that are below `limit`, as 64-bit masks."""
    lanes = [builder.zext(opaque(builder, builder.bitcast(builder.icmp_unsigned("<", s, limit), I32)), I64) for s in sums]
    return [builder.or_(low, builder.shl(high, constant(LANES))) for low, high in zip(lanes[::2], lanes[1::2], strict=True)]


def _any_below(builder: ir.IRBuilder, sums: Sequence[Sequence[ir.Value]], limits: Sequence[ir.Value]) -> ir.Value:
    """Return whether, for any i, a lane of the vectors sums[i] is below limits[i], with one minimum per vector."""
    below = []
    for vectors, limit in zip(sums, limits, strict=True):
        name = f"llvm.umin.v{LANES}i{limit.type.element.width}"
        smallest = vectors[0]
        for vector in vectors[1:]:
            smallest = call(builder, name, vector.type, smallest, vector)
        below.append(builder.icmp_unsigned("<", smallest, limit))
    lanes = builder.bitcast(functools.reduce(builder.or_, below), I32)
    return builder.icmp_unsigned("!=", lanes, ir.Constant(I32, 0))


def _scan_until_hit(
    context: Any,
    builder: ir.IRBuilder,
    signature: Any,
    first: ir.Value,
    stop: ir.Value,
    limits: Sequence[ir.Value],
    score: Callable[[ir.Value], Sequence[Sequence[ir.Value]]],
) -> ir.Value:
    """Generate a loop over steps of codes from `first` on that ends at the first hit; return its first code and hit masks.

    Without a hit, the first code is `stop` or more and the masks are arbitrary. score(code) builds the sums of the step at
    `code`: VECTORS vectors for each of `limits`.
    """
    code_place = cgutils.alloca_once_value(builder, first)
    places = [zeroed(builder, limit.type, VECTORS) for limit in limits]
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
    builder.store(builder.add(code, constant(STEP)), code_place)
    builder.branch(condition)
    builder.position_at_end(end)
    masks = [_hit_masks(builder, map(builder.load, place), limit) for place, limit in zip(places, limits, strict=True)]
    return context.make_tuple(builder, signature.return_type, [builder.load(code_place), *itertools.chain(*masks)])


@intrinsic
def word_hits(typing, planes, stride, words, first, stop, query, limit):
    """Find the next step from code `first` on with a code nearer than `limit`: return its first code and two 64-bit hit masks.

    planes, query: addresses of word planes [words, stride] and of the query's words. Without a hit the first code is `stop` or
    more.
    """
    signature = types.UniTuple(types.uint64, 1 + STEP // 64)(*[types.int64] * 7)

    def codegen(context, builder, signature, args):
        """Generate the loop over steps for one query."""
        planes, stride, words, first, stop, query, limit = args

        def score(code):
            """Return a list whose one entry holds the distances of the codes of a step from the query, as vectors."""
            sums = []
            for vector in range(VECTORS):  # vectors are processed one by one, because the sums of one take half the registers
                (total,) = zeroed(builder, WORDS, 1)
                with cgutils.for_range(builder, words) as loop:
                    query_word = builder.load(pointer(builder, query, builder.mul(loop.index, constant(8)), I64))
                    index = builder.add(builder.mul(loop.index, stride), builder.add(code, constant(vector * LANES)))
                    values = builder.load(pointer(builder, planes, builder.mul(index, constant(8)), WORDS), align=8)
                    differing = builder.xor(values, splat(builder, query_word, WORDS))
                    count = call(builder, f"llvm.ctpop.v{LANES}i64", WORDS, differing)
                    builder.store(builder.add(builder.load(total), count), total)
                sums.append(builder.load(total))
            return [sums]

        return _scan_until_hit(context, builder, signature, first, stop, [splat(builder, limit, WORDS)], score)

    return signature, codegen


@intrinsic
def plane_hits(typing, planes, stride, count, first, stop, table, limit, other_limit):
    """Find the next step with a code near one of two queries: return its first code and two masks for each query.

    planes: the address of byte or nibble planes [count, stride]; table: the address of an entry of `pair_tables`. Limits are at
    most 255. Some hits are a few bits farther than the limit; the caller computes their distance.
    """
    signature = types.UniTuple(types.uint64, 1 + 2 * STEP // 64)(*[types.int64] * 8)

    def codegen(context, builder, signature, args):
        """Generate the loop over steps for two queries."""
        planes, stride, count, first, stop, table, *limits = args
        limits = [splat(builder, builder.trunc(limit, I8), BYTES) for limit in limits]
        groups = builder.udiv(count, constant(_PLANES_PER_GROUP))

        def score(code):
            """Return the approximate distances of a step's codes from each query."""
            totals = [zeroed(builder, BYTES, VECTORS) for _ in limits]
            with cgutils.for_range(builder, groups) as loop:
                plane = builder.mul(loop.index, constant(_PLANES_PER_GROUP))
                for vector in range(VECTORS):
                    start = builder.add(code, constant(vector * LANES))
                    partials = _group_distances(builder, planes, stride, plane, start, table)
                    for total, partial in zip(totals, partials, strict=True):
                        sum_ = call(builder, f"llvm.uadd.sat.v{LANES}i8", BYTES, builder.load(total[vector]), partial)
                        builder.store(sum_, total[vector])
            return [[builder.load(place) for place in total] for total in totals]

        return _scan_until_hit(context, builder, signature, first, stop, limits, score)

    return signature, codegen


def _group_distances(
    builder: ir.IRBuilder, planes: ir.Value, stride: ir.Value, first_plane: ir.Value, code: ir.Value, table: ir.Value
) -> list[ir.Value]:
    """Return the part of the distances of LANES codes from two queries that a group of planes contributes."""
    looked_up = []
    for plane in (builder.add(first_plane, constant(i)) for i in range(_PLANES_PER_GROUP)):
        values = builder.load(pointer(builder, planes, builder.add(builder.mul(plane, stride), code), BYTES), align=LANES)
        if not NIBBLES:
            return [_differing_bits(builder, values, table, builder.mul(plane, constant(2)), query) for query in range(2)]
        looked_up.append(call(builder, "llvm.x86.avx2.pshuf.b", BYTES, _table_entry(builder, table, plane), values))
    both = functools.reduce(builder.add, looked_up)
    return [builder.and_(both, byte_constant(15)), builder.lshr(both, byte_constant(4))]


def _table_entry(builder: ir.IRBuilder, table: ir.Value, plane: ir.Value) -> ir.Value:
    """Load sixteen bytes into both halves of a register, as the byte shuffle requires."""
    narrow = ir.VectorType(I8, 16)
    entry = builder.load(pointer(builder, table, builder.mul(plane, constant(16)), narrow), align=16)
    both_halves = ir.Constant(ir.VectorType(I32, LANES), [*range(16), *range(16)])
    return builder.shuffle_vector(entry, ir.Constant(narrow, ir.Undefined), both_halves)


def _differing_bits(builder: ir.IRBuilder, values: ir.Value, table: ir.Value, offset: ir.Value, query: int) -> ir.Value:
    """Return the number of bits in which LANES bytes differ from the byte of a query."""
    byte = builder.load(pointer(builder, table, builder.add(offset, constant(query)), I8))
    return call(builder, f"llvm.ctpop.v{LANES}i8", BYTES, builder.xor(values, splat(builder, byte, BYTES)))
