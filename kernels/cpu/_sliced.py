"""Bit-sliced arithmetic, as portable LLVM IR, that computes and counts the Hamming distances of 256 codes at a time.

A step is 256 codes: 64 from each of four lanes. The lanes are the quarters of a gallery, so that each lane counts in the order of
its rows. The codes of a step are stored as bit planes (plane b is bit b of every code), and the distances from a query are
computed as planes as well: plane i is bit i of every distance. The planes are read three at a time: the distance in three bits is
a number of two bits, with only eight versions, one for each value of the query's three bits. `fill_tables` computes all versions
once for all queries; `count_step` adds the versions of one query with carry-save adders, which turn three planes of one weight
into two with 5 instructions for 256 codes.

The codes at distance d are then a mask: a few ANDs of planes and their complements. A mask is only computed where the upper
planes show that some code is near d. The number of bits of the mask is added to the counter of (d, lane).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 4
STEP = 64 * LANES  # codes of a step
_GROUPS = 22  # groups of three bits in a word; the last has one bit
_VERSIONS = 10  # versions of the two planes of a group: 2 of the lower, 8 of the upper
TABLE_BYTES = _GROUPS * _VERSIONS * 8 * LANES  # size of the tables for one word of the codes of a step
OFFSETS = 2 * _GROUPS - 1  # versions that one word of a query selects

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_I64, LANES)
_HALVES = ir.VectorType(_I32, 2 * LANES)
_BYTES = 8 * LANES


def bins(words: int) -> int:
    """Return the number of counters of a lane: distances 0 .. 64 * words, rounded up to a multiple of 8."""
    return 64 * words + 8


def table_offsets(queries: np.ndarray) -> np.ndarray:
    """Return the byte offsets in the tables that the queries uint64 [Q, W] select: int32 [Q, W * OFFSETS]."""
    bits = queries[:, :, None] >> np.arange(66, dtype=np.uint64).clip(max=63) & np.uint64(1)
    bits[:, :, 64:] = 0
    groups = bits.astype(np.int32).reshape(*queries.shape, _GROUPS, 3)
    lower = groups.sum(axis=3) & 1
    upper = 2 + groups @ np.array([1, 2, 4], np.int32)
    first = _VERSIONS * np.arange(_GROUPS, dtype=np.int32)
    picked = np.concatenate([first + lower, (first + upper)[:, :, :-1]], axis=2)  # [Q, W, OFFSETS]
    word = TABLE_BYTES * np.arange(queries.shape[1], dtype=np.int32)
    return (_BYTES * picked + word[:, None]).reshape(len(queries), -1).astype(np.int32)


def _place(builder: ir.IRBuilder, address: ir.Value, vector: int, element: ir.Type = _VECTOR) -> ir.Value:
    """Return a pointer to vector number `vector` from `address` on."""
    return builder.inttoptr(builder.add(address, ir.Constant(_I64, _BYTES * vector)), element.as_pointer())


def _load(builder: ir.IRBuilder, address: ir.Value, vector: int) -> ir.Value:
    return builder.load(_place(builder, address, vector), align=8)


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, vector: int) -> None:
    builder.store(value, _place(builder, address, vector), align=8)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments)


def _majority(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return builder.or_(builder.and_(a, b), builder.and_(builder.xor(a, b), c))


@intrinsic
def fill_tables(typing, planes, tables):
    """Compute the tables of all versions for one word of a step.

    planes: the address of 64 bit planes of LANES words; tables: the address of TABLE_BYTES bytes.
    """
    signature = types.void(types.int64, types.int64)

    def codegen(context, builder, signature, args):
        """Generate the lower and upper planes of every group for every value of the query's bits."""
        planes, tables = args
        for group in range(_GROUPS):
            first = group * _VERSIONS
            a, *others = (_load(builder, planes, bit) for bit in range(3 * group, min(3 * group + 3, 64)))
            lower = a
            for other in others:
                lower = builder.xor(lower, other)
            _store(builder, lower, tables, first)
            _store(builder, builder.not_(lower), tables, first + 1)
            if not others:
                continue
            b, c = others
            for version in range(4):  # one version for each value of the query's bits of b and c; its bit of a is 0
                flipped = [builder.not_(x) if version >> i & 1 else x for i, x in enumerate((b, c))]
                upper = _majority(builder, *flipped, a)
                _store(builder, upper, tables, first + 2 + 2 * version)
                _store(builder, builder.not_(upper), tables, first + 2 + (7 - 2 * version))
        return context.get_dummy_value()

    return signature, codegen


class _Adder:
    """A carry-save adder for bit planes that keeps at most two planes of each weight, so that few registers are used."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        self.waiting: dict[int, list[ir.Value]] = {}  # weight -> planes

    def add(self, weight: int, plane: ir.Value) -> None:
        here = self.waiting.setdefault(weight, [])
        here.append(plane)
        if len(here) == 3:
            oldest, b, c = here
            both = self.builder.xor(b, c)
            carry = self.builder.or_(self.builder.and_(b, c), self.builder.and_(both, oldest))
            self.waiting[weight] = [self.builder.xor(both, oldest)]
            self.add(weight + 1, carry)

    def planes(self) -> list[ir.Value]:
        """Return the planes of the sum, lowest bit first."""
        result: list[ir.Value] = []
        while any(self.waiting.get(weight) for weight in range(len(result), len(self.waiting) + 1)):
            here = self.waiting.get(len(result), [])
            if len(here) == 2:
                a, b = here
                self.waiting[len(result)] = [self.builder.xor(a, b)]
                self.add(len(result) + 1, self.builder.and_(a, b))
            result.append(self.waiting[len(result)][0])
        return result


def _distance_planes(builder: ir.IRBuilder, words: int, tables: ir.Value, offsets: ir.Value) -> list[ir.Value]:
    """Return the bit planes of the distances of a step's codes from one query, lowest bit first."""

    def version(i: int) -> ir.Value:
        place = builder.inttoptr(builder.add(offsets, ir.Constant(_I64, 4 * i)), _I32.as_pointer())
        return _load(builder, builder.add(tables, builder.zext(builder.load(place), _I64)), 0)

    adder = _Adder(builder)
    for first in range(0, words * OFFSETS, OFFSETS):
        for group in range(_GROUPS):
            adder.add(0, version(first + group))
            if group < _GROUPS - 1:
                adder.add(1, version(first + _GROUPS + group))
    return adder.planes()


def _minterms(builder: ir.IRBuilder, planes: list[ir.Value], highest: int) -> list[ir.Value]:
    """Return, for each number 0 .. highest, the mask of the codes for which the bit planes hold that number."""
    masks = [None]
    for plane in reversed(planes):
        inverse = builder.not_(plane)
        masks = [half if mask is None else builder.and_(mask, half) for mask in masks for half in (inverse, plane)]
    return masks[: highest + 1]


def _any(builder: ir.IRBuilder, mask: ir.Value) -> ir.Value:
    return builder.icmp_unsigned("!=", _call(builder, "llvm.vector.reduce.or.v4i64", _I64, mask), ir.Constant(_I64, 0))


def _make_count_step(words: int) -> Any:
    """Return `count_step` for codes of `words` 64-bit words."""

    @intrinsic
    def count_step(typing, tables, offsets, masks, counts):
        """Compute the mask of a step's codes at each distance from one query, and add the numbers of codes to the counts.

        All arguments are addresses. tables: the tables of `fill_tables` for all words; offsets: the query's `table_offsets`;
        masks: uint64 [bins, LANES], written only where some code of the step is within 8 of a distance; counts: uint32 [bins,
        LANES].
        """
        signature = types.void(*[types.int64] * 4)

        def codegen(context, builder, signature, args):
            tables, offsets, masks, counts = args
            planes = _distance_planes(builder, words, tables, offsets)
            low = _minterms(builder, planes[:3], 7)
            for group, high in enumerate(_minterms(builder, planes[3:], 8 * words)):
                with builder.if_then(_any(builder, high)):
                    for pair in range(4 if group < 8 * words else 1):
                        _count_pair(builder, low, high, 8 * group, pair, masks, counts)
            return context.get_dummy_value()

        return signature, codegen

    return count_step


def _count_pair(
    builder: ir.IRBuilder, low: list[ir.Value], high: ir.Value, first: int, pair: int, masks: ir.Value, counts: ir.Value
) -> None:
    """Store the masks of two consecutive distances, and add the numbers of their bits to the counters."""
    bits = []
    for distance in (2 * pair, 2 * pair + 1):
        mask = builder.and_(low[distance], high)
        _store(builder, mask, masks, first + distance)
        bits.append(_call(builder, "llvm.ctpop.v4i64", _VECTOR, mask))
    halves = [builder.bitcast(count, _HALVES) for count in bits]
    both = builder.shuffle_vector(*halves, ir.Constant(_HALVES, list(range(0, 4 * LANES, 2))))
    place = _place(builder, counts, first // 2 + pair, _HALVES)
    builder.store(builder.add(builder.load(place, align=4), both), place, align=4)


count_step_1 = _make_count_step(1)
count_step_2 = _make_count_step(2)
count_step_4 = _make_count_step(4)
