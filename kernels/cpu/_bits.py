"""Numba functions that count, find and rearrange bits of codes, with the instructions that the CPU supports."""

import numba
import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import _ir
from ._compiler import compiler
from ._ir import BYTES, I8, I32, I64, LANES, byte_constant, call, constant, opaque, pointer

VECTORS = 4  # vectors that are compared together, so that their latencies overlap and there are few branches
STEP = LANES * VECTORS

# Numba's cache on disk checks only the file of a compiled function, not the files of functions that it calls. After a change
# in this file, delete kernels/cpu/__pycache__/*.nb[ic].
compiled = compiler(boundscheck=False)
inlined = compiler(boundscheck=False, forceinline=True)
borrowing = compiler(boundscheck=False, forceinline=True, _nrt=False)  # counts no references to arrays; may not allocate memory


def _cpu_features() -> set[str]:
    """Return the CPU features that Numba compiles for: those of NUMBA_CPU_FEATURES if set, otherwise of this CPU."""
    features: str | None = vars(numba.config)["CPU_FEATURES"]
    if features is not None:
        return {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


_FEATURES = _cpu_features()
NIBBLES = "avx2" in _FEATURES
PLANES_PER_BYTE = 2 if NIBBLES else 1
VECTOR_POPCOUNT = "avx512vpopcntdq" in _FEATURES
BLOCKS_PAY_FROM = 4 if VECTOR_POPCOUNT else 6  # number of queries; for fewer, a search of the rows in place is faster


@intrinsic
def split_words(typing, words, planes, stride):
    """Write the bytes of LANES words at the address `words` to 8 byte or 16 nibble planes at `planes`, `stride` bytes apart."""
    signature = types.void(types.int64, types.int64, types.int64)

    def codegen(context, builder, signature, args):
        words, planes, stride = args
        vectors = [builder.load(pointer(builder, words, constant(LANES * i), BYTES), align=8) for i in range(8)]
        for byte, values in enumerate(_deinterleave(builder, vectors)):
            for part, plane in enumerate(_parts(builder, values)):
                row = builder.mul(stride, constant(byte * PLANES_PER_BYTE + part))
                builder.store(plane, pointer(builder, planes, row, BYTES), align=LANES)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def split_bits(typing, words, planes, stride):
    """Write the bits of LANES words at the address `words` to 64 planes of LANES bits at `planes`, `stride` bytes apart."""
    signature = types.void(types.int64, types.int64, types.int64)

    def codegen(context, builder, signature, args):
        words, planes, stride = args
        vectors = [builder.load(pointer(builder, words, constant(LANES * i), BYTES), align=8) for i in range(8)]
        for byte, values in enumerate(_deinterleave(builder, vectors)):
            for bit in reversed(range(8)):
                signs = builder.icmp_signed("<", values, ir.Constant(BYTES, None))
                row = builder.mul(stride, constant(8 * byte + bit))
                builder.store(opaque(builder, builder.bitcast(signs, I32)), pointer(builder, planes, row, I32), align=4)
                values = builder.add(values, values)
        return context.get_dummy_value()

    return signature, codegen


def _deinterleave(builder: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    """Rearrange n vectors of consecutive elements: vector i of the result holds the elements i, n + i, 2n + i, ..."""
    if len(vectors) == 1:
        return vectors
    indices = [ir.Constant(ir.VectorType(I32, LANES), list(range(parity, 2 * LANES, 2))) for parity in (0, 1)]
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    even, odd = ([builder.shuffle_vector(*pair, index) for pair in pairs] for index in indices)
    rows = zip(_deinterleave(builder, even), _deinterleave(builder, odd), strict=True)
    return [row for pair in rows for row in pair]


def _parts(builder: ir.IRBuilder, values: ir.Value) -> list[ir.Value]:
    """Return the nibbles of a vector of bytes, or the bytes themselves if planes hold bytes."""
    if not NIBBLES:
        return [values]
    return [builder.and_(values, byte_constant(15)), builder.lshr(values, byte_constant(4))]


@intrinsic
def word_at(typing, address):
    """Load a 64-bit word at any alignment."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], I64.as_pointer()), align=1)

    return types.uint64(types.int64), codegen


@intrinsic
def byte_at(typing, address):
    """Load a byte."""

    def codegen(context, builder, signature, args):
        return builder.zext(builder.load(builder.inttoptr(args[0], I8.as_pointer())), I64)

    return types.uint64(types.int64), codegen


@intrinsic
def popcount(typing, word):
    """Return the number of set bits of a uint64."""

    def codegen(context, builder, signature, args):
        return call(builder, "llvm.ctpop.i64", I64, args[0])

    return types.int64(types.uint64), codegen


@intrinsic
def lowest_bit(typing, word):
    """Return the position of the lowest set bit of a uint64 that is not zero."""

    def codegen(context, builder, signature, args):
        return call(builder, "llvm.cttz.i64", I64, args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), codegen


@intrinsic
def prefetch(typing, address):
    """Start to load the cache line at an address."""

    def codegen(context, builder, signature, args):
        _ir.prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def bytes_reversed(typing, word):
    """Return a uint64 with its bytes in the opposite order."""

    def codegen(context, builder, signature, args):
        return call(builder, "llvm.bswap.i64", I64, args[0])

    return types.uint64(types.uint64), codegen


@inlined
def row_distance(codes, words, row, query):
    """Return the distance between row `row` of `words` words at the address `codes` and the uint64 array `query`."""
    distance = np.int64(0)
    for word in range(words):
        distance += popcount(word_at(codes + (row * words + word) * 8) ^ query[word])
    return distance


@borrowing
def code_distance(codes, row, query):
    """Return the distance between row `row` of uint8 `codes` [N, B], of any width, and the uint64 array `query` [ceil(B/8)]."""
    width = codes.shape[1]
    start = np.int64(codes.ctypes.data) + row * width
    whole, rest = width // 8, width % 8
    distance = np.int64(0)
    for word in range(whole):
        distance += popcount(word_at(start + 8 * word) ^ query[word])
    if rest:
        distance += popcount(_last_word(codes, row, start + width, rest) ^ query[whole])
    return distance


@borrowing
def read_code(codes, row, target):
    """Write row `row` of uint8 `codes` [N, B], of any width, to uint64 `target` [ceil(B/8)], padded with zeros."""
    width = codes.shape[1]
    start = np.int64(codes.ctypes.data) + row * width
    whole, rest = width // 8, width % 8
    for word in range(whole):
        target[word] = word_at(start + 8 * word)
    if rest:
        target[whole] = _last_word(codes, row, start + width, rest)


@borrowing
def _last_word(codes, row, end, rest):
    """Return the last `rest` bytes of a row that ends at the address `end`; the other bytes of the word are zero."""
    if (row + 1) * codes.shape[1] >= 8:  # the word that ends with the row begins inside of the array
        return word_at(end - 8) >> np.uint64(64 - 8 * rest)
    value = np.uint64(0)
    for byte in range(rest):
        value |= np.uint64(codes[row, codes.shape[1] - rest + byte]) << np.uint64(8 * byte)
    return value


@compiled
def load_block(codes, first, count, planes):
    """Write rows first .. first + count - 1 of uint8 `codes` [N, B] to uint64 word planes [ceil(B/8), >= count]."""
    width = codes.shape[1]
    whole = width // 8
    start = np.int64(codes.ctypes.data) + first * width
    for word in range(whole):
        for i in range(count):
            planes[word, i] = word_at(start + i * width + 8 * word)
    if width % 8:
        for i in range(count):
            value = np.uint64(0)
            for byte in range(8 * whole, width):
                value |= np.uint64(codes[first + i, byte]) << np.uint64(8 * (byte - 8 * whole))
            planes[whole, i] = value


@compiled
def split_block(word_planes, count, planes):
    """Write word planes [W, S] of `count` codes to the planes [8 * W * PLANES_PER_BYTE, S] of `plane_hits`; STEP divides S."""
    stride = np.int64(planes.shape[1])
    for word in range(word_planes.shape[0]):
        source = np.int64(word_planes[word].ctypes.data)
        target = np.int64(planes[8 * word * PLANES_PER_BYTE].ctypes.data)
        for first in range(0, count, LANES):
            split_words(source + 8 * first, target + first, stride)
