"""The last step of the codebook loss: merge the splits of the classes, add the positive classes, compute loss and gradients.

`cosine_codebook_loss.py` describes the algorithm.
"""

import triton
import triton.language as tl

from ._codebook_arguments import Options, Outputs, Prepared, Rows, State, Target
from ._codebook_rows import apply_margin, load_unit_rows
from ._sizes import cdiv, next_power_of_2
from .launch import launch

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
NO_MAXIMUM = tl.constexpr(-1e30)  # m_i before the first class; finite, because -inf - -inf would be NaN


def finish(
    splits: int, rows: Rows, target: Target, codes: Prepared, state: State, out: Outputs, options: Options, *, angular: bool
) -> None:
    """Merge the states of the splits of the classes, and fill `out` with the loss and its gradients."""
    (count, bits), (classes, words) = rows.v.shape, codes.words.shape
    block_k = next_power_of_2(bits)
    block_m = max(1, min(16, 512 // block_k))
    launch(
        _finish_kernel, (cdiv(count, block_m),),
        *rows.pointers(), *target, *codes, *state, *out.pointers(),
        count, classes, *rows.lengths(), splits, *options, int(angular), *out.wanted(),
        WORDS=words, TARGET=target.kind, HAS_NORM=rows.mean is not None, BLOCK_M=block_m, BLOCK_K=block_k,
        num_warps=4 if block_k <= 256 else 8 if block_k <= 2048 else 16, min_blocks_per_sm=1,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "n_rows",
        "n_classes",
        "n_splits",
        "ignore_index",
        "angular",
        "n_weight",
        "n_bias",
        "want_grad",
        "want_lse_grad",
    ]
)
def _finish_kernel(
    # Rows: v [N, K]; mean, rstd, weight, bias [K] of the batch normalisation, or None without it.
    v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,
    # Target and codebook, as in `_sweep_kernel`.
    target_ptr, columns_ptr, values_ptr, target_total_ptr,
    words_ptr, column_sum_ptr,
    # State of each split: m, l, target_logit [K blocks, splits, N], of which the first block is read; acc [splits, N, K] or None.
    m_ptr, l_ptr, acc_ptr, target_logit_ptr, target_acc_ptr,
    # Out: loss [N], log-sum-exp [N]; their gradients [N, K], if want_grad and want_lse_grad.
    loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr,
    # Sizes.
    n_rows, n_classes, n_bits, n_weight, n_bias, n_splits,
    # Options.
    logit_scale, dot_scale, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index, angular,
    want_grad, want_lse_grad,
    WORDS: tl.constexpr, TARGET: tl.constexpr, HAS_NORM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Merge the splits of one block of rows, in order, and compute losses and gradients. The grid is (blocks of BLOCK_M rows)."""
    NEED_GRAD: tl.constexpr = acc_ptr is not None
    row = (tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    in_rows = row < n_rows
    bit = tl.arange(0, BLOCK_K)
    inside = in_rows[:, None] & (bit < n_bits)[None, :]
    offset = row[:, None] * n_bits + bit[None, :]
    v, inverse_norm = load_unit_rows(
        v_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, row, bit, in_rows, n_bits, n_weight, n_bias, HAS_NORM
    )

    m_i = tl.full((BLOCK_M,), NO_MAXIMUM, tl.float32)
    l_i = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    target_acc = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    target_logit = tl.zeros((BLOCK_M,), tl.float32)
    for split in range(n_splits):
        first = tl.cast(split, tl.int64) * n_rows
        m_split = tl.load(m_ptr + first + row, mask=in_rows, other=NO_MAXIMUM)
        m_new = tl.maximum(m_i, m_split)
        alpha, alpha_split = tl.exp2(m_i - m_new), tl.exp2(m_split - m_new)
        l_i = l_i * alpha + alpha_split * tl.load(l_ptr + first + row, mask=in_rows, other=0.0)
        m_i = m_new
        if NEED_GRAD:
            acc_split = tl.load(acc_ptr + first * n_bits + offset, mask=inside, other=0.0)
            acc = acc * alpha[:, None] + alpha_split[:, None] * acc_split
        if TARGET == "dense":
            target_logit += tl.load(target_logit_ptr + first + row, mask=in_rows, other=0.0)
            if NEED_GRAD:
                target_acc += tl.load(target_acc_ptr + first * n_bits + offset, mask=inside, other=0.0)
    finish_rows(
        v, inverse_norm, m_i, l_i, acc, target_logit, target_acc,
        target_ptr, columns_ptr, values_ptr, target_total_ptr, words_ptr, column_sum_ptr,
        loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr, row, bit, n_rows, n_classes, n_bits,
        logit_scale, dot_scale, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index, angular,
        want_grad, want_lse_grad, WORDS, TARGET, NEED_GRAD,
    )  # fmt: skip


@triton.jit
def finish_rows(
    # v^ [BLOCK_M, BLOCK_K] and 1 / |v| [BLOCK_M]; the state over all classes, or over all but the listed positives.
    v, inverse_norm, m_i, l_i, acc, target_logit, target_acc,
    target_ptr, columns_ptr, values_ptr, target_total_ptr, words_ptr, column_sum_ptr,
    loss_ptr, lse_ptr, grad_ptr, lse_grad_ptr, row, bit, n_rows, n_classes, n_bits,
    logit_scale, dot_scale, margin, cos_margin, sin_margin, past_pi_cosine, label_smoothing, ignore_index, angular,
    want_grad, want_lse_grad, WORDS: tl.constexpr, TARGET: tl.constexpr, NEED_GRAD: tl.constexpr,
):  # fmt: skip
    """Add the listed positive classes of the rows, then store loss, log-sum-exp and gradients."""
    in_rows = row < n_rows
    uniform = label_smoothing / n_classes
    if TARGET != "dense":  # noqa: SIM102  (the compiler decides the first condition, the program the second)
        if label_smoothing > 0.0:
            column_sum = tl.load(column_sum_ptr + bit, mask=bit < n_bits, other=0.0)[None, :]
            target_logit += uniform * dot_scale * tl.sum(v * column_sum, 1)
            target_acc += uniform * column_sum

    if TARGET == "dense":
        labelled = tl.load(target_total_ptr + row, mask=in_rows, other=0.0) > 0.0
        valid = labelled
    elif TARGET == "ids":
        class_id = tl.load(target_ptr + row, mask=in_rows, other=ignore_index)
        labelled = class_id != ignore_index
        valid = labelled & (class_id >= 0) & (class_id < n_classes)
        m_i, l_i, acc, target_logit, target_acc = _add_positive(
            class_id, valid, 1.0 - label_smoothing, uniform, v, m_i, l_i, acc, target_logit, target_acc,
            words_ptr, bit, n_bits, logit_scale, dot_scale, margin, cos_margin, sin_margin, past_pi_cosine, angular, WORDS,
        )  # fmt: skip
    else:
        start = tl.load(target_ptr + row, mask=in_rows, other=0)
        row_end = tl.load(target_ptr + row + 1, mask=in_rows, other=0)
        longest = tl.max(row_end - start)
        target_total = tl.zeros(inverse_norm.shape, tl.float32)
        for j in range(0, longest):
            target_total += tl.load(values_ptr + start + j, mask=start + j < row_end, other=0.0)
        labelled = target_total > 0.0
        target_scale = (1.0 - label_smoothing) / tl.where(labelled, target_total, 1.0)
        misplaced = tl.zeros(start.shape, tl.int32)
        previous = tl.full(start.shape, -1, tl.int64)
        for j in range(0, longest):
            present = start + j < row_end
            class_id = tl.load(columns_ptr + start + j, mask=present, other=0)
            value = tl.load(values_ptr + start + j, mask=present, other=0.0)
            exists = present & (class_id > previous) & (class_id < n_classes)
            misplaced += (present & (exists == 0)).to(tl.int32)
            previous = tl.where(present, class_id, previous)
            m_i, l_i, acc, target_logit, target_acc = _add_positive(
                class_id, exists & (value > 0.0), target_scale * value, uniform, v, m_i, l_i, acc, target_logit, target_acc,
                words_ptr, bit, n_bits, logit_scale, dot_scale, margin, cos_margin, sin_margin, past_pi_cosine, angular, WORDS,
            )  # fmt: skip

        valid = labelled & (misplaced == 0)

    # A row with a class id that does not exist becomes NaN, so that it cannot be mistaken for a result.
    lse = (m_i + tl.log2(l_i)) * LN_2
    loss = tl.where(labelled, tl.where(valid, lse - target_logit, float("nan")), 0.0)
    tl.store(lse_ptr + row, lse, mask=in_rows)
    tl.store(loss_ptr + row, loss, mask=in_rows)
    if NEED_GRAD:
        inside = in_rows[:, None] & (bit < n_bits)[None, :]
        offset = row[:, None] * n_bits + bit[None, :]
        mean_code = acc / l_i[:, None]
        if want_grad:
            grad = _through_norm(mean_code - target_acc, v, dot_scale * inverse_norm)
            grad = tl.where(labelled[:, None], tl.where(valid[:, None], grad, float("nan")), 0.0)
            tl.store(grad_ptr + offset, grad, mask=inside)
        if want_lse_grad:
            tl.store(lse_grad_ptr + offset, _through_norm(mean_code, v, dot_scale * inverse_norm), mask=inside)


@triton.jit
def _add_positive(
    class_id, present, q, uniform, v, m_i, l_i, acc, target_logit, target_acc,
    words_ptr, bit, n_bits, logit_scale, dot_scale, margin, cos_margin, sin_margin, past_pi_cosine, angular,
    WORDS: tl.constexpr,
):  # fmt: skip
    """Add one positive class to the sums of every row where `present` [BLOCK_M] is true; return the new sums.

    Its probability in the target is q + uniform. The uniform part without the margin is in target_logit and target_acc already.
    """
    inside = present[:, None] & (bit < n_bits)[None, :]
    word = tl.load(words_ptr + class_id[:, None] * WORDS + (bit // 32)[None, :], mask=inside, other=0)
    code = tl.where(inside, 2.0 * ((word >> (bit % 32)[None, :]) & 1).to(tl.float32) - 1.0, 0.0)  # [BLOCK_M, BLOCK_K]
    cosine = tl.sum(v * code, 1) * (dot_scale / logit_scale)
    shifted, slope = apply_margin(cosine, margin, cos_margin, sin_margin, past_pi_cosine, angular)
    logit = tl.where(present, logit_scale * shifted * LOG2_E, float("-inf"))
    m_new = tl.maximum(m_i, logit)
    alpha, p = tl.exp2(m_i - m_new), tl.exp2(logit - m_new)
    l_i = l_i * alpha + p
    acc = acc * alpha[:, None] + (p * slope)[:, None] * code
    target_logit += tl.where(present, logit_scale * (q * shifted + uniform * (shifted - cosine)), 0.0)
    target_acc += (q * slope + uniform * (slope - 1.0))[:, None] * code
    return m_new, l_i, acc, target_logit, target_acc


@triton.jit
def _through_norm(gradient, unit, factor):
    """Convert the gradient with respect to normalised rows, `unit`, to the one with respect to the rows.  [BLOCK_M, BLOCK_K]"""
    return (gradient - unit * tl.sum(gradient * unit, 1)[:, None]) * factor[:, None]
