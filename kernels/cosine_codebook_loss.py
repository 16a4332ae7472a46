"""One-pass cosine codebook loss: loss and gradient in a single sweep over the classes, logits never in memory.

The codebook is fixed, so the softmax is attention with K = V = codebook. With v^ = v / |v|, o_c the +-1 code of class c and
z_c = (s / sqrt(K)) v^ . o_c, a running (max, sum_c e^(z_c), sum_c e^(z_c) o_c) gives the loss and d loss / d v^ together.

  sweep    program = (block of rows, slice of the bits, part of the classes); writes the partial (max, sum, weighted codes).
  finish   program = block of rows; merges the parts in their order, adds the positive class, goes back through v / |v|.

Numerics. Codes are exact in fp16, so only v^ and p = e^(z - max) are rounded. Each is carried by one fp16 part or by two (high
and low half), scaled by powers of two to stay clear of fp16's subnormals; two parts are as good as a float32 product, and both
run on tensor cores with float32 accumulation. Exponentials are powers of two of logits premultiplied by log2(e).

Positive classes. With one id per row the sweep leaves the row's own class out (and so knows no margin), and `finish` adds it in
closed form from a float32 dot product: softmax minus target is never computed by cancellation. With a [N, C] target the margin
is part of the sweep, which then also sums q_c o_c and q_c z_c.

More than ONE_SLICE bits are swept in slices: every slice recomputes the logits from all bits and accumulates its own part of
the gradient.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .launch import backend, launch, multiprocessor_count
from .pack_codes import pack_codes

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
ROW_SCALE = tl.constexpr(256.0)  # |v^| <= 1: its low half stays a normal fp16 number
PROBABILITY_SCALE = tl.constexpr(32768.0)  # p <= 1, and 2^15 is below fp16's largest number
NO_CLASS_YET = tl.constexpr(-1e30)  # a running maximum that is finite: -inf - -inf would be NaN
SINE_FLOOR = tl.constexpr(1e-6)  # of sin^2(theta), as the reference

ONE_SLICE = 512  # bits whose gradient accumulates in registers at once


class Prepared(NamedTuple):
    """A codebook as the kernels read it."""

    words: torch.Tensor  # int32 [C, ceil(K / 32)]
    column_sum: torch.Tensor  # float32 [K]


class Plan(NamedTuple):
    """Tile sizes and the split of the work; a pure function of the problem."""

    rows: int
    classes: int
    bits: int  # of a slice; a power of two
    slices: int
    splits: int
    blocks_per_split: int
    warps: int
    stages: int


def prepare(codebook: torch.Tensor) -> Prepared:
    """Pack an int8 +-1 codebook [C, K]; done once per codebook."""
    classes, bits = codebook.shape
    packed = torch.empty(classes, 4 * triton.cdiv(bits, 32), dtype=torch.uint8, device=codebook.device)
    pack_codes(codebook, 0.0, packed)
    return Prepared(packed.view(torch.int32), codebook.sum(0, dtype=torch.float32))


def plan(rows: int, classes: int, bits: int, parts: int, dense: bool, hip: bool, processors: int) -> Plan:
    """Tiles whose accumulators fit the registers (tests compile every one and allow no spill), split until the device is full."""
    slice_bits = max(triton.next_power_of_2(bits), 16) if bits <= ONE_SLICE else ONE_SLICE // 2
    slices = triton.cdiv(bits, slice_bits)
    block_rows, block_classes, warps = _tile(slice_bits, parts, dense, slices > 1, hip)
    blocks = triton.cdiv(classes, block_classes)
    programs = triton.cdiv(rows, block_rows) * slices
    blocks_per_split = triton.cdiv(blocks, min(blocks, max(1, 2 * processors // programs)))
    splits = triton.cdiv(blocks, blocks_per_split)
    stages = 2 if slices == 1 else 1  # prefetching slices of the rows would take the registers of their accumulators
    return Plan(block_rows, block_classes, slice_bits, slices, splits, blocks_per_split, warps, stages)


def _tile(slice_bits: int, parts: int, dense: bool, sliced: bool, hip: bool) -> tuple[int, int, int]:
    """(rows, classes, warps). A dense target keeps a second accumulator; AMD gives four waves twice the registers of eight."""
    if slice_bits <= 64:
        return (32, 32, 4) if dense else (64, 64, 4)
    warps = 4 if hip else 8
    if slice_bits <= 128:
        return 16 if dense else 64, 32, warps
    if slice_bits <= 256:
        return 16 if dense or sliced else 32, 32, warps
    if hip:
        return 16, 16 if dense and parts == 2 else 32, warps
    return 16 if dense or parts == 1 else 32, 32, warps


def cosine_codebook_loss(
    v: torch.Tensor,  # float [N, K]; normalised over the batch on the way in if `mean` is given
    mean: torch.Tensor | None,  # [K]
    rstd: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    target: torch.Tensor,  # int64 [N], or float [N, C]
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
    v, target = (x if x.stride(-1) == 1 else x.contiguous() for x in (v, target))
    dense = target.ndim == 2
    backward = need_grad or need_lse_grad
    tiles = plan(rows, classes, bits, parts, dense, backend() == "hip", multiprocessor_count(v.device))

    def partial(*shape: int) -> torch.Tensor:
        return torch.empty((tiles.splits, *shape), dtype=torch.float32, device=v.device)

    top, total = partial(rows), partial(rows)
    pulled = partial(rows, bits) if backward else None
    target_pull = partial(rows, bits) if backward and dense else None
    target_logit = partial(rows) if dense else None
    target_total = target.sum(1, dtype=torch.float32) if dense else None
    normalisation = (mean, rstd, weight, bias)
    margin_numbers = (scale, scale / math.sqrt(bits), margin, math.cos(margin), math.sin(margin), math.cos(math.pi - margin))

    launch(
        _sweep_kernel,
        (triton.cdiv(rows, tiles.rows), tiles.slices, tiles.splits),
        v, *normalisation, target, target_total, codes.words,
        top, total, pulled, target_logit, target_pull,
        rows, classes, bits, v.stride(0), target.stride(0), tiles.blocks_per_split, *margin_numbers, label_smoothing,
        WORDS=words, ROWS=tiles.rows, CLASSES=tiles.classes, BITS=tiles.bits, SLICES=tiles.slices, PARTS=parts,
        HAS_NORM=mean is not None, DENSE=dense, ANGULAR=angular, NEED_PULL=backward,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip

    all_bits = triton.next_power_of_2(bits)
    finish_rows = max(1, min(16, 2048 // all_bits))
    launch(
        _finish_kernel,
        (triton.cdiv(rows, finish_rows),),
        v, *normalisation, target, target_total, codes.words, codes.column_sum,
        top, total, pulled, target_logit, target_pull,
        loss, lse, grad if need_grad else None, lse_grad if need_lse_grad else None,
        rows, classes, bits, v.stride(0), tiles.splits, *margin_numbers, label_smoothing, ignore_index,
        WORDS=words, ROWS=finish_rows, BITS=all_bits,
        HAS_NORM=mean is not None, DENSE=dense, ANGULAR=angular, SMOOTH=label_smoothing > 0,
        num_warps=4,
    )  # fmt: skip


@triton.jit
def _load_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, v_stride, HAS_NORM: tl.constexpr):
    """Rows of v, normalised over the batch where asked; zero outside.  [ROWS, BITS]"""
    in_bits = bit < n_bits
    inside = in_rows[:, None] & in_bits[None, :]
    v = tl.load(v_ptr + row[:, None] * v_stride + bit[None, :], mask=inside, other=0.0).to(tl.float32)
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
    """1 / sqrt(square), and 0 for a zero row, which then has neither direction nor gradient."""
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
    bit = (packed[:, :, None] >> tl.arange(0, PER_WORD)[None, None, :]) & 1
    return tl.reshape((2 * bit - 1).to(tl.float16), (CLASSES, BITS))


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
def _dot_rows(v, codes, PARTS: tl.constexpr):
    """v^ . o_c of a slice of the bits, times ROW_SCALE.  [ROWS, BITS] x [CLASSES, BITS] -> [ROWS, CLASSES]"""
    v = v * ROW_SCALE
    high = _high(v)
    dot = tl.dot(high, tl.trans(codes))
    if PARTS == 2:
        dot = tl.dot(_low(v, high), tl.trans(codes), dot)
    return dot


@triton.jit
def _pull(accumulator, p, codes, PARTS: tl.constexpr):
    """accumulator + PROBABILITY_SCALE * p @ codes.  [ROWS, CLASSES] x [CLASSES, BITS] -> [ROWS, BITS]"""
    p = p * PROBABILITY_SCALE
    high = _high(p)
    accumulator = tl.dot(high, codes, accumulator)
    if PARTS == 2:
        accumulator = tl.dot(_low(p, high), codes, accumulator)
    return accumulator


@triton.jit
def _sweep_kernel(
    v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,  # [N, K], [K] or None
    target_ptr, target_total_ptr,  # int64 [N]; or float [N, C] and its row sums [N]
    words_ptr,  # int32 [C, WORDS]
    top_ptr, total_ptr, pulled_ptr, target_logit_ptr, target_pull_ptr,  # out: [splits, N] or [splits, N, K]
    n_rows, n_classes, n_bits, v_stride, target_stride, blocks_per_split,
    scale, step, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing,
    WORDS: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr, BITS: tl.constexpr, SLICES: tl.constexpr, PARTS: tl.constexpr,
    HAS_NORM: tl.constexpr, DENSE: tl.constexpr, ANGULAR: tl.constexpr, NEED_PULL: tl.constexpr,
):  # fmt: skip
    own_slice = tl.program_id(1)
    split = tl.program_id(2)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    in_rows = row < n_rows
    lane = tl.arange(0, BITS)

    # 1. The rows: their norm over all bits, and, where one slice holds all bits, v^ itself for the whole sweep.
    if SLICES == 1:
        v = _load_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, lane, in_rows, n_bits, v_stride, HAS_NORM)
        inverse_norm = _inverse_norm(tl.sum(v * v, 1))[:, None]
        v *= inverse_norm
    else:
        square = tl.zeros((ROWS,), tl.float32)
        for s in range(SLICES):
            part = _load_rows(
                v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, s * BITS + lane, in_rows, n_bits, v_stride, HAS_NORM
            )
            square += tl.sum(part * part, 1)
        inverse_norm = _inverse_norm(square)[:, None]

    if DENSE:
        weight = tl.load(target_total_ptr + row, mask=in_rows, other=0.0)
        weight = ((1.0 - label_smoothing) / tl.where(weight > 0.0, weight, 1.0))[:, None]
        target_logit = tl.zeros((ROWS,), tl.float32)
        if NEED_PULL:
            target_pull = tl.zeros((ROWS, BITS), tl.float32)
    else:
        own_class = tl.load(target_ptr + row, mask=in_rows, other=-1)[:, None]

    top = tl.full((ROWS,), NO_CLASS_YET, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    if NEED_PULL:
        pulled = tl.zeros((ROWS, BITS), tl.float32)

    # 2. The sweep.
    first = split * blocks_per_split * CLASSES
    end = tl.minimum(first + blocks_per_split * CLASSES, n_classes)
    for block in range(first, end, CLASSES):
        c = block + tl.arange(0, CLASSES)
        in_classes = c < n_classes
        if SLICES == 1:
            codes = _load_codes(words_ptr, c, in_classes, 0, WORDS, CLASSES, BITS)
            dot = _dot_rows(v, codes, PARTS)
        else:
            dot = tl.zeros((ROWS, CLASSES), tl.float32)
            for s in range(SLICES):
                part = _load_rows(
                    v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, s * BITS + lane, in_rows, n_bits, v_stride, HAS_NORM
                )
                dot += _dot_rows(
                    part * inverse_norm, _load_codes(words_ptr, c, in_classes, s * BITS, WORDS, CLASSES, BITS), PARTS
                )
            codes = _load_codes(words_ptr, c, in_classes, own_slice * BITS, WORDS, CLASSES, BITS)

        logit = dot * (step / ROW_SCALE)  # [ROWS, CLASSES]
        if DENSE:
            share = tl.load(
                target_ptr + row[:, None] * target_stride + c[None, :], mask=in_rows[:, None] & in_classes[None, :], other=0.0
            ).to(tl.float32)
            moved, slope = _with_margin(logit / scale, margin, cos_margin, sin_margin, past_pi_cosine, ANGULAR)
            logit = tl.where(share > 0.0, scale * moved, logit)
            slope = tl.where(share > 0.0, slope, 1.0)
            q = tl.where(in_classes[None, :], weight * share + label_smoothing / n_classes, 0.0)
            target_logit += tl.sum(q * logit, 1)
            if NEED_PULL:
                target_pull = _pull(target_pull, q * slope, codes, PARTS)
            kept = in_classes[None, :]
        else:
            kept = in_classes[None, :] & (c[None, :] != own_class)

        logit = tl.where(kept, logit * LOG2_E, float("-inf"))
        new_top = tl.maximum(top, tl.max(logit, 1))
        p = tl.exp2(logit - new_top[:, None])
        decay = tl.exp2(top - new_top)
        total = total * decay + tl.sum(p, 1)
        top = new_top
        if NEED_PULL:
            if DENSE:
                p *= slope
            pulled = _pull(pulled * decay[:, None], p, codes, PARTS)

    # 3. What this part of the classes found.
    at = split.to(tl.int64) * n_rows + row
    if own_slice == 0:
        tl.store(top_ptr + at, top, mask=in_rows)
        tl.store(total_ptr + at, total, mask=in_rows)
        if DENSE:
            tl.store(target_logit_ptr + at, target_logit, mask=in_rows)
    if NEED_PULL:
        bit = own_slice * BITS + lane
        tile = at[:, None] * n_bits + bit[None, :]
        inside = in_rows[:, None] & (bit < n_bits)[None, :]
        tl.store(pulled_ptr + tile, pulled * (1.0 / PROBABILITY_SCALE), mask=inside)
        if DENSE:
            tl.store(target_pull_ptr + tile, target_pull * (1.0 / PROBABILITY_SCALE), mask=inside)


@triton.jit
def _finish_kernel(
    v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,  # [N, K], [K] or None
    target_ptr, target_total_ptr,  # int64 [N]; or [N, C] and its row sums [N]
    words_ptr, column_sum_ptr,  # int32 [C, WORDS], float32 [K]
    top_ptr, total_ptr, pulled_ptr, target_logit_ptr, target_pull_ptr,  # [splits, N] or [splits, N, K]
    loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr,  # out: [N], [N], [N, K] or None
    n_rows, n_classes, n_bits, v_stride, n_splits,
    scale, step, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index,
    WORDS: tl.constexpr, ROWS: tl.constexpr, BITS: tl.constexpr,
    HAS_NORM: tl.constexpr, DENSE: tl.constexpr, ANGULAR: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    NEED_PULL: tl.constexpr = pulled_ptr is not None
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    in_rows = row < n_rows
    bit = tl.arange(0, BITS)
    in_bits = bit < n_bits
    inside = in_rows[:, None] & in_bits[None, :]
    tile = row[:, None] * n_bits + bit[None, :]
    v = _load_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, v_stride, HAS_NORM)
    inverse_norm = _inverse_norm(tl.sum(v * v, 1))
    v *= inverse_norm[:, None]

    # 1. The parts of the classes, merged in their order.
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
        if DENSE:
            target_logit += tl.load(target_logit_ptr + at + row, mask=in_rows, other=0.0)
            if NEED_PULL:
                target_pull += tl.load(target_pull_ptr + at * n_bits + tile, mask=inside, other=0.0)

    # 2. The positive class of a row, which the sweep left out.
    if DENSE:
        labelled = tl.load(target_total_ptr + row, mask=in_rows, other=0.0) > 0.0
        valid = labelled
    else:
        own_class = tl.load(target_ptr + row, mask=in_rows, other=ignore_index)
        labelled = own_class != ignore_index
        valid = labelled & (own_class >= 0) & (own_class < n_classes)
        word = tl.load(words_ptr + own_class[:, None] * WORDS + (bit // 32)[None, :], mask=inside & valid[:, None], other=0)
        code = tl.where(inside, 2.0 * ((word >> (bit % 32)[None, :]) & 1).to(tl.float32) - 1.0, 0.0)  # [ROWS, BITS]
        cosine = tl.sum(v * code, 1) * (step / scale)
        moved, slope = _with_margin(cosine, margin, cos_margin, sin_margin, past_pi_cosine, ANGULAR)
        positive = tl.where(valid, scale * moved * LOG2_E, float("-inf"))
        new_top = tl.maximum(top, positive)
        decay, weight = tl.exp2(top - new_top), tl.exp2(positive - new_top)
        total = total * decay + weight
        top = new_top
        pulled = pulled * decay[:, None] + (weight * slope)[:, None] * code
        target_logit = (1.0 - label_smoothing) * scale * moved
        target_pull = ((1.0 - label_smoothing) * slope)[:, None] * code
        if SMOOTH:
            uniform = label_smoothing / n_classes
            column_sum = tl.load(column_sum_ptr + bit, mask=in_bits, other=0.0)[None, :]
            target_logit += uniform * (step * tl.sum(v * column_sum, 1) + scale * (moved - cosine))
            target_pull += uniform * (column_sum + (slope - 1.0)[:, None] * code)

    # 3. Loss and gradients.  A class id that does not exist must not look like a result.
    lse = (top + tl.log2(total)) * LN_2
    loss = tl.where(labelled, tl.where(valid, lse - target_logit, float("nan")), 0.0)
    tl.store(lse_ptr + row, lse, mask=in_rows)
    tl.store(loss_ptr + row, loss, mask=in_rows)
    if NEED_PULL:
        mean_code = pulled / total[:, None]
        if grad_ptr is not None:
            grad = _through_norm(mean_code - target_pull, v, step * inverse_norm)
            grad = tl.where(labelled[:, None], tl.where(valid[:, None], grad, float("nan")), 0.0)
            tl.store(grad_ptr + tile, grad, mask=inside)
        if lse_grad_ptr is not None:
            tl.store(lse_grad_ptr + tile, _through_norm(mean_code, v, step * inverse_norm), mask=inside)


@triton.jit
def _through_norm(pull, unit, factor):
    """The gradient with respect to v, from one with respect to v^ = unit.  [ROWS, BITS]"""
    return (pull - unit * tl.sum(pull * unit, 1)[:, None]) * factor[:, None]
