"""Pairwise likelihood on a CPU: loss and gradient in one pass over blocks of pairs, compiled by Numba.

A thread takes two rows and a block of columns. It computes their products, the loss, the gradient with respect to the products
and that of the rows, while all of it is in the caches. Calls of BLAS in between would be faster by themselves, but the
threads of BLAS spin for a while after each call, and keep the processors busy.

Let t = theta for a dissimilar pair and -theta for a similar one. The loss is w log(1 + e^t) and its slope along t is w sigma(t):
nothing cancels, and the only exponential, e^-|t|, cannot overflow. A first loop over a row of pairs writes their signed weights,
positive for a similar pair and negative for a dissimilar one. The second loop needs no labels, and both are vectorised.
"""

import math
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

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
ROWS_PER_THREAD = 32  # for fewer rows it takes too long to transpose the columns, so threads divide the columns too
LARGEST_PRODUCT = 1e37  # of codes and alpha; float32 ends at 3e38
WORK_PER_THREAD = 1 << 18  # multiplications; below these a second thread costs more than it saves

Similarity = Literal["any", "jaccard", "squared_cosine"]
Reduction = Literal["none", "mean", "sum"]
SIMILARITIES = get_args(Similarity)  # compiled code takes their positions

_compiled = compiler(fastmath={"reassoc", "contract", "nsz"})


class Labels(NamedTuple):
    """Labels of the rows or of the columns: class ids, or sets of classes as bits.

    The bits are stored word by word: the first words of all rows come first.
    """

    ids: np.ndarray  # int64 [N], or [0]
    words: np.ndarray  # uint64 [W, N]; W = 0 with ids
    sizes: np.ndarray  # int64 [N], classes in each set, or [0]


def loss_and_gradient(
    z: Tensor,  # float [N, K]
    target: Tensor,  # int64 ids [N], or multi-hot [N, C]
    bank: Tensor | None,  # float [M, K]; None for z itself
    bank_target: Tensor | None,  # int64 ids [M], or multi-hot [M, C]
    *,
    alpha: float,
    positive_weight: float | None,  # None for 1; not used if balanced
    balanced: bool,
    similarity: Similarity,
    ignore_index: int,
    reduction: Reduction,
    need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss and the tensors that its backward needs.

    Returns:
        loss: float32 (float64 if an input is), a scalar, or [N] for reduction "none".
        grad: of the dtype of the loss, [N, K], or [0, K] if not needed: the gradient with respect to z of the sum of all rows.
            Without a bank it covers both roles of z, except for reduction "none", where it covers z as rows.
        factors: the weights of a dissimilar and of a similar pair and the normaliser [3]; [0] if the options give them.
        scale: what `grad` must still be multiplied with: a scalar for reduction "mean", otherwise [0].
    """
    both_roles = bank is None and reduction != "none"
    bank, bank_target = (z, target) if bank is None or bank_target is None else (bank, bank_target)
    dtype = _wide_dtype(z, bank)
    rows = labels(target)
    columns = rows if bank_target is target else labels(bank_target)
    pairs = _known_rows(target, ignore_index) * _known_rows(bank_target, ignore_index)
    factors: list[float] = []
    if balanced or (positive_weight is not None and reduction == "mean"):
        similar = _count_similar(target, bank_target, rows, columns, ignore_index)
        factors = _factors(pairs, similar, positive_weight)
    z, bank = _swept(_without_ignored(z, target, ignore_index), _without_ignored(bank, bank_target, ignore_index), alpha)
    losses, grad = sweep(
        z, rows, bank, columns, None,
        alpha=alpha, weights=_weights(factors, positive_weight), similarity=similarity, ignore_index=ignore_index,
        need_grad=need_grad,
    )  # fmt: skip
    normaliser = factors[2] if factors else pairs
    loss = losses if reduction == "none" else losses.sum()
    if reduction == "mean":  # without a pair it is NaN, as in torch, and the gradient is zero
        loss = loss / normaliser
    scale = torch.full(() if reduction == "mean" else (0,), 1 / normaliser if normaliser else 0.0, dtype=dtype)
    return loss.to(dtype), (grad.mul_(2) if both_roles else grad).to(dtype), torch.tensor(factors, dtype=dtype), scale


def column_gradient(
    z: Tensor,  # float [N, K]
    target: Tensor,
    bank: Tensor,  # float [M, K]
    bank_target: Tensor,
    upstream: Tensor | None,  # float [N], a factor of each row's loss; None for ones
    factors: Tensor,  # from `loss_and_gradient`
    *,
    alpha: float,
    positive_weight: float | None,
    balanced: bool,
    similarity: Similarity,
    ignore_index: int,
) -> Tensor:
    """Return the gradient of sum_i upstream_i loss_i with respect to the bank [M, K]."""
    dtype = _wide_dtype(z, bank)
    rows = labels(target)
    columns = rows if bank_target is target else labels(bank_target)
    z, bank = _swept(_without_ignored(z, target, ignore_index), _without_ignored(bank, bank_target, ignore_index), alpha)
    values = None if upstream is None else upstream.to(z.dtype)[:, None] * z
    return sweep(
        bank, columns, z, rows, values, alpha=alpha, weights=_weights(factors.tolist(), positive_weight),
        similarity=similarity, ignore_index=ignore_index, need_grad=True,
    )[1].to(dtype)  # fmt: skip


def _wide_dtype(z: Tensor, bank: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (z.dtype, bank.dtype) else torch.float32


def _without_ignored(codes: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Replace ignored rows by zeros: their pairs have weight 0, but 0 times NaN would be NaN."""
    ignored = target == ignore_index if target.ndim == 1 else None
    return codes if ignored is None or not ignored.any() else codes.masked_fill(ignored[:, None], 0)


def _swept(z: Tensor, bank: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Return the codes of both sides as they are swept, in float32 or float64.

    Rows that are not finite become NaN, because the loss of an infinite code would be that of a certain one. Codes whose products
    could leave float32, where they may cancel each other, are swept in float64.
    """
    dtype = _wide_dtype(z, bank)
    largest = [float(side.abs().max()) for side in ((z,) if bank is z else (z, bank))]
    if not all(found < math.inf for found in largest):
        z, bank = _finite_or_nan(z), _finite_or_nan(bank)
        dtype = torch.float64
    elif alpha * z.shape[1] * max(largest[0], 1.0) * max(largest[-1], 1.0) > LARGEST_PRODUCT:
        dtype = torch.float64
    return z.to(dtype), bank.to(dtype)


def _finite_or_nan(codes: Tensor) -> Tensor:
    return codes.masked_fill(~codes.isfinite().all(1, keepdim=True), torch.nan)


def _known_rows(target: Tensor, ignore_index: int) -> int:
    return len(target) if target.ndim == 2 else int((target != ignore_index).sum())


def _count_similar(target: Tensor, bank_target: Tensor, rows: Labels, columns: Labels, ignore_index: int) -> int:
    """Count the pairs that share a class, except ignored ones."""
    if target.ndim == 1:
        target, ordered = target.contiguous(), bank_target.contiguous().sort().values  # torch warns of other layouts
        counts = torch.searchsorted(ordered, target, right=True) - torch.searchsorted(ordered, target)
        return int(counts.masked_fill(target == ignore_index, 0).sum())
    shared = np.zeros(rows.words.shape[1], np.int64)

    def count(start: int, stop: int) -> None:
        _count_shared(rows.words, columns.words, start, stop, shared)

    over_ranges(count, len(shared))
    return int(shared.sum())


def _factors(pairs: int, similar: int, positive_weight: float | None) -> list[float]:
    """Return the weights of a dissimilar and of a similar pair, and the normaliser. Without a positive_weight, balance them.

    If there are no pairs of a kind, their weight is 0.
    """
    if positive_weight is None:
        return [pairs / part if part else 0.0 for part in (pairs - similar, similar)] + [pairs]
    return [1.0, positive_weight, positive_weight * similar + (pairs - similar)]


def _weights(factors: list[float], positive_weight: float | None) -> tuple[float, float]:
    """Return the weights of a dissimilar and of a similar pair: those in `factors`, or 1 and `positive_weight` if it is empty."""
    return (factors[0], factors[1]) if factors else (1.0, 1.0 if positive_weight is None else positive_weight)


def labels(target: Tensor) -> Labels:
    """Return class ids int64 [N], or a multi-hot target [N, C] packed to bits, as `Labels`."""
    if target.ndim == 1:
        return Labels(target.contiguous().numpy(), np.empty((0, 0), np.uint64), np.empty(0, np.int64))
    member = (target != 0).numpy()
    words = in_words(np.packbits(member, axis=1, bitorder="little"))
    return Labels(np.empty(0, np.int64), np.ascontiguousarray(words.T), member.sum(1, dtype=np.int64))


def sweep(
    rows: Tensor,  # [N, K], float32 or float64
    row_labels: Labels,
    columns: Tensor,  # [M, K]
    column_labels: Labels,
    values: Tensor | None,  # [M, K]: the codes that make up the gradient, if not the columns
    *,
    alpha: float,
    weights: tuple[float, float],  # the weights of a dissimilar and of a similar pair
    similarity: Similarity,
    ignore_index: int,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Return for each row the sum of its pairs' losses, float64 [N], and its gradient [N, K] ([0, K] if not needed).

    Pairs with the class id `ignore_index` do not count.
    """
    count, bits = rows.shape
    scaled, columns = (alpha * rows).contiguous(), columns.contiguous()
    values = columns if values is None else values.contiguous()
    kept = np.ones(len(columns), scaled.numpy().dtype)
    if column_labels.ids.size:
        kept[column_labels.ids == ignore_index] = 0
    row_parts, column_parts = _shares(count, len(columns), bits)
    losses = np.zeros((column_parts, count))
    grads = torch.zeros((column_parts, count if need_grad else 0, bits), dtype=rows.dtype)
    options = (*weights, SIMILARITIES.index(similarity), ignore_index)
    arrays = (scaled.numpy(), *row_labels, columns.numpy(), values.numpy(), *column_labels, kept)
    run_all(_sweep, [
        (*options, *arrays, start, stop, first, last, losses[part], grads[part].numpy())
        for part, (first, last) in enumerate(_ranges(len(columns), column_parts)) for start, stop in _ranges(count, row_parts)
    ])  # fmt: skip
    return torch.from_numpy(losses.sum(0)), grads.sum(0).mul_(alpha)


def _shares(rows: int, columns: int, bits: int) -> tuple[int, int]:
    """Return the numbers of parts into which rows and columns are divided, so that every thread has work."""
    threads = min(thread_count(), max(1, rows * columns * bits // WORK_PER_THREAD))
    row_parts = min(threads, max(1, rows // ROWS_PER_THREAD))
    return row_parts, min(threads // row_parts, math.ceil(columns / BLOCK))


def _ranges(count: int, parts: int) -> list[tuple[int, int]]:
    """Return consecutive ranges that cover `range(count)`."""
    return list(pairwise(count * part // parts for part in range(parts + 1)))


@_compiled
def _sweep(
    negative_weight, positive_weight, similarity, ignore_index,
    rows, ids, words, sizes, columns, values, column_ids, column_words, column_sizes, kept, start, stop, first, last, loss, grad,
):  # fmt: skip
    """Pair the rows [start, stop) with the columns [first, last); add losses to `loss` [N] and gradients to `grad` [N, K]."""
    real = rows.dtype.type
    bits = rows.shape[1]
    transposed, theta = np.empty((bits, BLOCK), rows.dtype), np.empty((2, BLOCK), rows.dtype)
    signed, shared = np.empty(BLOCK, rows.dtype), np.empty(BLOCK, np.uint64)
    acc = np.empty((2, bits), rows.dtype)  # sums of one block: adding sums of blocks loses fewer digits
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
                acc[:] = 0
                _multiply(theta[: len(pair), :width], values[left : left + width], acc[: len(pair)])
                for i in range(len(pair)):
                    for k in range(bits):
                        grad[n + i, k] += acc[i, k]


@_compiled
def _multiply(a, b, out):
    """Add a @ b to `out` in place, for one or two rows of a, four rows of b at a time; the inner loop is vectorised."""
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
    """Fill the signed weights [B] of the pairs of one row, by class ids."""
    for j in range(signed.size):
        signed[j] = kept[j] * (if_same if ids[j] == own else if_different)


@_compiled
def _share(words, n, column_words, left, counted, shared):
    """Fill `shared` [B] for row n and a block of columns: the number of shared classes if `counted`, else 0 only for none."""
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
    """Fill the signed weights [B] of the pairs of one row, by sets of classes."""
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
    """Replace theta [B] by the gradient with respect to it, and return the sum of the losses, given the signed weights [B]."""
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
    """Return the logistic function of t, given e = e^-|t|. It is NaN if t is NaN, even if e is not."""
    inverse = type(t)(1) / (type(t)(1) + e)
    return inverse if t > 0 else (e * inverse if t <= 0 else t)


@register_jitable
def _log1p_over(e):
    """Return log(1 + e) / e of a float32 in [0, 1], to 1.7e-7, by a polynomial fit at Chebyshev nodes for the relative error."""
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
    """Fill counts[n] for the rows [start, stop): how many columns share a class with row n."""
    shared = np.empty(column_words.shape[1], np.uint64)
    for n in range(start, stop):
        _share(words, n, column_words, 0, False, shared)
        found = 0
        for j in range(shared.size):
            found += shared[j] != 0
        counts[n] = found
