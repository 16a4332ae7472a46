"""Pairwise likelihood a block of pairs at a time: loss and gradient in one pass, compiled by Numba.

A thread takes two rows and a block of columns: their products, the loss and the gradient with respect to the products, and the
gradient of the rows, while all of it lies in the caches. Calls of BLAS in between would be quicker by themselves, but the threads
of BLAS spin for a while after each call, and take the processors from ours.

With t = theta for a dissimilar pair and -theta for a similar one the loss is w log(1 + e^t) and its slope along t is w sigma(t):
nothing cancels, and the only exponential, e^-|t|, cannot overflow. A first loop over a row of pairs writes their signed weights
(above zero for a similar pair, below for a dissimilar one); the second knows nothing of labels, and both are vectors.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numba.extending import register_jitable
from torch import Tensor

from ._bits import popcount
from ._blocks import in_words
from ._compiler import compiler
from ._exponential import exponential
from ._ranges import over_ranges
from ._threads import run_all, thread_count

BLOCK = 256
ROWS_OF_A_THREAD = 32  # fewer do not repay the transposing of the columns: then threads share out the columns too
WORK_OF_A_THREAD = 1 << 18  # multiplications, below which a second thread costs more than it saves

SIMILARITIES = ("any", "jaccard", "squared_cosine")  # their positions are what the compiled code knows

_compiled = compiler(fastmath={"reassoc", "contract", "nsz"})


class Labels(NamedTuple):
    """The labels of one side: class ids, or sets of classes as bits, a word of all rows after the other."""

    ids: np.ndarray  # int64 [N], or [0]
    words: np.ndarray  # uint64 [W, N]; W = 0 with ids
    sizes: np.ndarray  # int64 [N], classes in each set, or [0]


def labels(target: Tensor) -> Labels:
    """Of int64 class ids [N], or of a multi-hot target [N, C]."""
    if target.ndim == 1:
        return Labels(target.contiguous().numpy(), np.empty((0, 0), np.uint64), np.empty(0, np.int64))
    member = (target != 0).numpy()
    words = in_words(np.packbits(member, axis=1, bitorder="little"))
    return Labels(np.empty(0, np.int64), np.ascontiguousarray(words.T), member.sum(1, dtype=np.int64))


def weights(kepts: Tensor) -> tuple[float, float]:
    """Of a dissimilar and of a similar pair, from the head of `kepts`: numbers, which compiled code takes."""
    dissimilar, similar = kepts[:2].tolist()
    return dissimilar, similar


def count_similar(rows: Labels, columns: Labels) -> int:
    """Pairs of sets that share a class."""
    counts = np.zeros(rows.words.shape[1], np.int64)

    def count(start: int, stop: int) -> None:
        _count_shared(rows.words, columns.words, start, stop, counts)

    over_ranges(count, len(counts))
    return int(counts.sum())


def sweep(
    rows: Tensor,  # [N, K], float32 or float64
    row_labels: Labels,
    columns: Tensor,  # [M, K]
    column_labels: Labels,
    pulls: Tensor | None,  # [M, K]
    *,
    alpha: float,
    weights: tuple[float, float],  # of a dissimilar and of a similar pair
    similarity: str,
    ignore_index: int,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Per row, the sum of its pairs' losses, float64 [N], and its gradient [N, K] (no rows where not needed).

    `pulls` are the codes that make up the gradient, if not the columns. Pairs with the class id `ignore_index` are none.
    """
    count, bits = rows.shape
    scaled, columns = (alpha * rows).contiguous(), columns.contiguous()
    pulls = columns if pulls is None else pulls.contiguous()
    kept = np.ones(len(columns), scaled.numpy().dtype)
    if column_labels.ids.size:
        kept[column_labels.ids == ignore_index] = 0
    row_parts, column_parts = _shares(count, len(columns), bits)
    losses = np.zeros((column_parts, count))
    grads = torch.zeros((column_parts, count if need_grad else 0, bits), dtype=rows.dtype)
    options = (*weights, SIMILARITIES.index(similarity), ignore_index)
    arrays = (scaled.numpy(), *row_labels, columns.numpy(), pulls.numpy(), *column_labels, kept)
    run_all(_sweep, [
        (*options, *arrays, start, stop, first, last, losses[part], grads[part].numpy())
        for part, (first, last) in enumerate(_ranges(len(columns), column_parts)) for start, stop in _ranges(count, row_parts)
    ])  # fmt: skip
    return torch.from_numpy(losses.sum(0)), grads.sum(0).mul_(alpha)


def _shares(rows: int, columns: int, bits: int) -> tuple[int, int]:
    """Into how many parts rows and columns go, so that every thread has one."""
    threads = min(thread_count(), max(1, rows * columns * bits // WORK_OF_A_THREAD))
    row_parts = min(threads, max(1, rows // ROWS_OF_A_THREAD))
    return row_parts, min(threads // row_parts, math.ceil(columns / BLOCK))


def _ranges(count: int, parts: int) -> list[tuple[int, int]]:
    """Consecutive ranges that cover `range(count)`."""
    return list(pairwise(count * part // parts for part in range(parts + 1)))


@_compiled
def _sweep(
    negative_weight, positive_weight, similarity, ignore_index,
    rows, ids, words, sizes, columns, pulls, column_ids, column_words, column_sizes, kept, start, stop, first, last, loss, grad,
):  # fmt: skip
    """Rows from start to stop meet columns from first to last: `loss` [N] and `grad` [N, K] grow."""
    real = rows.dtype.type
    bits = rows.shape[1]
    transposed, theta = np.empty((bits, BLOCK), rows.dtype), np.empty((2, BLOCK), rows.dtype)
    signed, shared = np.empty(BLOCK, rows.dtype), np.empty(BLOCK, np.uint64)
    pulled = np.empty((2, bits), rows.dtype)  # of a block: sums of sums lose fewer digits
    if_different, if_same = real(-negative_weight), real(positive_weight * (4.0 if ids.size and similarity == 2 else 1.0))
    for left in range(first, last, BLOCK):
        width = min(BLOCK, last - left)
        block = columns[left : left + width]
        for j in range(width):
            for k in range(bits):
                transposed[k, j] = block[j, k]
        for n in range(start, stop, 2):
            pair = rows[n : min(n + 2, stop)]
            theta[:] = 0
            _multiply(pair, transposed, theta[: len(pair)])
            for i in range(len(pair)):
                own = n + i
                if ids.size:
                    if ids[own] == ignore_index:
                        theta[i] = 0
                        continue
                    _weigh_ids(ids[own], column_ids[left : left + width], kept[left : left + width],
                               if_different, if_same, signed[:width])  # fmt: skip
                else:
                    _share(words, own, column_words, left, similarity > 0, shared[:width])
                    _weigh_sets(similarity, shared[:width], sizes[own], column_sizes[left : left + width],
                                kept[left : left + width], if_different, if_same, signed[:width])  # fmt: skip
                loss[own] += _pass_pairs(theta[i, :width], signed[:width])
            if len(grad):
                pulled[:] = 0
                _multiply(theta[: len(pair), :width], pulls[left : left + width], pulled[: len(pair)])
                for i in range(len(pair)):
                    for k in range(bits):
                        grad[n + i, k] += pulled[i, k]


@_compiled
def _multiply(a, b, out):
    """out + a @ b in place, for one or two rows of a. Four rows of b at a time, along which the loop is a vector."""
    length, width = b.shape
    fours = length // 4 * 4
    x, y = out[0], out[len(a) - 1]
    for l in range(0, fours, 4):
        b0, b1, b2, b3 = b[l], b[l + 1], b[l + 2], b[l + 3]
        x0, x1, x2, x3 = a[0, l], a[0, l + 1], a[0, l + 2], a[0, l + 3]
        if len(a) == 1:
            for m in range(width):
                x[m] += x0 * b0[m] + x1 * b1[m] + x2 * b2[m] + x3 * b3[m]
        else:
            y0, y1, y2, y3 = a[1, l], a[1, l + 1], a[1, l + 2], a[1, l + 3]
            for m in range(width):
                x[m] += x0 * b0[m] + x1 * b1[m] + x2 * b2[m] + x3 * b3[m]
                y[m] += y0 * b0[m] + y1 * b1[m] + y2 * b2[m] + y3 * b3[m]
    for n in range(len(a)):
        for l in range(fours, length):
            for m in range(width):
                out[n, m] += a[n, l] * b[l, m]


@_compiled
def _weigh_ids(own, ids, kept, if_different, if_same, signed):
    for j in range(signed.size):
        signed[j] = kept[j] * (if_same if ids[j] == own else if_different)


@_compiled
def _share(words, n, column_words, left, counted, shared):
    """What row n's set shares with the sets of a block: the number of classes if `counted`, otherwise 0 only where nothing."""
    shared[:] = 0
    for w in range(len(words)):
        own = words[w, n]
        others = column_words[w, left : left + shared.size]
        if counted:
            for j in range(shared.size):
                shared[j] += np.uint64(popcount(own & others[j]))
        else:
            for j in range(shared.size):
                shared[j] |= own & others[j]


@_compiled
def _weigh_sets(similarity, shared, size, sizes, kept, if_none, if_some, signed):
    real = signed.dtype.type
    if similarity == 0:
        for j in range(signed.size):
            signed[j] = kept[j] * (if_some if shared[j] != 0 else if_none)
    elif similarity == 1:
        for j in range(signed.size):
            both = real(np.int64(shared[j]))
            either = max(real(size + sizes[j]) - both, real(1))
            signed[j] = kept[j] * (if_some * both / either if both > 0 else if_none)
    else:
        for j in range(signed.size):
            both = real(np.int64(shared[j]))
            product = max(real(size) * real(sizes[j]), real(1))
            signed[j] = kept[j] * (if_some * (real(4) * both * both / product) if both > 0 else if_none)


@_compiled
def _pass_pairs(theta, signed):
    """theta [B] becomes the gradient with respect to it; the sum of the losses. signed: see the head of this file."""
    real = theta.dtype.type
    total = real(0)
    if theta.itemsize == 4:
        for j in range(theta.size):
            a = signed[j]
            t = -theta[j] if a > 0 else theta[j]
            e = exponential(-abs(t))
            sigma = _sigma(t, e)
            above = real(0) if t < 0 else t
            total += abs(a) * (above + e * _log1p_over(e))
            theta[j] = -a * sigma
    else:
        for j in range(theta.size):
            a = signed[j]
            t = -theta[j] if a > 0 else theta[j]
            e = real(math.exp(-abs(t)))
            above = real(0) if t < 0 else t
            total += abs(a) * (above + real(math.log1p(e)))
            theta[j] = -a * _sigma(t, e)
    return total


@register_jitable
def _sigma(t, e):
    """The logistic function of t, given e = e^-|t|; NaN for NaN, whatever e is then."""
    inverse = type(t)(1) / (type(t)(1) + e)
    return inverse if t > 0 else (e * inverse if t <= 0 else t)


@register_jitable
def _log1p_over(e):
    """log(1 + e) / e of a float32 in [0, 1], to 1.7e-7. A fit at Chebyshev's nodes that is weighted for the relative error."""
    real = np.float32
    series = real(-0.0031639994)
    series = series * e + real(0.0194876865)
    series = series * e + real(-0.0562695265)
    series = series * e + real(0.1053294961)
    series = series * e + real(-0.1526327431)
    series = series * e + real(0.1966101825)
    series = series * e + real(-0.2495116740)
    series = series * e + real(0.3332966566)
    series = series * e + real(-0.4999988973)
    return series * e + real(1.0)


@_compiled
def _count_shared(words, column_words, start, stop, counts):
    """counts[n] for rows from start to stop: how many columns share a class with row n."""
    shared = np.empty(column_words.shape[1], np.uint64)
    for n in range(start, stop):
        _share(words, n, column_words, 0, False, shared)
        found = 0
        for j in range(shared.size):
            found += shared[j] != 0
        counts[n] = found
