"""Compiled loops over the rows of the codebook loss: normalisation, margin, and the final step for a dense target."""

import math

import numpy as np

from ._compiler import compiler

SINE_FLOOR = 1e-6  # below this sin^2(theta), the derivative of sin(theta) is taken as 0, as in the reference
TINY_SUM = 1e-25  # a sum of exponentials below this has lost digits to underflow
SMALL_SQUARE, LARGE_SQUARE = 1e-25, 1e35  # between these, no square of an entry that matters underflows, and none overflows
# Rows shorter than this get the gradient of a row of this length, because that of a shorter one would overflow.
SHORTEST, SHORTEST_DOUBLE = 1e-35, 1e-300

# Sums may be reordered, which vectorises them; NaN and infinity keep their meaning.
compiled = compiler(fastmath={"reassoc", "contract", "nsz"})


@compiled
def margin_of(cosine, margin, angular):
    """Return the cosine of a positive class after its margin, and the slope d shifted / d cosine."""
    if not angular:
        return cosine - margin, 1.0
    if cosine < math.cos(math.pi - margin):
        return cosine - margin * math.sin(math.pi - margin), 1.0
    square = 1.0 - cosine * cosine
    sine = math.sqrt(max(square, SINE_FLOOR))
    slope = math.cos(margin)
    if square > SINE_FLOOR:
        slope += math.sin(margin) * cosine / sine
    return cosine * math.cos(margin) - sine * math.sin(margin), slope


@compiled
def fill_margin(margin, angular, cosine, shifted, slope):
    """Apply `margin_of` to every cosine, and fill `shifted` and `slope`."""
    for i in range(cosine.size):
        shifted[i], slope[i] = margin_of(cosine[i], margin, angular)


@compiled
def extend_rows(v, step, inverse_norm, extended):
    """Fill `inverse_norm` [N] with 1 / |v|, 0 for a zero row, and `extended` [N, K + 1], which `Rows` describes.

    A row whose square leaves the middle of the range of numbers is divided by its largest entry first.
    """
    count, bits = v.shape
    real = v.dtype.type
    for n in range(count):
        square = real(0)
        for k in range(bits):
            square += v[n, k] * v[n, k]
        if SMALL_SQUARE < square < LARGE_SQUARE:
            inverse_norm[n] = real(1) / np.sqrt(square)
            for k in range(bits):
                extended[n, k] = real(step) * inverse_norm[n] * v[n, k]
        else:
            inverse_norm[n] = _extend_extreme_row(v[n], step, extended[n])
        bound = real(0)
        for k in range(bits):
            bound += abs(extended[n, k])
        extended[n, bits] = -bound


@compiled
def _extend_extreme_row(row, step, extended):
    """Fill `extended` with step row / |row|, of which very large or very small squares are no obstacle; return 1 / |row|."""
    real = row.dtype.type
    largest = real(0)
    for k in range(row.size):
        largest = abs(row[k]) if abs(row[k]) > largest else largest
    unit = real(1) if largest == 0 else largest
    square = real(0)
    for k in range(row.size):
        extended[k] = row[k] / unit  # NaN for infinity
        square += extended[k] * extended[k]
    inverse = real(0) if square == 0 else real(1) / np.sqrt(square)
    for k in range(row.size):
        extended[k] = real(step) * inverse * extended[k]
    return inverse / max(unit, real(SHORTEST if row.itemsize == 4 else SHORTEST_DOUBLE))


@compiled
def expand(codebook, first, codes):
    """Fill `codes` with the codes of the classes from `first` on, and its last column with ones."""
    count, width = codes.shape
    for i in range(count):
        for k in range(width - 1):
            codes[i, k] = codebook[first + i, k]
        codes[i, width - 1] = 1


@compiled
def finish_dense(
    step, share, extended, inverse_norm, labelled, target_logit, total, target_sums, sums, loss, lse, grad, lse_grad
):
    """Compute losses and gradients for a dense target from the sums of the sweep.

    The first K columns of `target_sums` are sum_c q_c z'_c o_c.
    """
    bits = extended.shape[1] - 1
    sum_of_losses = 0.0
    any_lost = False
    for n in range(len(loss)):
        above_bound = math.log(total[n])
        lse[n] = above_bound - extended[n, bits]
        loss[n] = above_bound - target_logit[n] if labelled[n] else 0.0
        sum_of_losses += loss[n]
        any_lost |= total[n] < TINY_SUM
        if len(grad):
            for k in range(bits):
                grad[n, k] = sums[n, k] / total[n] - target_sums[n, k]
            through_norm(grad[n], extended[n], step, inverse_norm[n], labelled[n], share)
        if len(lse_grad):
            for k in range(bits):
                lse_grad[n, k] = sums[n, k] / total[n]
            through_norm(lse_grad[n], extended[n], step, inverse_norm[n], True, 1.0)
    return sum_of_losses, any_lost


@compiled
def through_norm(gradient, extended, step, inverse_norm, labelled, share):
    """Convert the gradient with respect to v^ to the one with respect to v, in place.

    The gradient with respect to v^ is given without its factor `step`; the result is multiplied by `share`.
    """
    if not labelled:
        gradient[:] = 0
        return
    along = gradient.dtype.type(0)
    for k in range(gradient.size):
        along += gradient[k] * extended[k]
    factor = gradient.dtype.type(step * share) * inverse_norm
    along = along * gradient.dtype.type(share / step) * inverse_norm  # extended is step v^
    for k in range(gradient.size):
        gradient[k] = factor * gradient[k] - along * extended[k]
