"""Small problems of the codebook loss, compiled as a whole: calls of PyTorch would take longer than the computation."""

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from ._codebook_positives import count_labelled, finish_listed, leave_out
from ._codebook_rows import compiled, expand, extend_rows
from ._exponential import exponential


@intrinsic
def _address(typing_context, address, sample):
    """Return `address` as a pointer to numbers of the type of `sample`."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(sample)(address, sample), generate


@compiled
def _numbers(address, shape, sample):
    """Return the numbers at `address` as an array of that shape."""
    return numba.carray(_address(address, sample), shape)  # the typing context is passed by compiled code


@compiled
def first_outside(target_at, count, classes, ignore_index):
    """Return the position of the first id that is neither in [0, classes) nor `ignore_index`; -1 if there is none."""
    target = _numbers(target_at, (count,), np.int64(0))
    for n in range(count):
        if not 0 <= target[n] < classes and target[n] != ignore_index:
            return n
    return -1


@compiled
def finish_small(
    scale, step, margin, angular, label_smoothing, ignore_index, need_grad, need_lse_grad, mean,
    count, bits, classes, entries,
    starts_at, columns_at, values_at, v_at, codebook_at, loss_at, lse_at, grad_at, lse_grad_at,
):  # fmt: skip
    """Compute losses and gradients of a small float32 problem, two rows at a time."""
    real = np.float32
    starts = _numbers(starts_at, (count + 1 if starts_at else 0,), np.int64(0))
    columns = _numbers(columns_at, (entries,), np.int64(0))
    values = _numbers(values_at, (entries if values_at else 0,), real(0))
    codebook = _numbers(codebook_at, (classes, bits), np.int8(0))
    v = _numbers(v_at, (count, bits), real(0))
    loss, lse = _numbers(loss_at, (count,), real(0)), _numbers(lse_at, (count,), real(0))
    grad = _numbers(grad_at, (count if need_grad else 0, bits), real(0))
    lse_grad = _numbers(lse_grad_at, (count if need_lse_grad else 0, bits), real(0))
    labelled = count_labelled(starts, columns, values, ignore_index, count) if mean else 1

    even = count + count % 2
    inverse_norm = np.empty(count, real)
    extended, sums = np.zeros((even, bits + 1), real), np.empty((even, bits + 1), real)
    logits = np.empty((even, classes), real)
    codes, transposed = np.empty((classes, bits + 1), real), np.empty((bits + 1, classes), real)
    extend_rows(v, step, inverse_norm, extended[:count])
    expand(codebook, 0, codes)
    for c in range(classes):
        for k in range(bits + 1):
            transposed[k, c] = codes[c, k]
    _multiply_pairs(extended, transposed, logits)
    leave_out(starts, columns, values, ignore_index, 0, logits[:count])
    flat = logits.reshape(-1)
    for i in range(flat.size):
        flat[i] = exponential(flat[i])
    if len(grad) or len(lse_grad):
        _multiply_pairs(logits, codes, sums)
    else:
        for n in range(count):
            sums[n, bits] = logits[n].sum()
    total, any_lost = finish_listed(
        scale, step, margin, angular, label_smoothing, ignore_index, 1 / max(labelled, 1),
        starts, columns, values, extended, inverse_norm, codebook, sums, loss, lse, grad, lse_grad,
    )  # fmt: skip
    return total / labelled if labelled else np.nan, any_lost


@compiled
def _multiply_pairs(a, b, out):
    """Fill `out` with a @ b for an even number of rows: two rows of a by four of b at a time, with vectorised inner loops."""
    length, width = b.shape
    fours = length // 4 * 4
    for n in range(0, len(a), 2):
        x, y = out[n], out[n + 1]
        for m in range(width):
            x[m] = 0
            y[m] = 0
        for l in range(0, fours, 4):
            x0, x1, x2, x3 = a[n, l], a[n, l + 1], a[n, l + 2], a[n, l + 3]
            y0, y1, y2, y3 = a[n + 1, l], a[n + 1, l + 1], a[n + 1, l + 2], a[n + 1, l + 3]
            for m in range(width):
                b0, b1, b2, b3 = b[l, m], b[l + 1, m], b[l + 2, m], b[l + 3, m]
                x[m] += x0 * b0 + x1 * b1 + x2 * b2 + x3 * b3
                y[m] += y0 * b0 + y1 * b1 + y2 * b2 + y3 * b3
        for l in range(fours, length):
            for m in range(width):
                x[m] += a[n, l] * b[l, m]
                y[m] += a[n + 1, l] * b[l, m]
