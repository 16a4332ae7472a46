"""Codebooks whose cosines approximate given similarities of the classes: stage 2 of SHC (Chen et al., TOIS 2025)."""

import torch
from torch import Tensor

from .._base.modes import without_autocast
from ._distance import codebook_min_distance
from ._minimum_distance import minimum_distance, published_distance

# Constants of the paper, with its names.
_ROUNDS = 20
_PASSES = 3
_PROXY_PENALTY = 0.2  # rho
_SPREAD_WEIGHT = 0.625  # mu
_DISTANCE_PENALTY = 1e-6  # beta
_STEP_DIVISOR = 0.5  # eta
_FIRST_MULTIPLIER = 0.1  # lambda
# Factor of the terms for pairs of rows (mu, alpha, beta), as in the released code. Without it they dominate the similarity.
_PAIR_SCALE = 1e-4

# Annealing: the first and the last temperature, in units of the standard deviation of the cost of a flip at the start.
_HOT = 0.7
_COLD = 0.01
_FLIPPING = 0.3  # share of the rows that flip a bit in one step
_ANNEALING_BUDGET = 3 * 10**10  # limit of steps times C^2 K
_ANNEALING_STEPS = (300, 1_000)  # fewest and most steps


def semantic(num_classes: int, bits: int, seed: int, similarity: Tensor, wanted: int | None) -> Tensor:
    """Return a codebook that minimises the squared error of the cosines of its rows against `similarity` [C, C].

    All distances are at least `wanted`, or for None at least the target of the paper, if that is reached.
    """
    start = minimum_distance(num_classes, bits, seed, wanted)
    if num_classes == 1:
        return start
    distance = min(published_distance(num_classes, bits), codebook_min_distance(start)) if wanted is None else wanted
    with without_autocast(similarity):
        search = _Search(similarity, start.to(similarity), bits - 2 * distance, seed)
        search.follow_lagrangian()
        search.anneal()
        search.descend()
    return search.best[0].to("cpu", torch.int8)


class _Search:
    """A search for the codebook +-1 [C, K] of smallest error, in which no inner product of two rows exceeds `limit`.

    Attributes:
        similarity: target of the cosines, [C, C].
        limit: largest inner product of two rows.
        best: the best codebook so far and its inner products, as (rows [C, K], products [C, C]).
        error: squared error of the best codebook.
        generator: generator of the random numbers.
        others: 1 for pairs of two different rows, otherwise 0, [C, C].
    """

    def __init__(self, similarity: Tensor, start: Tensor, limit: int, seed: int) -> None:
        self.similarity = similarity
        self.limit = limit
        self.best = start, start @ start.T
        self.error = self._error(self.best[1], start.shape[1])
        self.generator = torch.Generator(similarity.device).manual_seed(seed)
        self.others = 1 - torch.eye(len(start), dtype=start.dtype, device=start.device)

    def follow_lagrangian(self) -> None:
        """Optimise H as the paper does: by projected gradients, with a proxy M of H, and slacks and multipliers for distances.

        It differs from the released code in two corrections: all multipliers of the distances are updated, as floating-point
        numbers, and the gradient of their penalty is h_j (h_j . h_i) instead of h_i (h_j . h_j). As in the released code, a row
        that would come too near to another is not changed.
        """
        rows, products = self.best
        bits = rows.shape[1]
        identity = torch.eye(bits, dtype=rows.dtype, device=rows.device)
        multiplier = torch.full_like(rows, _FIRST_MULTIPLIER)
        pair_multiplier = torch.zeros_like(products)
        for _ in range(_ROUNDS):
            left = 2 / bits**2 * rows.T @ rows + _PROXY_PENALTY * identity
            right = 2 / bits * self.similarity @ rows + multiplier + _PROXY_PENALTY * rows
            proxy = torch.linalg.solve(left, right.T).T  # [C, K]
            slack = (self.limit - products + pair_multiplier / _DISTANCE_PENALTY).clamp(min=0)
            for _ in range(_PASSES):
                excess = (products - self.limit + slack) * self.others
                pairs = 2 * _SPREAD_WEIGHT * self.others + 2 * pair_multiplier + 2 * _DISTANCE_PENALTY * excess
                gradient = 2 / bits * (rows @ proxy.T / bits - self.similarity) @ proxy
                gradient += multiplier + _PROXY_PENALTY * (rows - proxy) + _PAIR_SCALE * pairs @ rows
                rows, products = self._where_far(rows, _signs(rows - gradient / _STEP_DIVISOR))
            self._keep(rows, products)
            multiplier = multiplier + _PROXY_PENALTY * (rows - proxy)
            pair_multiplier = pair_multiplier + _DISTANCE_PENALTY * (products - self.limit + slack) * self.others

    def anneal(self) -> None:
        """Flip one bit in each of many rows per step, at decreasing temperature."""
        rows, products = self.best
        classes, bits = rows.shape
        steps = min(max(_ANNEALING_BUDGET // (classes**2 * bits), _ANNEALING_STEPS[0]), _ANNEALING_STEPS[1])
        spread = self._flip_costs(rows, products).std()
        for step in range(steps):
            temperature = spread * _HOT * (_COLD / _HOT) ** (step / (steps - 1))
            noise = -torch.log(torch.empty_like(rows).exponential_(generator=self.generator))  # Gumbel noise
            cost, bit = (self._feasible_flip_costs(rows, products) - temperature * noise).min(1)
            chosen = torch.rand(classes, dtype=torch.float32, device=rows.device, generator=self.generator) < _FLIPPING
            rows, products = self._where_far(rows, _flipped(rows, bit, chosen & (cost < 0)))
            self._keep(rows, products)

    def descend(self) -> None:
        """Flip bits as long as that reduces the error, at first in many rows per step, at the end in one."""
        classes = rows_at_once = len(self.similarity)
        while True:
            rows, products = self.best
            cost, bit = self._feasible_flip_costs(rows, products).min(1)
            chosen = torch.zeros_like(cost, dtype=torch.bool)
            chosen[cost.topk(rows_at_once, largest=False).indices] = True
            before = self.error
            self._keep(*self._where_far(rows, _flipped(rows, bit, chosen & (cost < -1e-6))))
            if self.error < before:
                rows_at_once = min(classes, 2 * rows_at_once)
            elif rows_at_once == 1:
                return
            else:
                rows_at_once = -(-rows_at_once // 4)

    def _error(self, products: Tensor, bits: int) -> float:
        return float((self.similarity - products / bits).square().sum())

    def _keep(self, rows: Tensor, products: Tensor) -> None:
        error = self._error(products, rows.shape[1])
        if error < self.error:
            self.best, self.error = (rows, products), error

    def _where_far(self, rows: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
        """Return `rows` with as many `proposed` rows as `limit` allows, and their inner products."""
        moved = (proposed != rows).any(1)
        while True:
            mixed = torch.where(moved[:, None], proposed, rows)
            products = mixed @ mixed.T
            blocked = moved & ((products > self.limit) * self.others).any(1)
            if not blocked.any():
                return mixed, products
            moved &= ~blocked

    def _flip_costs(self, rows: Tensor, products: Tensor) -> Tensor:
        """Return the increase of the error by the flip of each bit, [C, K], divided by 8 / K."""
        classes, bits = rows.shape
        return rows * ((self.similarity - products / bits) @ rows) + (classes - 1) / bits

    def _feasible_flip_costs(self, rows: Tensor, products: Tensor) -> Tensor:
        """Return `_flip_costs`, with infinity for flips that bring two rows too near.

        Two rows at the limit may flip only a bit in which they agree.
        """
        edge = ((products > self.limit - 2) * self.others).to(rows.dtype)
        nearer = edge.sum(1, keepdim=True) - rows * (edge @ rows)
        return self._flip_costs(rows, products).masked_fill(nearer > 0, torch.inf)


def _signs(values: Tensor) -> Tensor:
    return (values > 0).to(values.dtype) * 2 - 1


def _flipped(rows: Tensor, bit: Tensor, chosen: Tensor) -> Tensor:
    """Return `rows` with bit[i] of every chosen row i flipped."""
    return rows.scatter(1, bit[:, None], -_signs(chosen[:, None].to(rows.dtype)) * rows.gather(1, bit[:, None]))
