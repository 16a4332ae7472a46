"""The sweep of the codebook loss over the classes: running maximum, denominator and weighted sum of codes of each row.

`cosine_codebook_loss.py` describes the algorithm.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from ._codebook_arguments import Options, Outputs, Plan, Prepared, Rows, State, Target
from ._codebook_finish import finish_rows
from ._codebook_rows import ROW_SCALE, apply_margin, inverse_root, load_codes, load_rows, row_scale, unscaled
from ._halves import high_half, low_half
from ._sizes import cdiv
from .launch import launch

LOG2_E = tl.constexpr(1.4426950408889634)
P_SHIFT = tl.constexpr(15)  # p <= 1, and 2^15 is below fp16's largest number
STEEP_P_SHIFT = tl.constexpr(5)  # with an angular margin p is times a slope of up to 1 / sqrt(SINE_FLOOR) = 1,000
NO_MAXIMUM = tl.constexpr(-1e30)  # m_i before the first class; finite, because -inf - -inf would be NaN
NO_COLUMN = tl.constexpr(2**31 - 1)  # the column of a sparse row that has no further entry

_NO_ROWS, _NO_OUTPUTS = (None,) * 5, (None,) * 4


def sweep(
    tiles: Plan,
    rows: Rows,
    target: Target,
    codes: Prepared,
    dots: Tensor | None,  # float32 [N, chunk], the products with the classes [first, end), if they are in memory
    state: State,
    out: Outputs,
    options: Options,
    first: int,
    end: int,
    *,
    p_terms: int,
    angular: bool,
    need_grad: bool,
) -> None:
    """Launch the sweep over the classes [first, end), which fills `state`, or `out` if the plan fuses the epilogue."""
    count, (classes, words) = len(rows.v), codes.words.shape
    fused = tiles.fuse_epilogue
    launch(
        _sweep_kernel, (cdiv(count, tiles.block_m), tiles.k_blocks, tiles.splits),
        *(rows.pointers() if dots is None else _NO_ROWS), *target, *codes, dots,
        *state, *(out.pointers() if fused else _NO_OUTPUTS),
        count, classes, *rows.lengths(), target.target.stride(0), 0 if dots is None else dots.shape[1],
        first, end, tiles.blocks_per_split,
        options.dot_scale * math.log2(math.e) / ROW_SCALE.value, *options, int(angular), *out.wanted(),
        WORDS=words, TARGET=target.kind, HAS_NORM=rows.mean is not None and dots is None,
        BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, BLOCK_K=tiles.block_k, TILE_K=tiles.tile_k,
        P_TERMS=p_terms if need_grad else 2, ANGULAR=angular and target.kind == "dense", NEED_GRAD=need_grad, HOIST=tiles.hoist,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, min_blocks_per_sm=tiles.min_blocks_per_sm,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "n_rows", "n_classes", "n_weight", "n_bias", "end_class", "blocks_per_split", "ignore_index", "angular", "want_grad",
        "want_lse_grad",
    ]
)  # fmt: skip
def _sweep_kernel(
    # Rows: v [N, K]; mean, rstd, weight, bias [K] of the batch normalisation, or None without it. All are None with dots_ptr.
    v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,
    # Target: int64 ids [N]; or row starts int64 [N + 1], columns int64 [nnz], values float32 [nnz]; or float [N, C], sums [N].
    target_ptr, columns_ptr, values_ptr, target_total_ptr,
    # Codebook: packed int32 [C, WORDS], float32 sum of its rows [K].
    words_ptr, column_sum_ptr,
    # Dot products of this chunk of classes, float32 [N, dots_stride], times ROW_SCALE; None to compute them here.
    dots_ptr,
    # Out, unless FUSE_EPILOGUE: the state of each split, [K blocks, splits, N] for m, l and target_logit, [splits, N, K] for acc.
    m_ptr, l_ptr, acc_ptr, target_logit_ptr, target_acc_ptr,
    # Out, if FUSE_EPILOGUE: loss [N], log-sum-exp [N], their gradients [N, K], if want_grad and want_lse_grad.
    loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr,
    # Sizes.
    n_rows, n_classes, n_bits, n_weight, n_bias, target_stride, dots_stride, first_class, end_class, blocks_per_split,
    # Options. log2_scale = log2(e) dot_scale / ROW_SCALE, dot_scale = logit_scale / sqrt(K).
    log2_scale, logit_scale, dot_scale, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index, angular,
    want_grad, want_lse_grad,
    WORDS: tl.constexpr, TARGET: tl.constexpr, HAS_NORM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, TILE_K: tl.constexpr, P_TERMS: tl.constexpr,
    ANGULAR: tl.constexpr, NEED_GRAD: tl.constexpr, HOIST: tl.constexpr,
):  # fmt: skip
    """Sweep one split of the classes for one block of rows; accumulate the gradient of one block of bits.

    The grid is (blocks of BLOCK_M rows, blocks of BLOCK_K bits, splits). A program goes through its split BLOCK_N classes at a
    time with the recurrence of FlashAttention, where the codebook is both K and V:

        m_new = max(m_i, max_c z_c),  p_c = e^(z_c - m_new),  alpha = e^(m_i - m_new)
        l_i = alpha l_i + sum_c p_c,  acc = alpha acc + sum_c p_c o_c

    m_i is kept in units of log2, l_i and acc times 2^SHIFT. Positive classes that are listed (TARGET "ids" or "sparse") are left
    out, and `finish_rows` adds them. A dense target is part of the sweep: target_logit = sum_c q_c z_c and
    target_acc = sum_c q_c o_c.
    With FUSE_EPILOGUE there is one split, and the program computes the loss of its rows itself.
    """
    CHUNKED: tl.constexpr = dots_ptr is not None
    FUSE_EPILOGUE: tl.constexpr = loss_ptr is not None
    NUM_TILES: tl.constexpr = BLOCK_K // TILE_K
    SEPARATE_SUMS: tl.constexpr = TARGET == "dense" or not CHUNKED
    k_block = tl.program_id(1)
    split = tl.program_id(2)
    row = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    in_rows = row < n_rows
    first_bit = k_block * BLOCK_K
    at = split.to(tl.int64) * n_rows + row
    acc_row = at[:, None] * n_bits
    at += k_block.to(tl.int64) * tl.num_programs(2) * n_rows  # each block of bits has its own state: another may be a chunk ahead
    first = first_class + split * blocks_per_split * BLOCK_N
    end = tl.minimum(first + blocks_per_split * BLOCK_N, end_class)
    STEEP: tl.constexpr = TARGET == "dense" and ANGULAR
    SHIFT: tl.constexpr = STEEP_P_SHIFT if STEEP else P_SHIFT
    P_SCALE: tl.constexpr = 32.0 if STEEP else 32768.0  # 2^SHIFT

    # 1. Load the rows, and the state that the previous chunk left.
    if not CHUNKED:
        largest = tl.zeros((BLOCK_M,), tl.float32)
        loaded, rows = (), ()
        for tile in tl.static_range(NUM_TILES):
            bit = tile * TILE_K + tl.arange(0, TILE_K)
            v = load_rows(v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, n_weight, n_bias, HAS_NORM)
            largest = tl.maximum(largest, tl.max(tl.abs(v), 1))
            loaded += (v,)
        scale = row_scale(largest)
        square = tl.zeros((BLOCK_M,), tl.float32)
        for tile in tl.static_range(NUM_TILES):
            v = loaded[tile] * scale[:, None]
            square += tl.sum(v * v, 1)
            rows += (v,)
        inverse_norm = inverse_root(square)
        highs, lows = (), ()
        for tile in tl.static_range(NUM_TILES):
            v = rows[tile] * inverse_norm[:, None]
            high = high_half(v * ROW_SCALE)
            highs += (high,)
            lows += (low_half(v * ROW_SCALE, high),)
    m_i = tl.full((BLOCK_M,), NO_MAXIMUM, tl.float32)
    l_i = tl.zeros((BLOCK_M,), tl.float32)
    target_logit = tl.zeros((BLOCK_M,), tl.float32)
    acc, target_acc = (), ()
    for _ in tl.static_range(NUM_TILES):
        acc += (tl.zeros((BLOCK_M, TILE_K), tl.float32),)
        target_acc += (tl.zeros((BLOCK_M, TILE_K), tl.float32),)
    if CHUNKED:
        dots_ptr += (tl.program_id(0) * BLOCK_M).to(tl.int64) * dots_stride
        carried = row < tl.where(first_class > 0, n_rows, 0)
        m_i = tl.load(m_ptr + at, mask=carried, other=NO_MAXIMUM)
        l_i = tl.load(l_ptr + at, mask=carried, other=0.0) * P_SCALE
        if TARGET == "dense":
            target_logit = tl.load(target_logit_ptr + at, mask=carried, other=0.0)
        if NEED_GRAD:
            acc = _load_tiles(acc_ptr, acc_row, carried, first_bit, n_bits, P_SCALE, NUM_TILES, TILE_K)
            if TARGET == "dense":
                target_acc = _load_tiles(target_acc_ptr, acc_row, carried, first_bit, n_bits, P_SCALE, NUM_TILES, TILE_K)

    if TARGET == "ids":
        class_id = tl.load(target_ptr + row, mask=in_rows, other=-1)[:, None]
    elif TARGET == "dense":
        target_scale = tl.load(target_total_ptr + row, mask=in_rows, other=0.0)
        target_scale = ((1.0 - label_smoothing) / tl.where(target_scale > 0.0, target_scale, 1.0))[:, None]
    else:
        entry = tl.load(target_ptr + row, mask=in_rows, other=0)
        row_end = tl.load(target_ptr + row + 1, mask=in_rows, other=0)
        entry = _first_entry(columns_ptr, entry, row_end, first)
        column = _column_of(columns_ptr, entry, row_end)

    # 2. Sweep the classes of the split.
    for block in tl.range(first, end, BLOCK_N, disable_licm=not HOIST):
        c = block + tl.arange(0, BLOCK_N)
        in_classes = c < end
        codes = ()
        if NEED_GRAD or not CHUNKED:
            for tile in tl.static_range(NUM_TILES):
                codes += (load_codes(words_ptr, c, in_classes, first_bit + tile * TILE_K, WORDS, BLOCK_N, TILE_K),)
        if CHUNKED:
            offset = (c - first_class)[None, :] + tl.arange(0, BLOCK_M)[:, None] * dots_stride  # 2^29 at most
            dot = tl.load(dots_ptr + offset, mask=in_rows[:, None], other=0.0)  # `_dots_kernel` wrote whole tiles
        else:
            dot = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for tile in tl.static_range(NUM_TILES):
                dot = tl.dot(lows[tile], tl.trans(codes[tile]), dot)
            for tile in tl.static_range(NUM_TILES):
                dot = tl.dot(highs[tile], tl.trans(codes[tile]), dot)

        # Leave out classes beyond the split, and the positives that `finish_rows` adds.
        dot = tl.where(in_classes[None, :], dot, float("-inf"))
        if TARGET == "ids":
            dot = tl.where(c[None, :] != class_id, dot, float("-inf"))
        elif TARGET == "sparse":
            while tl.min(column) < block + BLOCK_N:
                reached = column < block + BLOCK_N
                positive = reached & (tl.load(values_ptr + entry, mask=reached, other=0.0) > 0.0)
                left_out = tl.where(positive, column, -1)
                dot = tl.where(c[None, :] != left_out[:, None], dot, float("-inf"))
                entry += reached.to(tl.int64)
                column = _column_of(columns_ptr, entry, row_end)

        if TARGET == "dense":
            logit = dot * (dot_scale / ROW_SCALE)  # [BLOCK_M, BLOCK_N]
            value = tl.load(
                target_ptr + row[:, None] * target_stride + c[None, :], mask=in_rows[:, None] & in_classes[None, :], other=0.0
            ).to(tl.float32)
            shifted, slope = apply_margin(logit / logit_scale, margin, cos_margin, sin_margin, past_pi_cosine, ANGULAR)
            logit = tl.where(value > 0.0, logit_scale * shifted, logit)
            slope = tl.where(value > 0.0, slope, 1.0)
            q = target_scale * value + label_smoothing / n_classes
            target_logit += tl.sum(tl.where(in_classes[None, :], q * logit, 0.0), 1)
            if NEED_GRAD:
                q = tl.where(in_classes[None, :], q * slope * P_SCALE, 0.0)
                target_acc = _accumulate(target_acc, tl.full((BLOCK_M,), 1.0, tl.float32), q, codes, NUM_TILES, 2, SEPARATE_SUMS)
            logit *= LOG2_E
            m_new = tl.maximum(m_i, tl.max(logit, 1))
            p = tl.exp2(logit - (m_new - SHIFT)[:, None])  # [BLOCK_M, BLOCK_N], times P_SCALE
        else:
            m_new = tl.maximum(m_i, tl.max(dot, 1) * log2_scale)
            p = tl.exp2(dot * log2_scale - (m_new - SHIFT)[:, None])
        if NEED_GRAD and P_TERMS == 1:
            p = high_half(p).to(tl.float32)
        alpha = tl.exp2(m_i - m_new)
        l_i = l_i * alpha + tl.sum(p, 1)
        m_i = m_new
        if NEED_GRAD:
            if TARGET == "dense":
                p *= slope
            acc = _accumulate(acc, alpha, p, codes, NUM_TILES, P_TERMS, SEPARATE_SUMS)

    l_i *= 1.0 / P_SCALE

    # 3. Finish the rows, or store the state of this split.
    if FUSE_EPILOGUE:  # one tile of bits
        finish_rows(
            rows[0] * inverse_norm[:, None], unscaled(inverse_norm, scale), m_i, l_i, acc[0] * (1.0 / P_SCALE), target_logit,
            target_acc[0] * (1.0 / P_SCALE),
            target_ptr, columns_ptr, values_ptr, target_total_ptr, words_ptr, column_sum_ptr,
            loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr, row, tl.arange(0, TILE_K), n_rows, n_classes, n_bits,
            logit_scale, dot_scale, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index, angular,
            want_grad, want_lse_grad, WORDS, TARGET, NEED_GRAD,
        )  # fmt: skip
    else:
        tl.store(m_ptr + at, m_i, mask=in_rows)
        tl.store(l_ptr + at, l_i, mask=in_rows)
        if TARGET == "dense":
            tl.store(target_logit_ptr + at, target_logit, mask=in_rows)
        if NEED_GRAD:
            _store_tiles(acc_ptr, acc_row, in_rows, first_bit, n_bits, acc, 1.0 / P_SCALE, NUM_TILES, TILE_K)
            if TARGET == "dense":
                _store_tiles(target_acc_ptr, acc_row, in_rows, first_bit, n_bits, target_acc, 1.0 / P_SCALE, NUM_TILES, TILE_K)


@triton.jit
def _accumulate(acc, alpha, p, codes, NUM_TILES: tl.constexpr, P_TERMS: tl.constexpr, SEPARATE_SUMS: tl.constexpr):
    """Return acc * alpha + p @ codes as a tuple of tiles.  [BLOCK_M, BLOCK_N] x [BLOCK_N, TILE_K] -> [BLOCK_M, TILE_K]

    With SEPARATE_SUMS the product of a block starts from zero and float32 units add it: tensor cores truncate what they
    accumulate, which over many blocks is a bias.
    """
    high = high_half(p)
    low = low_half(p, high)
    updated = ()
    for tile in tl.static_range(NUM_TILES):
        before = acc[tile] * alpha[:, None]
        product = tl.zeros(before.shape, tl.float32) if SEPARATE_SUMS else before
        if P_TERMS == 2:
            product = tl.dot(low, codes[tile], product)
        product = tl.dot(high, codes[tile], product)
        updated += (before + product if SEPARATE_SUMS else product,)
    return updated


@triton.jit
def _first_entry(columns_ptr, low, high, c):
    """Find by bisection the first of the ascending columns [low, high) that is at least c; return its position.  [BLOCK_M]"""
    while tl.max(high - low) > 0:
        middle = (low + high) // 2
        searching = low < high
        before = searching & (tl.load(columns_ptr + middle, mask=searching, other=0) < c)
        low = tl.where(before, middle + 1, low)
        high = tl.where(before, high, middle)
    return low


@triton.jit
def _column_of(columns_ptr, entry, row_end):
    """Load the column of each row's current entry, or NO_COLUMN for a row without further entries.  [BLOCK_M]"""
    return tl.load(columns_ptr + entry, mask=entry < row_end, other=NO_COLUMN).to(tl.int32)


@triton.jit
def _load_tiles(ptr, first, in_rows, first_bit, n_bits, factor, NUM_TILES: tl.constexpr, TILE_K: tl.constexpr):
    """Load factor * x as a tuple of tiles [BLOCK_M, TILE_K], zero outside; `first` [BLOCK_M, 1] is the offset of each row."""
    tiles = ()
    for tile in tl.static_range(NUM_TILES):
        bit = first_bit + tile * TILE_K + tl.arange(0, TILE_K)
        inside = in_rows[:, None] & (bit < n_bits)[None, :]
        tiles += (tl.load(ptr + first + bit[None, :], mask=inside, other=0.0) * factor,)
    return tiles


@triton.jit
def _store_tiles(ptr, first, in_rows, first_bit, n_bits, tiles, factor, NUM_TILES: tl.constexpr, TILE_K: tl.constexpr):
    """Store `tiles` times `factor`; the other arguments are those of `_load_tiles`."""
    for tile in tl.static_range(NUM_TILES):
        bit = first_bit + tile * TILE_K + tl.arange(0, TILE_K)
        tl.store(ptr + first + bit[None, :], tiles[tile] * factor, mask=in_rows[:, None] & (bit < n_bits)[None, :])
