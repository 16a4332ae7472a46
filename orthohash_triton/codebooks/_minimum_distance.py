"""Codebooks of the largest smallest distance: MDS (Wang et al., CVPR 2023)."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import _algebraic
from ._distance import codebook_min_distance
from ._drawn import bernoulli, max_hamming

# Multiply-adds that the ADMM may spend: some five seconds of one core. A row takes up to 3,200 steps.
_ADMM_BUDGET = 5 * 10**9
_ADMM_STEPS = 3_200
_ADMM_SWEEPS = 50


def published_distance(num_classes: int, bits: int) -> int:
    """The distance that MDS and SHC aim at: the smallest d with sum_{i<d} binom(K, i) >= 2^K / C.

    The papers call it guaranteed by the Gilbert-Varshamov bound. That bound guarantees d - 1: it wants the sum to be at most
    2^K / C.
    """
    distance, ball = 0, 0
    while ball * num_classes < 2**bits:
        ball += math.comb(bits, distance)
        distance += 1
    return distance


def largest_possible_distance(num_classes: int, bits: int) -> int:
    """An upper bound on the smallest distance of any codebook: Plotkin's, with bits left out, and the sphere-packing bound."""
    bound = bits
    for left_out in range((num_classes - 1).bit_length()):
        # Among C rows, C / 2^s agree in s given bits. A bit differs in at most rows^2 / 4 of the rows (rows - 1) / 2 pairs.
        rows, length = -(-num_classes // 2**left_out), bits - left_out
        if rows >= 2 and length > 0:
            bound = min(bound, length * (rows // 2) * (rows - rows // 2) // (rows * (rows - 1) // 2))
    while bound > 1 and num_classes * sum(math.comb(bits, i) for i in range((bound - 1) // 2 + 1)) > 2**bits:
        bound -= 1
    return bound


def minimum_distance(num_classes: int, bits: int, seed: int, wanted: int | None) -> Tensor:
    """The best of `_algebraic` and of "max_hamming", then ADMM where that leaves something to gain."""
    if num_classes == 1:
        return bernoulli(1, bits, seed)
    bound = largest_possible_distance(num_classes, bits)
    if wanted is not None and wanted > bound:
        raise ValueError(
            f"make_codebook: no codebook of {num_classes} rows of {bits} bits has min_distance={wanted}; Plotkin's and the "
            f"sphere-packing bound allow {bound} at most. Ask for less, or use more bits"
        )
    codebook, reached = _best_start(num_classes, bits, seed, bound)
    target = reached if wanted is None else max(wanted, reached)
    if target > reached or _unevenness(codebook) > bits * (num_classes % 2):
        codebook = spread(codebook, target, np.random.default_rng(seed))
    if codebook_min_distance(codebook) < target:
        raise ValueError(
            f"make_codebook: min_distance={wanted} was not reached for {num_classes} rows of {bits} bits; {reached} was, and no "
            f"codebook has more than {bound}. Ask for {reached} or less, try another seed, or use more bits"
        )
    return codebook


def _best_start(num_classes: int, bits: int, seed: int, bound: int) -> tuple[Tensor, int]:
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
    """The squared sum of the rows: the smaller, the larger the mean distance. C K plus twice the inner products of all pairs."""
    return int(codebook.sum(dim=0, dtype=torch.int64).square().sum())


def spread(codebook: Tensor, distance: int, rng: np.random.Generator) -> Tensor:
    """Coordinate descent of MDS: a row at a time is replaced by the outcome of its lp-box ADMM.

    That minimises the row's inner products with the others, none of which may exceed K - 2 distance. The paper takes every
    outcome; here it must lower the number of too near pairs, or the sum of inner products without raising that number.
    """
    from ..kernels.cpu import codebook as kernel

    rows = codebook.numpy().astype(np.float64)
    count, bits = rows.shape
    limit = bits - 2 * distance
    visits = max(1, min(_ADMM_SWEEPS * count, _ADMM_BUDGET // (_ADMM_STEPS * (2 * count + bits) * bits)))
    refused = 0  # in a row
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
