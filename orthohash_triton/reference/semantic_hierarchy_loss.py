"""The two terms of SHREWD, written directly from the formulas that `ops/semantic_hierarchy_loss.py` derives."""

import math

import torch
from torch import Tensor


def semantic_hierarchy_loss(
    z: Tensor,  # [N, K]
    distance: Tensor,  # [N, N], of the samples; NaN where a pair is left out
    draws: Tensor,  # [M, K], of the target distribution
    *,
    scale: float,
    relational_weight: float = 1.0,
    kl_weight: float = 0.01,
    pair_decay: float = 2.0,
    distance_floor: float = 1e-3,
) -> Tensor:
    """Return the loss; see `orthohash_triton.semantic_hierarchy_loss`."""
    relational = relational_term(z, distance, scale, pair_decay)
    return relational_weight * relational + kl_weight / z.shape[1] * divergence(z, draws, distance_floor)


def relational_term(z: Tensor, distance: Tensor, scale: float, pair_decay: float) -> Tensor:
    """Return the sum of w |scale |z_b - z_b'|_1 - d| over the pairs b != b', w proportional to exp(-pair_decay d), of sum 1."""
    used = ~torch.eye(len(z), dtype=torch.bool) & ~distance.isnan()
    manhattan = (z[:, None] - z[None]).abs().sum(2)  # [N, N]
    weights = torch.exp(-pair_decay * distance[used])
    return (weights * (scale * manhattan - distance).abs()[used]).sum() / weights.sum()


def divergence(z: Tensor, draws: Tensor, distance_floor: float) -> Tensor:
    """Estimate the Kullback-Leibler divergence, in nats, of the distribution of z from that of `draws`."""
    rows, bits = z.shape
    others = ~torch.eye(rows, dtype=torch.bool)
    to_draws = _distances(z, draws).min(1).values  # the gradient goes to one of several equally near
    to_others = _distances(z, z)[others].view(rows, rows - 1).min(1).values
    logs = to_draws.clamp(min=distance_floor).log() - to_others.clamp(min=distance_floor).log()
    return bits * logs.mean() + math.log(len(draws) / (rows - 1))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances [N, M], with gradient zero at distance zero."""
    squares = (a[:, None] - b[None]).square().sum(2)
    return torch.where(squares > 0, squares.where(squares > 0, 1).sqrt(), 0)


def label_set_distance(target: Tensor, class_distance: Tensor) -> Tensor:
    """Return the distances [N, N] of sets of classes, rows of a multi-hot target [N, C]; NaN if a set is empty."""
    sets = [row.nonzero()[:, 0] for row in target]
    distance = class_distance.new_full((len(sets), len(sets)), torch.nan)
    for i, first in enumerate(sets):
        for j, second in enumerate(sets):
            if len(first) and len(second):
                pairs = class_distance[first[:, None], second]  # [|S|, |T|]
                distance[i, j] = (pairs.amin(1).mean() + pairs.amin(0).mean()) / 2
    return distance
