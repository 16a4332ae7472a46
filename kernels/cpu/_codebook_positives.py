"""Compiled loops over listed positive classes: one id per row, or the entries of a sparse target."""

import math

import numpy as np

from ._codebook_rows import TINY_SUM, compiled, margin_of, through_norm


@compiled
def _entries(starts, columns, n):
    """Return the range of the entries of row n, and whether it is valid; see `Listed`."""
    if starts.size == 0:
        return n, n + 1, True
    first, last = starts[n], starts[n + 1]
    if 0 <= first <= last <= columns.size:
        return first, last, True
    return 0, 0, False


@compiled
def _weight(starts, columns, values, ignore_index, j):
    """Return the weight of entry j, above 0 for a positive class."""
    if starts.size == 0:
        return 0.0 if columns[j] == ignore_index else 1.0
    return values[j]


@compiled
def count_labelled(starts, columns, values, ignore_index, count):
    """Count the rows that have a positive class."""
    labelled = 0
    for n in range(count):
        first, last, _ = _entries(starts, columns, n)
        for j in range(first, last):
            if _weight(starts, columns, values, ignore_index, j) > 0:
                labelled += 1
                break
    return labelled


@compiled
def leave_out(starts, columns, values, ignore_index, first_class, logits):
    """Set the logits of the positive classes in a block of classes to -inf."""
    for n in range(logits.shape[0]):
        first, last, _ = _entries(starts, columns, n)
        if last - first > 1:
            first += np.searchsorted(columns[first:last], first_class)
        for j in range(first, last):
            column = columns[j] - first_class
            if column >= logits.shape[1]:
                break
            if column >= 0 and _weight(starts, columns, values, ignore_index, j) > 0:
                logits[n, column] = -np.inf


@compiled
def _positive(row, code, scale, margin, angular):
    """Return a positive class's logit without and with its margin, and the slope of the margin. No bound is subtracted."""
    dot = row.dtype.type(0)
    for k in range(code.size):
        dot += row[k] * row.dtype.type(code[k])
    shifted, slope = margin_of(dot / scale, margin, angular)
    return dot, scale * shifted, slope


@compiled
def largest_listed(scale, margin, angular, ignore_index, starts, columns, values, extended, codebook, largest):
    """Replace `largest` [N] by the largest logit of the positive classes of a row where that is larger."""
    for n in range(largest.size):
        first, last, _ = _entries(starts, columns, n)
        for j in range(first, last):
            if 0 <= columns[j] < len(codebook) and _weight(starts, columns, values, ignore_index, j) > 0:
                logit = _positive(extended[n], codebook[columns[j]], scale, margin, angular)[1]
                largest[n] = max(largest[n], logit)


@compiled
def _total_weight(starts, columns, values, ignore_index, classes, n):
    """Return the sum of the weights of row n; NaN if a weight or a class is invalid."""
    first, last, exists = _entries(starts, columns, n)
    total = 0.0 if exists else np.nan
    previous = -1
    for j in range(first, last):
        weight = _weight(starts, columns, values, ignore_index, j)
        ignored = starts.size == 0 and weight == 0
        if ignored or (weight >= 0 and previous < columns[j] < classes):
            total += weight
        else:
            total = np.nan
        previous = columns[j]
    return total


@compiled
def _sum_codes(codebook, count):
    """Return the sum of the first `count` codes, int64 [K]."""
    total = np.zeros(codebook.shape[1], np.int64)
    for c in range(count):
        for k in range(total.size):
            total[k] += codebook[c, k]
    return total


@compiled
def _most_entries(starts, columns, count):
    """Return the largest number of entries of a row, at least 1."""
    most = 1
    for n in range(count if starts.size else 0):
        first, last, _ = _entries(starts, columns, n)
        most = max(most, last - first)
    return most


@compiled
def finish_listed(
    scale, step, margin, angular, label_smoothing, ignore_index, share,
    starts, columns, values, extended, inverse_norm, codebook, sums, loss, lse, grad, lse_grad,
):  # fmt: skip
    """Add the listed positive classes to the sums over all other classes, and compute losses and gradients."""
    real = extended.dtype.type  # double-precision factors would halve the number of values per vector instruction
    classes, bits = codebook.shape
    uniform = label_smoothing / classes
    every_code = _sum_codes(codebook, classes if label_smoothing > 0 else 0)
    most = _most_entries(starts, columns, len(loss))
    exponentials, slopes, pulls = np.empty(most), np.empty(most), np.empty(most)  # numbers for the entries of a row
    sum_of_losses = 0.0
    any_lost = False
    for n in range(len(loss)):
        first, last, _ = _entries(starts, columns, n)
        total_weight = _total_weight(starts, columns, values, ignore_index, classes, n)
        labelled = total_weight > 0
        if not labelled:
            last = first
        bound = -extended[n, bits]
        total = np.float64(sums[n, sums.shape[1] - 1])
        target_logit = 0.0
        for j in range(first, last):
            i = j - first
            weight = _weight(starts, columns, values, ignore_index, j)
            exponentials[i] = slopes[i] = pulls[i] = 0.0
            if weight > 0:
                plain, logit, slopes[i] = _positive(extended[n], codebook[columns[j]], scale, margin, angular)
                exponentials[i] = math.exp(logit - bound)
                total += exponentials[i]
                q = (1.0 - label_smoothing) * weight / total_weight
                pulls[i] = q * slopes[i] + uniform * (slopes[i] - 1.0)
                target_logit += q * (logit - bound) + uniform * (logit - plain)
        if labelled and label_smoothing > 0:
            every_dot = real(0)
            for k in range(bits):
                every_dot += extended[n, k] * real(every_code[k])
            target_logit += uniform * (every_dot - classes * bound)
        any_lost |= total < TINY_SUM
        lse[n] = math.log(total) + bound
        exact_loss = math.log(total) - target_logit if labelled else 0.0
        if np.isnan(total_weight):  # callers that cannot check the target must not use the row as a result
            exact_loss = np.nan
        loss[n] = exact_loss
        sum_of_losses += exact_loss
        if len(grad):
            _pull_row(grad[n], sums[n], total, codebook, columns, first, last, exponentials, slopes, pulls)
            if labelled and label_smoothing > 0:
                for k in range(bits):
                    grad[n, k] -= real(uniform) * real(every_code[k])
            through_norm(grad[n], extended[n], step, inverse_norm[n], labelled, share)
            if np.isnan(total_weight):
                grad[n] = np.nan
        if len(lse_grad):
            pulls[:] = 0
            _pull_row(lse_grad[n], sums[n], total, codebook, columns, first, last, exponentials, slopes, pulls)
            through_norm(lse_grad[n], extended[n], step, inverse_norm[n], True, 1.0)
    return sum_of_losses, any_lost


@compiled
def _pull_row(out, sums, total, codebook, columns, first, last, exponentials, slopes, pulls):
    """Fill `out` with sum_c (p_c z'_c - pull_c) o_c, z' the slope of the margin; `sums` covers the classes not listed."""
    real = out.dtype.type
    factor = real(1.0 / total)
    for k in range(out.size):
        out[k] = factor * sums[k]
    for j in range(first, last):
        i = j - first
        coefficient = real(exponentials[i] * slopes[i] / total - pulls[i])
        code = codebook[columns[j]]
        for k in range(out.size):
            out[k] += coefficient * real(code[k])
