"""Codebooks whose cosines follow given similarities of the classes: stage 2 of SHC (Chen et al., TOIS 2025)."""

import torch
from torch import Tensor

from .._base.modes import without_autocast
from ._distance import codebook_min_distance
from ._minimum_distance import minimum_distance, published_distance

# The constants of the paper.
_ROUNDS = 20
_PASSES = 3
_PROXY_PENALTY = 0.2  # rho
_SPREAD_WEIGHT = 0.625  # mu
_DISTANCE_PENALTY = 1e-6  # beta
_STEP_DIVISOR = 0.5  # eta
_FIRST_MULTIPLIER = 0.1  # lambda
# The released code divides what concerns pairs of rows (mu, alpha, beta) by this; without it that part outweighs the similarity.
_PAIR_SCALE = 1e-4

# Annealing: temperatures in units of the spread of a flip's gain at the start, the share of rows that flip a bit at once.
_HOT = 0.7
_COLD = 0.01
_FLIPPING = 0.3
_ANNEALING_BUDGET = 3 * 10**10  # products of the form C^2 K
_ANNEALING_STEPS = (300, 1_000)


def semantic(num_classes: int, bits: int, seed: int, similarity: Tensor, wanted: int | None) -> Tensor:
    """Minimise the squared error of rows' cosines against `similarity` [C, C], all distances at least the wanted one."""
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
    """The best codebook so far, +-1 [C, K], none of whose inner products of two rows exceeds `limit`.

    A codebook travels with its inner products, as (rows, products [C, C]).
    """

    def __init__(self, similarity: Tensor, start: Tensor, limit: int, seed: int) -> None:
        self.similarity = similarity
        self.limit = limit
        self.best = start, start @ start.T
        self.error = self._error(self.best[1], start.shape[1])
        self.generator = torch.Generator(similarity.device).manual_seed(seed)
        self.others = 1 - torch.eye(len(start), dtype=start.dtype, device=start.device)  # [C, C]

    def follow_lagrangian(self) -> None:
        """The paper's optimisation: a proxy M of H, slacks and multipliers for the distances, projected gradient steps on H.

        Mended against the released code: all multipliers of the distances are updated, as floating numbers, and the gradient of
        their penalty takes h_j (h_j . h_i), not h_i (h_j . h_j). As there, rows that would come too near stay as they are.
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
        """Flip one bit in many rows at once, at falling temperature."""
        rows, products = self.best
        classes, bits = rows.shape
        steps = min(max(_ANNEALING_BUDGET // (classes**2 * bits), _ANNEALING_STEPS[0]), _ANNEALING_STEPS[1])
        spread = self._flip_costs(rows, products).std()
        for step in range(steps):
            temperature = spread * _HOT * (_COLD / _HOT) ** (step / (steps - 1))
            noise = -torch.log(torch.empty_like(rows).exponential_(generator=self.generator))  # Gumbel
            cost, bit = (self._feasible_flip_costs(rows, products) - temperature * noise).min(1)
            chosen = torch.rand(classes, dtype=torch.float32, device=rows.device, generator=self.generator) < _FLIPPING
            rows, products = self._where_far(rows, _flipped(rows, bit, chosen & (cost < 0)))
            self._keep(rows, products)

    def descend(self) -> None:
        """Flip bits for as long as that lowers the error: many rows at once first, one in the end."""
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
        """`rows` with as many of the `proposed` ones as the limit allows, and their inner products."""
        moved = (proposed != rows).any(1)
        while True:
            mixed = torch.where(moved[:, None], proposed, rows)
            products = mixed @ mixed.T
            blocked = moved & ((products > self.limit) * self.others).any(1)
            if not blocked.any():
                return mixed, products
            moved &= ~blocked

    def _flip_costs(self, rows: Tensor, products: Tensor) -> Tensor:
        """By how much the error grows with the flip of a single bit, [C, K], up to a factor of 8 / K."""
        classes, bits = rows.shape
        return rows * ((self.similarity - products / bits) @ rows) + (classes - 1) / bits

    def _feasible_flip_costs(self, rows: Tensor, products: Tensor) -> Tensor:
        """The same, infinite for flips that bring two rows too near: at the limit, the bit must be one in which they agree."""
        edge = ((products > self.limit - 2) * self.others).to(rows.dtype)
        nearer = edge.sum(1, keepdim=True) - rows * (edge @ rows)
        return self._flip_costs(rows, products).masked_fill(nearer > 0, torch.inf)


def _signs(values: Tensor) -> Tensor:
    return (values > 0).to(values.dtype) * 2 - 1


def _flipped(rows: Tensor, bit: Tensor, chosen: Tensor) -> Tensor:
    """`rows` with bit[i] of every chosen row i turned."""
    return rows.scatter(1, bit[:, None], -_signs(chosen[:, None].to(rows.dtype)) * rows.gather(1, bit[:, None]))
