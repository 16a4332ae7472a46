"""One-pass cosine codebook loss: loss and gradient in a single sweep over the classes, logits never in memory.

The codebook is fixed, so the softmax is attention with K = V = codebook. With v^ = v / |v|, o_c the +-1 code of class c and
z_c = (s / sqrt(K)) v^ . o_c, a running (max, sum_c e^(z_c), sum_c e^(z_c) o_c) gives the loss and d loss / d v^ together.

  sweep    program = (block of rows, slice of the bits, part of the classes); writes the partial (max, sum, weighted codes).
  finish   program = block of rows; merges the parts in their order, adds the positive classes, goes back through v / |v|.

Where there are few classes, one program sweeps all of them and finishes its own rows: one launch. Wider rows, rows that are no
whole vectors and sparse targets would spill there: the finish has v, the codes of a positive and both pulls at once.

Numerics. Codes are exact in fp16, so only v^ and p = e^(z - max) are rounded. Each is carried by a high and a low fp16 half,
scaled by powers of two to stay clear of fp16's subnormals; the two are as good as a float32 product, and both run on tensor cores
with float32 accumulation. Tensor cores truncate what they accumulate, which over many blocks of classes is a bias: where the
registers allow, a block's own sum starts from zero and is added by the float32 units. Precision "high" (one part) leaves out the
low half of p, and sums the p that are left, so that a rounding moves weight between classes and never the whole; logits are the
same in both. Exponentials are powers of two of logits premultiplied by log2(e).

Tiles. A block of classes takes as long in the tensor cores as in the arithmetic units, so programs of four warps share a
multiprocessor, and a warp keeps its rows from the logits through the exponentials to the pull. The bits are taken in pieces of
64, so that a block's own sums take few registers. At 128 bits an H100 is 4.6 times as fast as with eight warps and whole tiles.

Positive classes. With one id per row, or a sparse (CSR) target, the sweep leaves a row's positives out (and so knows no margin),
and `finish` adds them in closed form from float32 dot products: softmax minus target is never computed by cancellation. A sparse
row's columns ascend, so one pointer a row walks through them as the classes go by. With a dense [N, C] target the margin is part
of the sweep, which then also sums q_c o_c and q_c z_c.

More than SLICE bits have more accumulators than a program has registers. In units of N C K multiply-adds, with 2 halves:
  every slice of S bits computes all logits again: 2 (K / S + 1);
  one sweep for max and sum, a second for p: 6, and p must reach all slices all the same;
  the dot products of a chunk of classes in memory, read by all slices: 4, nothing is computed twice.
The last it is: `dots` fills a scratch of SCRATCH numbers (or FEWEST_CLASSES a row, if that is more), `sweep` reads it, carries on
from the state that the chunk before left, and the next chunk overwrites it. For usual batches the scratch stays in L2.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ._sizes import cdiv, next_power_of_2
from .launch import architecture, launch, multiprocessor_count
from .pack_codes import pack_codes

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
ROW_SCALE = tl.constexpr(256.0)  # |v^| <= 1: its low half stays a normal fp16 number
P_SHIFT = tl.constexpr(15)  # p <= 1, and 2^15 is below fp16's largest number
STEEP_P_SHIFT = tl.constexpr(5)  # behind an angular margin p is times a slope of up to 1 / sqrt(SINE_FLOOR) = 1,000
NO_CLASS_YET = tl.constexpr(-1e30)  # a running maximum that is finite: -inf - -inf would be NaN
NO_COLUMN = tl.constexpr(2**31 - 1)  # a sparse row has no further entry
SINE_FLOOR = tl.constexpr(1e-6)  # of sin^2(theta), as the reference

SLICE = 128  # bits whose gradient accumulates in registers at once, a slice where there are more
SLICE_RDNA = 32  # there operands of matrix products take twice the registers
PIECE = 64  # bits of a tensor core's tile
FEWEST_BITS = 32  # a word of the codebook; a dot product over 16 spills
SCRATCH = 2**23  # dot products in memory at once: 32 MB
FEWEST_CLASSES = 1024  # of a chunk, so that a large batch fills the device: no more numbers than v and its gradient
DOT_ROWS = {"sm_80": 64, "sm_90": 64}  # 32 elsewhere: 64 spill
DOT_CLASSES, DOT_BITS = 64, 64
FEW_CLASSES = 256  # that one program sweeps sooner than a second launch starts


class Prepared(NamedTuple):
    """A codebook as the kernels read it."""

    words: torch.Tensor  # int32 [C, ceil(K / 32)]
    column_sum: torch.Tensor  # float32 [K]


class Plan(NamedTuple):
    """Tile sizes and the split of the work; a pure function of the problem."""

    rows: int
    classes: int
    bits: int  # of a slice; a power of two
    piece: int  # bits
    slices: int
    chunked: bool  # the dot products of a chunk of classes are in memory
    chunk: int  # classes per sweep
    splits: int
    blocks_per_split: int
    finishes: bool  # the sweep finishes its own rows
    fits: int | None  # programs on a multiprocessor, where the compiler must not aim at more
    hoist: bool  # may the compiler form what stays the same before the sweep's loop, and keep it in registers?
    warps: int
    stages: int


def prepare(codebook: torch.Tensor) -> Prepared:
    """Pack an int8 +-1 codebook [C, K]; done once per codebook."""
    classes, bits = codebook.shape
    packed = torch.empty(classes, 4 * cdiv(bits, 32), dtype=torch.uint8, device=codebook.device)
    pack_codes(codebook, 0.0, packed)
    return Prepared(packed.view(torch.int32), codebook.sum(0, dtype=torch.float32))


def plan(rows: int, classes: int, bits: int, kind: str, backward: bool, arch: str, processors: int, wide: bool = True) -> Plan:
    """Tiles whose accumulators fit the registers (tests compile them and allow no spill), split until the device is full.

    wide: float32 latents.
    """
    most_bits = SLICE_RDNA if arch.startswith("gfx11") else SLICE
    chunked = bits > most_bits
    slice_bits = most_bits if chunked else max(next_power_of_2(bits), FEWEST_BITS)
    slices = cdiv(bits, slice_bits) if backward else 1
    aligned = bits % 16 == 0  # rows in whole vectors, whose addresses take few registers
    # Not sparse rows: the loop over their entries carries two more accumulators.
    finishes = classes <= FEW_CLASSES and aligned and not chunked and slice_bits <= PIECE and kind != "sparse"
    block_rows, block_classes = _tile(bits, kind, chunked, finishes, arch)
    chunk = classes
    if chunked:  # rows of the scratch begin at multiples of a tile: aligned loads
        most = max(SCRATCH // rows, FEWEST_CLASSES) // DOT_CLASSES
        chunk = min(cdiv(classes, DOT_CLASSES), most) * DOT_CLASSES
    blocks = cdiv(chunk, block_classes)
    programs = cdiv(rows, block_rows) * slices
    fills_device = cdiv(blocks, max(1, 2 * processors // programs))
    merges_soon = math.ceil(math.sqrt(blocks / 2))  # `finish` merges in turn, in about half the time that a block takes
    blocks_per_split = blocks if finishes else max(fills_device, merges_soon)
    splits = cdiv(blocks, blocks_per_split)
    piece = min(PIECE, slice_bits)
    # Programs that finish are few; most that sweep a dense target take over a third of the registers anyhow.
    roomy = finishes or arch in ("sm_86", "sm_89", "sm_120") or (kind == "dense" and not chunked and arch in ("sm_90", "sm_100"))
    fits = 2 if roomy else None  # a split fills the device twice
    hoist = _hoists(bits, kind, chunked, arch)
    # Registers for the codes to come would spill.
    full = (arch, kind, slice_bits, chunked, wide) == ("sm_90", "ids", SLICE, False, True)
    stages = 1 if full or arch.startswith("gfx11") else 2
    return Plan(
        block_rows, block_classes, slice_bits, piece, slices, chunked, chunk, splits, blocks_per_split, finishes,
        fits, hoist, 4, stages,
    )  # fmt: skip


def _tile(bits: int, kind: str, chunked: bool, finishes: bool, arch: str) -> tuple[int, int]:
    """(rows, classes). Hopper's tensor cores take 64 rows, and operands that do not change from shared memory, not registers."""
    rdna = arch.startswith("gfx11")
    if kind == "dense" and bits > PIECE and not rdna:  # a second accumulator, of whole slices
        return 16, 32
    if finishes or rdna or arch == "sm_120":
        return (16, 64) if arch == "sm_100" else (32, 32)
    if kind == "dense":
        return (32, 32) if bits % 16 == 0 else (16, 64)
    if bits % 16 != 0:
        return 32, 64
    if arch == "sm_90":
        return 64, 32 if bits > 2048 or (chunked and kind == "sparse") else 64
    return 64 if bits <= 64 else 32, 64


def _hoists(bits: int, kind: str, chunked: bool, arch: str) -> bool:
    """Not where the values kept over the loop would spill; found by compiling every configuration."""
    if arch.startswith("gfx"):
        return True
    if arch == "sm_100":
        return kind != "sparse"
    wide = not chunked and bits > FEWEST_BITS
    if arch == "sm_90":
        return wide and (kind == "dense" or (kind == "ids" and bits % 16 == 0))
    return wide or kind == "dense"


def cosine_codebook_loss(
    v: torch.Tensor,  # float [N, K]; normalised over the batch on the way in if `mean` is given
    mean: torch.Tensor | None,  # [K]
    rstd: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    target: torch.Tensor,  # int64 [N]; float [N, C]; or, with columns and values, row starts int64 [N + 1]
    columns: torch.Tensor | None,  # int64 [nnz], ascending and unique within a row
    values: torch.Tensor | None,  # float32 [nnz], at least 0
    codes: Prepared,
    loss: torch.Tensor,  # out: float32 [N]
    lse: torch.Tensor,  # out: float32 [N]
    grad: torch.Tensor,  # out: float32 [N, K], or empty
    lse_grad: torch.Tensor,  # out: float32 [N, K], or empty
    *,
    parts: int,
    scale: float,
    margin: float,
    angular: bool,
    label_smoothing: float,
    ignore_index: int,
    need_grad: bool,
    need_lse_grad: bool,
) -> None:
    rows, bits = v.shape
    if rows == 0:
        return
    classes, words = codes.words.shape
    v, target = v.contiguous(), target if target.stride(-1) == 1 else target.contiguous()
    dense = target.ndim == 2
    kind = "dense" if dense else "ids" if columns is None else "sparse"
    backward = need_grad or need_lse_grad
    step = scale / math.sqrt(bits)
    wide = v.dtype == torch.float32
    tiles = plan(rows, classes, bits, kind, backward, architecture(v.device), multiprocessor_count(v.device), wide)
    all_bits = next_power_of_2(bits)

    def fresh(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=v.device)

    def partial(wanted: bool, *shape: int) -> torch.Tensor | None:
        return fresh(*shape) if wanted and not tiles.finishes else None

    margin_numbers = (scale, step, margin, math.cos(margin), math.sin(margin), math.cos(math.pi - margin))
    norm = (mean, rstd, weight, bias)
    targets = (target, columns, values, target.sum(1, dtype=torch.float32) if dense else None)
    numbers, vectors = (tiles.slices, tiles.splits, rows), (tiles.splits, rows, bits)
    parted = (
        partial(True, *numbers),  # maxima; all slices have the same
        partial(True, *numbers),  # sums
        partial(backward, *vectors),  # weighted codes
        partial(dense, *numbers),  # logits weighted by the target
        partial(dense and backward, *vectors),  # codes weighted by the target
    )
    outputs = (loss, lse, grad if need_grad else None, lse_grad if need_lse_grad else None)
    how = dict(WORDS=words, TARGET=kind)

    if tiles.chunked:
        dot_rows = DOT_ROWS.get(architecture(v.device), 32)
        halves = fresh(2, rows, bits, dtype=torch.float16)
        dots = fresh(rows, tiles.chunk)
        launch(
            _halves_kernel, (rows,), v, *norm, halves,
            rows, bits, BITS=all_bits, HAS_NORM=mean is not None, num_warps=4,
        )  # fmt: skip
    for first in range(0, classes, tiles.chunk):
        end = min(first + tiles.chunk, classes)
        if tiles.chunked:
            launch(
                _dots_kernel, (cdiv(end - first, DOT_CLASSES), cdiv(rows, dot_rows)),
                halves, codes.words, dots, rows, bits, tiles.chunk, first, end,
                WORDS=words, ROWS=dot_rows, CLASSES=DOT_CLASSES, BITS=DOT_BITS, num_warps=4, num_stages=2,
            )  # fmt: skip
        launch(
            _sweep_kernel, (cdiv(rows, tiles.rows), tiles.slices, tiles.splits),
            *((None,) * 5 if tiles.chunked else (v, *norm)), *targets, codes.words, codes.column_sum,
            dots if tiles.chunked else None, *parted, *(outputs if tiles.finishes else (None,) * 4),
            rows, classes, bits, target.stride(0), tiles.chunk if tiles.chunked else 0, first, end, tiles.blocks_per_split,
            step * math.log2(math.e) / ROW_SCALE.value, *margin_numbers, label_smoothing, ignore_index,
            ROWS=tiles.rows, CLASSES=tiles.classes, BITS=tiles.bits, PIECE=tiles.piece, PARTS=parts,
            ANGULAR=angular and (dense or tiles.finishes), SMOOTH=tiles.finishes and label_smoothing > 0, NEED_PULL=backward,
            HAS_NORM=mean is not None and not tiles.chunked, HOIST=tiles.hoist,
            num_warps=tiles.warps, num_stages=tiles.stages, min_blocks_per_sm=tiles.fits, **how,
        )  # fmt: skip
    if not tiles.finishes:
        finish_rows = max(1, min(16, 512 // all_bits))
        launch(
            _finish_kernel, (cdiv(rows, finish_rows),),
            v, *norm, *targets, codes.words, codes.column_sum, *parted, *outputs,
            rows, classes, bits, tiles.splits, *margin_numbers, label_smoothing, ignore_index,
            ROWS=finish_rows, BITS=all_bits, ANGULAR=angular, SMOOTH=label_smoothing > 0, HAS_NORM=mean is not None,
            num_warps=4 if all_bits <= 256 else 8 if all_bits <= 2048 else 16, min_blocks_per_sm=1, **how,
        )  # fmt: skip


@triton.jit
def _load_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, HAS_NORM: tl.constexpr):
    """Rows of v, normalised over the batch where asked, as v^ = v / |v| and 1 / |v|; zero outside.  [ROWS, BITS], [ROWS]"""
    v = _load_values(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, HAS_NORM)
    inverse_norm = _inverse_norm(tl.sum(v * v, 1))
    return v * inverse_norm[:, None], inverse_norm


@triton.jit
def _load_values(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, HAS_NORM: tl.constexpr):
    """Some bits of rows of v, normalised over the batch where asked; zero outside.  [ROWS, bits]"""
    in_bits = bit < n_bits
    inside = in_rows[:, None] & in_bits[None, :]
    v = tl.load(v_ptr + row[:, None] * n_bits + bit[None, :], mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        mean = tl.load(mean_ptr + bit, mask=in_bits, other=0.0).to(tl.float32)
        factor = tl.load(rstd_ptr + bit, mask=in_bits, other=0.0).to(tl.float32)
        if weight_ptr is not None:
            factor *= tl.load(weight_ptr + bit, mask=in_bits, other=0.0).to(tl.float32)
        v = (v - mean[None, :]) * factor[None, :]
        if bias_ptr is not None:
            v += tl.load(bias_ptr + bit, mask=in_bits, other=0.0).to(tl.float32)[None, :]
        v = tl.where(inside, v, 0.0)
    return v


@triton.jit
def _inverse_norm(square):
    """1 / |v|, or 0: a zero row has neither direction nor gradient."""
    return tl.where(square == 0.0, 0.0, 1.0 / tl.sqrt(square))


@triton.jit
def _high(x):
    return x.to(tl.float16)


@triton.jit
def _low(x, high):
    return (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def _load_codes(words_ptr, c, in_classes, first_bit, WORDS: tl.constexpr, CLASSES: tl.constexpr, BITS: tl.constexpr):
    """The +-1 codes of classes c for BITS bits from first_bit on, as fp16.  [CLASSES, BITS]"""
    TILE_WORDS: tl.constexpr = (BITS + 31) // 32
    word = first_bit // 32 + tl.arange(0, TILE_WORDS)
    inside = in_classes[:, None] & (word < WORDS)[None, :]
    packed = tl.load(words_ptr + c.to(tl.int64)[:, None] * WORDS + word[None, :], mask=inside, other=0)  # [CLASSES, TILE_WORDS]
    PER_WORD: tl.constexpr = BITS // TILE_WORDS
    # A bit becomes the sign of fp16's 1.0: cheaper than a conversion from an integer.
    bit = (packed[:, :, None] >> tl.arange(0, PER_WORD)[None, None, :]) << 15
    return tl.reshape(((bit & 0x8000) ^ 0xBC00).to(tl.int16).to(tl.float16, bitcast=True), (CLASSES, BITS))


@triton.jit
def _with_margin(cosine, margin, cos_margin, sin_margin, past_pi_cosine, ANGULAR: tl.constexpr):
    """A positive class's cosine behind its margin, and the slope d moved / d cosine."""
    if ANGULAR:
        square = 1.0 - cosine * cosine
        sine = tl.sqrt(tl.maximum(square, SINE_FLOOR))
        slope = cos_margin + tl.where(square > SINE_FLOOR, sin_margin * cosine / sine, 0.0)
        past_pi = cosine < past_pi_cosine
        moved = tl.where(past_pi, cosine - margin * sin_margin, cosine * cos_margin - sine * sin_margin)
        return moved, tl.where(past_pi, 1.0, slope)
    else:
        return cosine - margin, tl.full(cosine.shape, 1.0, tl.float32)


@triton.jit
def _pull(pulled, decay, p, codes, PIECES: tl.constexpr, PARTS: tl.constexpr, OWN_SUMS: tl.constexpr):
    """pulled * decay + p @ codes, piece by piece.  [ROWS, CLASSES] x [CLASSES, PIECE] -> [ROWS, PIECE]"""
    high = _high(p)
    low = _low(p, high)
    after = ()
    for piece in tl.static_range(PIECES):
        before = pulled[piece] * decay[:, None]
        own = tl.zeros(before.shape, tl.float32) if OWN_SUMS else before
        if PARTS == 2:
            own = tl.dot(low, codes[piece], own)
        own = tl.dot(high, codes[piece], own)
        after += (before + own if OWN_SUMS else own,)
    return after


@triton.jit
def _first_entry(columns_ptr, low, high, c):
    """The first of the ascending columns [low, high) that is at least c, by bisection.  [ROWS]"""
    while tl.max(high - low) > 0:
        middle = (low + high) // 2
        searching = low < high
        before = searching & (tl.load(columns_ptr + middle, mask=searching, other=0) < c)
        low = tl.where(before, middle + 1, low)
        high = tl.where(before, high, middle)
    return low


@triton.jit
def _column_of(columns_ptr, entry, row_end):
    return tl.load(columns_ptr + entry, mask=entry < row_end, other=NO_COLUMN).to(tl.int32)


@triton.jit(do_not_specialize=["n_rows", "n_classes", "end_class", "blocks_per_split", "ignore_index"])
def _sweep_kernel(
    v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,  # [N, K], [K] or None
    target_ptr, columns_ptr, values_ptr, target_total_ptr,  # ids; row starts, columns, values; or [N, C] and its row sums
    words_ptr, column_sum_ptr,  # int32 [C, WORDS], float32 [K]
    dots_ptr,  # instead of v: float32 [N, dots_stride] of this chunk, times ROW_SCALE
    top_ptr, total_ptr, pulled_ptr, target_logit_ptr, target_pull_ptr,  # out: [slices, splits, N], [splits, N, K]
    loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr,  # or out: [N], [N], [N, K] or None
    n_rows, n_classes, n_bits, target_stride, dots_stride, first_class, end_class, blocks_per_split,
    exponent,  # log2(e) step / ROW_SCALE
    scale, step, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index,
    WORDS: tl.constexpr, TARGET: tl.constexpr, HAS_NORM: tl.constexpr,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, BITS: tl.constexpr, PIECE: tl.constexpr, PARTS: tl.constexpr,
    ANGULAR: tl.constexpr, SMOOTH: tl.constexpr, NEED_PULL: tl.constexpr, HOIST: tl.constexpr,
):  # fmt: skip
    CHUNKED: tl.constexpr = dots_ptr is not None
    FINISHES: tl.constexpr = loss_ptr is not None
    PIECES: tl.constexpr = BITS // PIECE
    OWN_SUMS: tl.constexpr = TARGET == "dense" or not CHUNKED
    own_slice = tl.program_id(1)
    split = tl.program_id(2)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    in_rows = row < n_rows
    first_bit = own_slice * BITS
    at = split.to(tl.int64) * n_rows + row
    tile = at[:, None] * n_bits
    at += own_slice.to(tl.int64) * tl.num_programs(2) * n_rows  # numbers of a slice's own: another may be a chunk ahead
    first = first_class + split * blocks_per_split * CLASSES
    end = tl.minimum(first + blocks_per_split * CLASSES, end_class)
    STEEP: tl.constexpr = TARGET == "dense" and ANGULAR
    SHIFT: tl.constexpr = STEEP_P_SHIFT if STEEP else P_SHIFT
    P_SCALE: tl.constexpr = 32.0 if STEEP else 32768.0  # 2^SHIFT

    # 1. The rows, and the state that the chunk before left.
    if not CHUNKED:
        square = tl.zeros((ROWS,), tl.float32)
        values = ()
        for piece in tl.static_range(PIECES):
            bit = piece * PIECE + tl.arange(0, PIECE)
            v = _load_values(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, HAS_NORM)
            square += tl.sum(v * v, 1)
            values += (v,)
        inverse_norm = _inverse_norm(square)
        highs, lows = (), ()
        for piece in tl.static_range(PIECES):
            v = values[piece] * inverse_norm[:, None]
            high = _high(v * ROW_SCALE)
            highs += (high,)
            lows += (_low(v * ROW_SCALE, high),)
    top = tl.full((ROWS,), NO_CLASS_YET, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)  # times P_SCALE, as what is pulled
    target_logit = tl.zeros((ROWS,), tl.float32)
    pulled, target_pull = (), ()
    for _ in tl.static_range(PIECES):
        pulled += (tl.zeros((ROWS, PIECE), tl.float32),)
        target_pull += (tl.zeros((ROWS, PIECE), tl.float32),)
    if CHUNKED:
        dots_ptr += (tl.program_id(0) * ROWS).to(tl.int64) * dots_stride
        carried = row < tl.where(first_class > 0, n_rows, 0)
        top = tl.load(top_ptr + at, mask=carried, other=NO_CLASS_YET)
        total = tl.load(total_ptr + at, mask=carried, other=0.0) * P_SCALE
        if TARGET == "dense":
            target_logit = tl.load(target_logit_ptr + at, mask=carried, other=0.0)
        if NEED_PULL:
            pulled = _load_pieces(pulled_ptr, tile, carried, first_bit, n_bits, P_SCALE, PIECES, PIECE)
            if TARGET == "dense":
                target_pull = _load_pieces(target_pull_ptr, tile, carried, first_bit, n_bits, P_SCALE, PIECES, PIECE)

    if TARGET == "ids":
        own_class = tl.load(target_ptr + row, mask=in_rows, other=-1)[:, None]
    elif TARGET == "dense":
        weight = tl.load(target_total_ptr + row, mask=in_rows, other=0.0)
        weight = ((1.0 - label_smoothing) / tl.where(weight > 0.0, weight, 1.0))[:, None]
    else:
        entry = tl.load(target_ptr + row, mask=in_rows, other=0)
        row_end = tl.load(target_ptr + row + 1, mask=in_rows, other=0)
        entry = _first_entry(columns_ptr, entry, row_end, first)
        column = _column_of(columns_ptr, entry, row_end)

    # 2. The sweep.
    for block in tl.range(first, end, CLASSES, disable_licm=not HOIST):
        c = block + tl.arange(0, CLASSES)
        in_classes = c < end
        codes = ()
        if NEED_PULL or not CHUNKED:
            for piece in tl.static_range(PIECES):
                codes += (_load_codes(words_ptr, c, in_classes, first_bit + piece * PIECE, WORDS, CLASSES, PIECE),)
        if CHUNKED:
            here = (c - first_class)[None, :] + tl.arange(0, ROWS)[:, None] * dots_stride  # 2^29 at most
            dot = tl.load(dots_ptr + here, mask=in_rows[:, None], other=0.0)  # whole tiles, as `dots` wrote them
        else:
            dot = tl.zeros((ROWS, CLASSES), tl.float32)
            for piece in tl.static_range(PIECES):
                dot = tl.dot(lows[piece], tl.trans(codes[piece]), dot)
            for piece in tl.static_range(PIECES):
                dot = tl.dot(highs[piece], tl.trans(codes[piece]), dot)

        # Classes that are none, and those that `finish` adds.
        dot = tl.where(in_classes[None, :], dot, float("-inf"))
        if TARGET == "ids":
            dot = tl.where(c[None, :] != own_class, dot, float("-inf"))
        elif TARGET == "sparse":
            while tl.min(column) < block + CLASSES:
                reached = column < block + CLASSES
                positive = reached & (tl.load(values_ptr + entry, mask=reached, other=0.0) > 0.0)
                left_out = tl.where(positive, column, -1)
                dot = tl.where(c[None, :] != left_out[:, None], dot, float("-inf"))
                entry += reached.to(tl.int64)
                column = _column_of(columns_ptr, entry, row_end)

        if TARGET == "dense":
            logit = dot * (step / ROW_SCALE)  # [ROWS, CLASSES]
            share = tl.load(
                target_ptr + row[:, None] * target_stride + c[None, :], mask=in_rows[:, None] & in_classes[None, :], other=0.0
            ).to(tl.float32)
            moved, slope = _with_margin(logit / scale, margin, cos_margin, sin_margin, past_pi_cosine, ANGULAR)
            logit = tl.where(share > 0.0, scale * moved, logit)
            slope = tl.where(share > 0.0, slope, 1.0)
            q = weight * share + label_smoothing / n_classes
            target_logit += tl.sum(tl.where(in_classes[None, :], q * logit, 0.0), 1)
            if NEED_PULL:
                q = tl.where(in_classes[None, :], q * slope * P_SCALE, 0.0)
                target_pull = _pull(target_pull, tl.full((ROWS,), 1.0, tl.float32), q, codes, PIECES, 2, OWN_SUMS)
            logit *= LOG2_E
            new_top = tl.maximum(top, tl.max(logit, 1))
            p = tl.exp2(logit - (new_top - SHIFT)[:, None])  # [ROWS, CLASSES], times P_SCALE
        else:
            new_top = tl.maximum(top, tl.max(dot, 1) * exponent)
            p = tl.exp2(dot * exponent - (new_top - SHIFT)[:, None])
        if NEED_PULL and PARTS == 1:
            p = _high(p).to(tl.float32)
        decay = tl.exp2(top - new_top)
        total = total * decay + tl.sum(p, 1)
        top = new_top
        if NEED_PULL:
            if TARGET == "dense":
                p *= slope
            pulled = _pull(pulled, decay, p, codes, PIECES, PARTS, OWN_SUMS)

    total *= 1.0 / P_SCALE

    # 3. What this part of the classes found.
    if FINISHES:  # one piece
        _finish_rows(
            values[0] * inverse_norm[:, None], inverse_norm, top, total, pulled[0] * (1.0 / P_SCALE), target_logit,
            target_pull[0] * (1.0 / P_SCALE),
            target_ptr, columns_ptr, values_ptr, target_total_ptr, words_ptr, column_sum_ptr,
            loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr, row, tl.arange(0, PIECE), n_rows, n_classes, n_bits,
            scale, step, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index,
            WORDS, TARGET, ANGULAR, SMOOTH, NEED_PULL,
        )  # fmt: skip
    else:
        tl.store(top_ptr + at, top, mask=in_rows)
        tl.store(total_ptr + at, total, mask=in_rows)
        if TARGET == "dense":
            tl.store(target_logit_ptr + at, target_logit, mask=in_rows)
        if NEED_PULL:
            _store_pieces(pulled_ptr, tile, in_rows, first_bit, n_bits, pulled, 1.0 / P_SCALE, PIECES, PIECE)
            if TARGET == "dense":
                _store_pieces(target_pull_ptr, tile, in_rows, first_bit, n_bits, target_pull, 1.0 / P_SCALE, PIECES, PIECE)


@triton.jit
def _load_pieces(ptr, tile, in_rows, first_bit, n_bits, factor, PIECES: tl.constexpr, PIECE: tl.constexpr):
    """factor * x, zero outside, as a tuple of [ROWS, PIECE]; tile: where the rows start, [ROWS, 1]."""
    pieces = ()
    for piece in tl.static_range(PIECES):
        bit = first_bit + piece * PIECE + tl.arange(0, PIECE)
        inside = in_rows[:, None] & (bit < n_bits)[None, :]
        pieces += (tl.load(ptr + tile + bit[None, :], mask=inside, other=0.0) * factor,)
    return pieces


@triton.jit
def _store_pieces(ptr, tile, in_rows, first_bit, n_bits, pieces, factor, PIECES: tl.constexpr, PIECE: tl.constexpr):
    for piece in tl.static_range(PIECES):
        bit = first_bit + piece * PIECE + tl.arange(0, PIECE)
        tl.store(ptr + tile + bit[None, :], pieces[piece] * factor, mask=in_rows[:, None] & (bit < n_bits)[None, :])


@triton.jit(do_not_specialize=["n_rows", "n_classes", "n_splits", "ignore_index"])
def _finish_kernel(
    v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,  # [N, K], [K] or None
    target_ptr, columns_ptr, values_ptr, target_total_ptr,  # as in the sweep
    words_ptr, column_sum_ptr,  # int32 [C, WORDS], float32 [K]
    top_ptr, total_ptr, pulled_ptr, target_logit_ptr, target_pull_ptr,  # [1 or slices, splits, N], [splits, N, K]
    loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr,  # out: [N], [N], [N, K] or None
    n_rows, n_classes, n_bits, n_splits,
    scale, step, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index,
    WORDS: tl.constexpr, TARGET: tl.constexpr, HAS_NORM: tl.constexpr,
    ROWS: tl.constexpr, BITS: tl.constexpr, ANGULAR: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    NEED_PULL: tl.constexpr = pulled_ptr is not None
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    in_rows = row < n_rows
    bit = tl.arange(0, BITS)
    inside = in_rows[:, None] & (bit < n_bits)[None, :]
    tile = row[:, None] * n_bits + bit[None, :]
    v, inverse_norm = _load_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, HAS_NORM)

    # The parts of the classes, merged in their order.
    top = tl.full((ROWS,), NO_CLASS_YET, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    pulled = tl.zeros((ROWS, BITS), tl.float32)
    target_pull = tl.zeros((ROWS, BITS), tl.float32)
    target_logit = tl.zeros((ROWS,), tl.float32)
    for split in range(n_splits):
        at = tl.cast(split, tl.int64) * n_rows
        part_top = tl.load(top_ptr + at + row, mask=in_rows, other=NO_CLASS_YET)
        new_top = tl.maximum(top, part_top)
        decay, part_decay = tl.exp2(top - new_top), tl.exp2(part_top - new_top)
        total = total * decay + part_decay * tl.load(total_ptr + at + row, mask=in_rows, other=0.0)
        top = new_top
        if NEED_PULL:
            part = tl.load(pulled_ptr + at * n_bits + tile, mask=inside, other=0.0)
            pulled = pulled * decay[:, None] + part_decay[:, None] * part
        if TARGET == "dense":
            target_logit += tl.load(target_logit_ptr + at + row, mask=in_rows, other=0.0)
            if NEED_PULL:
                target_pull += tl.load(target_pull_ptr + at * n_bits + tile, mask=inside, other=0.0)
    _finish_rows(
        v, inverse_norm, top, total, pulled, target_logit, target_pull,
        target_ptr, columns_ptr, values_ptr, target_total_ptr, words_ptr, column_sum_ptr,
        loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr, row, bit, n_rows, n_classes, n_bits,
        scale, step, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index,
        WORDS, TARGET, ANGULAR, SMOOTH, NEED_PULL,
    )  # fmt: skip


@triton.jit
def _finish_rows(
    v, inverse_norm, top, total, pulled, target_logit, target_pull,  # v^, 1 / |v|, sums over all classes (or all but positives)
    target_ptr, columns_ptr, values_ptr, target_total_ptr, words_ptr, column_sum_ptr,
    loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr, row, bit, n_rows, n_classes, n_bits,
    scale, step, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index,
    WORDS: tl.constexpr, TARGET: tl.constexpr, ANGULAR: tl.constexpr, SMOOTH: tl.constexpr, NEED_PULL: tl.constexpr,
):  # fmt: skip
    """The positive classes of the rows, which the sweep left out; loss and gradients."""
    in_rows = row < n_rows
    uniform = label_smoothing / n_classes
    if SMOOTH and TARGET != "dense":
        column_sum = tl.load(column_sum_ptr + bit, mask=bit < n_bits, other=0.0)[None, :]
        target_logit += uniform * step * tl.sum(v * column_sum, 1)
        target_pull += uniform * column_sum

    if TARGET == "dense":
        labelled = tl.load(target_total_ptr + row, mask=in_rows, other=0.0) > 0.0
        valid = labelled
    elif TARGET == "ids":
        own_class = tl.load(target_ptr + row, mask=in_rows, other=ignore_index)
        labelled = own_class != ignore_index
        valid = labelled & (own_class >= 0) & (own_class < n_classes)
        top, total, pulled, target_logit, target_pull = _add_positive(
            own_class, valid, 1.0 - label_smoothing, uniform, v, top, total, pulled, target_logit, target_pull,
            words_ptr, bit, n_bits, scale, step, margin, cos_margin, sin_margin, past_pi_cosine, WORDS, ANGULAR,
        )  # fmt: skip
    else:
        start = tl.load(target_ptr + row, mask=in_rows, other=0)
        row_end = tl.load(target_ptr + row + 1, mask=in_rows, other=0)
        longest = tl.max(row_end - start)
        row_total = tl.zeros(inverse_norm.shape, tl.float32)
        for j in range(0, longest):
            row_total += tl.load(values_ptr + start + j, mask=start + j < row_end, other=0.0)
        labelled = row_total > 0.0
        weight = (1.0 - label_smoothing) / tl.where(labelled, row_total, 1.0)
        misplaced = tl.zeros(start.shape, tl.int32)
        before = tl.full(start.shape, -1, tl.int64)
        for j in range(0, longest):
            present = start + j < row_end
            own_class = tl.load(columns_ptr + start + j, mask=present, other=0)
            share = tl.load(values_ptr + start + j, mask=present, other=0.0)
            exists = present & (own_class > before) & (own_class < n_classes)
            misplaced += (present & (exists == 0)).to(tl.int32)
            before = tl.where(present, own_class, before)
            top, total, pulled, target_logit, target_pull = _add_positive(
                own_class, exists & (share > 0.0), weight * share, uniform, v, top, total, pulled, target_logit, target_pull,
                words_ptr, bit, n_bits, scale, step, margin, cos_margin, sin_margin, past_pi_cosine, WORDS, ANGULAR,
            )  # fmt: skip

        valid = labelled & (misplaced == 0)

    # A class id that does not exist must not look like a result.
    lse = (top + tl.log2(total)) * LN_2
    loss = tl.where(labelled, tl.where(valid, lse - target_logit, float("nan")), 0.0)
    tl.store(lse_ptr + row, lse, mask=in_rows)
    tl.store(loss_ptr + row, loss, mask=in_rows)
    if NEED_PULL:
        inside = in_rows[:, None] & (bit < n_bits)[None, :]
        tile = row[:, None] * n_bits + bit[None, :]
        mean_code = pulled / total[:, None]
        if grad_ptr is not None:
            grad = _through_norm(mean_code - target_pull, v, step * inverse_norm)
            grad = tl.where(labelled[:, None], tl.where(valid[:, None], grad, float("nan")), 0.0)
            tl.store(grad_ptr + tile, grad, mask=inside)
        if lse_grad_ptr is not None:
            tl.store(lse_grad_ptr + tile, _through_norm(mean_code, v, step * inverse_norm), mask=inside)


@triton.jit
def _add_positive(
    own_class, present, share, uniform, v, top, total, pulled, target_logit, target_pull,
    words_ptr, bit, n_bits, scale, step, margin, cos_margin, sin_margin, past_pi_cosine,
    WORDS: tl.constexpr, ANGULAR: tl.constexpr,
):  # fmt: skip
    """One positive class of every row where present, of weight share + uniform in the target; its uniform part, without the
    margin, is in target_logit and target_pull already."""
    inside = present[:, None] & (bit < n_bits)[None, :]
    word = tl.load(words_ptr + own_class[:, None] * WORDS + (bit // 32)[None, :], mask=inside, other=0)
    code = tl.where(inside, 2.0 * ((word >> (bit % 32)[None, :]) & 1).to(tl.float32) - 1.0, 0.0)  # [ROWS, BITS]
    cosine = tl.sum(v * code, 1) * (step / scale)
    moved, slope = _with_margin(cosine, margin, cos_margin, sin_margin, past_pi_cosine, ANGULAR)
    logit = tl.where(present, scale * moved * LOG2_E, float("-inf"))
    new_top = tl.maximum(top, logit)
    decay, weight = tl.exp2(top - new_top), tl.exp2(logit - new_top)
    total = total * decay + weight
    pulled = pulled * decay[:, None] + (weight * slope)[:, None] * code
    target_logit += tl.where(present, scale * (share * moved + uniform * (moved - cosine)), 0.0)
    target_pull += (share * slope + uniform * (slope - 1.0))[:, None] * code
    return new_top, total, pulled, target_logit, target_pull


@triton.jit
def _through_norm(pull, unit, factor):
    """The gradient with respect to v, from one with respect to v^ = unit.  [ROWS, BITS]"""
    return (pull - unit * tl.sum(pull * unit, 1)[:, None]) * factor[:, None]


@triton.jit(do_not_specialize=["n_rows"])
def _halves_kernel(
    v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,  # [N, K], [K] or None
    halves_ptr,  # out: fp16 [2, N, K]
    n_rows, n_bits, BITS: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    """The two halves of v^, times ROW_SCALE; one row a program."""
    row = (tl.program_id(0) + tl.arange(0, 1)).to(tl.int64)
    bit = tl.arange(0, BITS)
    in_rows = row < n_rows
    v, _ = _load_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, HAS_NORM)
    inside = in_rows[:, None] & (bit < n_bits)[None, :]
    high = _high(v * ROW_SCALE)
    here = halves_ptr + row[:, None] * n_bits + bit[None, :]
    tl.store(here, high, mask=inside)
    tl.store(here + tl.cast(n_rows, tl.int64) * n_bits, _low(v * ROW_SCALE, high), mask=inside)


@triton.jit(do_not_specialize=["n_rows", "end_class"])
def _dots_kernel(
    halves_ptr, words_ptr,  # fp16 [2, N, K], int32 [C, WORDS]
    dots_ptr,  # out: float32 [N, dots_stride], the classes [first_class, end_class)
    n_rows, n_bits, dots_stride, first_class, end_class,
    WORDS: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """v^ . o_c, times ROW_SCALE; the last tile is whole too, with classes that are none."""
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    here = tl.program_id(0) * CLASSES + tl.arange(0, CLASSES)
    c = first_class + here
    in_rows = row < n_rows
    in_classes = c < end_class
    low_ptr = halves_ptr + tl.cast(n_rows, tl.int64) * n_bits
    dot = tl.zeros((ROWS, CLASSES), tl.float32)
    for first_bit in range(0, n_bits, BITS):
        codes = tl.trans(_load_codes(words_ptr, c, in_classes, first_bit, WORDS, CLASSES, BITS))
        own = tl.zeros((ROWS, CLASSES), tl.float32)
        own = tl.dot(_load_half(low_ptr, row, in_rows, first_bit, n_bits, BITS), codes, own)
        dot += tl.dot(_load_half(halves_ptr, row, in_rows, first_bit, n_bits, BITS), codes, own)
    tl.store(dots_ptr + row[:, None] * dots_stride + here[None, :], dot, mask=in_rows[:, None])


@triton.jit
def _load_half(half_ptr, row, in_rows, first_bit, n_bits, BITS: tl.constexpr):
    bit = first_bit + tl.arange(0, BITS)
    return tl.load(half_ptr + row[:, None] * n_bits + bit[None, :], mask=in_rows[:, None] & (bit < n_bits)[None, :], other=0.0)
