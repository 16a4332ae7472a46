"""Codebooks that maximise the smallest distance: MDS (Wang et al., CVPR 2023)."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import _algebraic
from ._distance import codebook_min_distance
from ._drawn import bernoulli, max_hamming

# Limit of multiply-adds in the ADMM, about five seconds on one core. One row takes up to _ADMM_STEPS steps.
_ADMM_BUDGET = 5 * 10**9
_ADMM_STEPS = 3_200
_ADMM_SWEEPS = 50


def published_distance(num_classes: int, bits: int) -> int:
    """Return the target distance of MDS and SHC: the smallest d with sum_{i<d} binom(K, i) >= 2^K / C.

    The papers state that the Gilbert-Varshamov bound guarantees d. It guarantees d - 1, because it requires the sum to be at most
    2^K / C.
    """
    distance, ball = 0, 0
    while ball * num_classes < 2**bits:
        ball += math.comb(bits, distance)
        distance += 1
    return distance


def largest_possible_distance(num_classes: int, bits: int) -> int:
    """Return an upper bound on the smallest distance of any codebook.

    It is the smaller of Plotkin's bound, also applied to shortened codes, and the sphere-packing bound.
    """
    bound = bits
    for left_out in range((num_classes - 1).bit_length()):
        # C / 2^s of the rows agree in s given bits. A bit differs in at most rows^2 / 4 of the rows (rows - 1) / 2 pairs.
        rows, length = -(-num_classes // 2**left_out), bits - left_out
        if rows >= 2 and length > 0:
            bound = min(bound, length * (rows // 2) * (rows - rows // 2) // (rows * (rows - 1) // 2))
    while bound > 1 and num_classes * sum(math.comb(bits, i) for i in range((bound - 1) // 2 + 1)) > 2**bits:
        bound -= 1
    return bound


def minimum_distance(num_classes: int, bits: int, seed: int, wanted: int | None) -> Tensor:
    """Return the best of the algebraic codebooks and "max_hamming", improved by ADMM if it is not optimal."""
    if num_classes == 1:
        return bernoulli(1, bits, seed)
    bound = largest_possible_distance(num_classes, bits)
    if wanted is not None and wanted > bound:
        raise ValueError(
            f"make_codebook: no codebook of {num_classes} rows of {bits} bits has min_distance={wanted}; Plotkin's and the "
            f"sphere-packing bound allow at most {bound}. Use a smaller min_distance, or more bits"
        )
    codebook, reached = _best_start(num_classes, bits, seed, bound)
    target = reached if wanted is None else max(wanted, reached)
    if target > reached or _unevenness(codebook) > bits * (num_classes % 2):
        codebook = spread(codebook, target, np.random.default_rng(seed))
    if codebook_min_distance(codebook) < target:
        raise ValueError(
            f"make_codebook: min_distance={wanted} was not reached for {num_classes} rows of {bits} bits, but {reached} was; no "
            f"codebook has more than {bound}. Use min_distance={reached} or less, another seed, or more bits"
        )
    return codebook


def _best_start(num_classes: int, bits: int, seed: int, bound: int) -> tuple[Tensor, int]:
    """Return the best codebook without ADMM, and its smallest distance."""
    best, reached = torch.empty(0), -1
    rng = np.random.default_rng(seed)
    makers: tuple[Callable[[], Tensor | None], ...] = (
        lambda: _algebraic.quadratic(num_classes, bits, rng),
        lambda: _algebraic.simplex(num_classes, bits, rng),
        lambda: _algebraic.linear(num_classes, bits, rng, range(min(bound, bits // 2), reached, -1)),
        lambda: max_hamming(num_classes, bits, seed),
    )
    for make in makers:
        codebook = make() if reached < bound else None
        if codebook is None:
            continue
        distance = codebook_min_distance(codebook)
        if distance > reached or (distance == reached and _unevenness(codebook) < _unevenness(best)):
            best, reached = codebook, distance
    return best, reached


def _unevenness(codebook: Tensor) -> int:
    """Return the squared norm of the sum of the rows. It is smaller if the mean distance of the rows is larger."""
    return int(codebook.sum(dim=0, dtype=torch.int64).square().sum())


def spread(codebook: Tensor, distance: int, rng: np.random.Generator) -> Tensor:
    """Return `codebook` after the coordinate descent of MDS, which replaces one row at a time by the result of lp-box ADMM.

    ADMM minimises the inner products of the row with the others, none of which may exceed K - 2 distance. The paper accepts every
    result. This function accepts a result only if it reduces the number of pairs below `distance`, or reduces the sum of the
    inner products without increasing that number.
    """
    from ..kernels.cpu import codebook as kernel

    rows = codebook.numpy().astype(np.float64)
    count, bits = rows.shape
    limit = bits - 2 * distance
    visits = max(1, min(_ADMM_SWEEPS * count, _ADMM_BUDGET // (_ADMM_STEPS * (2 * count + bits) * bits)))
    refused = 0  # consecutive rows whose result was not accepted
    total = rows.sum(axis=0)
    products = rows @ rows.T
    for visit in range(visits):
        if refused == count:
            break
        if visit % count == 0:
            order = rng.permutation(count)
        row = int(order[visit % count])
        own = rows[row].copy()
        others = total - own
        inverse = np.linalg.inv(2 * np.eye(bits) + rows.T @ rows - np.outer(own, own))
        x = own.copy()
        kernel.box_admm(rows, np.ascontiguousarray(rows.T), inverse, row, others, float(limit), x)
        x = np.where(x > 0, 1.0, -1.0)
        new = rows @ x
        new[row] = bits
        near, before = (np.count_nonzero(np.delete(p, row) > limit) for p in (new, products[row]))
        if (near, x @ others) < (before, own @ others):
            rows[row] = x
            total = others + x
            products[row] = products[:, row] = new
            refused = 0
        else:
            refused += 1
    return torch.from_numpy(rows.astype(np.int8))
