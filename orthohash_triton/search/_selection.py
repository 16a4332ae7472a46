"""Selection of the k smallest keys from sorted keys on several ranks, without sending all keys.

A key is an int64, distance << shift | position. Each rank holds `keys` [Q, any], ascending along a row, and positions ascend from
rank to rank. The radius of an answer is the distance of its last key. It is bounded by the distances at two places of the keys of
each rank, and the bounds are narrowed by counting. Then each rank knows which of its keys belong to the answer: those below the
radius, and some of those at the radius. Only these keys are sent, each to its own place in the answer.
"""

import torch
from torch import Tensor

from ._ranks import Ranks

MISSING = 2**63 - 1

_CUTS = 16  # distances that one round of counting tries
_GATHERED_BYTES = 2**18  # below this size, gathering all keys is faster than the rounds of messages of a selection


def smallest(ranks: Ranks, keys: Tensor, k: int, share: int, shift: int, farthest: int) -> Tensor:
    """Return the k smallest keys of each query in ascending order, [Q, k], filled up with MISSING.

    Args:
        ranks: The processes that hold the keys.
        keys: This rank's keys, int64 [Q, any], ascending.
        k: The number of keys to select.
        share: How many of k this rank is expected to hold: k times its part of the gallery, rounded up.
        shift: The number of bits of a key below its distance.
        farthest: An upper bound of all distances.
    """
    count = len(keys)
    if ranks.size * count * k * 8 <= _GATHERED_BYTES:
        padded = keys.new_full((count, k), MISSING)
        padded[:, : keys.shape[1]] = keys[:, :k]
        return ranks.gather(padded).transpose(0, 1).reshape(count, -1).sort(1).values[:, :k].contiguous()
    return _sent(ranks, keys, k, _radius(ranks, keys, k, share, shift, farthest), shift).sort(1).values


def _radius(ranks: Ranks, keys: Tensor, k: int, share: int, shift: int, farthest: int) -> Tensor:
    """Return the smallest distance within which there are k codes, [Q]; `farthest` where there are fewer codes."""
    low, high = _bracket(ranks, keys, k, share, shift, farthest)
    while (width := int((high - low).max())) > 0:
        cuts = min(width, _CUTS)
        tried = low[:, None] + (high - low)[:, None] * torch.arange(cuts, device=low.device) // cuts  # [Q, cuts]
        counts = ranks.sum(_count_below(keys, tried + 1, shift))
        short = (counts < k).sum(1, keepdim=True)
        edges = torch.cat([low[:, None] - 1, tried, high[:, None]], 1)
        low, high = edges.gather(1, short)[:, 0] + 1, edges.gather(1, short + 1)[:, 0]
    return high


def _bracket(ranks: Ranks, keys: Tensor, k: int, share: int, shift: int, farthest: int) -> tuple[Tensor, Tensor]:
    """Return a lower and an upper bound of the radius, [Q] each.

    If every rank holds its share within a distance, k codes are within it, because the shares sum to k or more. If no rank does,
    fewer than k codes are within it, because shares smaller by one sum to less than k. A distance within which one rank alone
    holds k codes is an upper bound too. For codes distributed at random the bounds are close together.
    """
    at_k = _distance_at(keys, k, shift, farthest)
    if share:
        least = most = _distance_at(keys, share, shift, farthest)
    else:
        least, most = torch.full_like(at_k, farthest), torch.zeros_like(at_k)
    low, minus_high, other_high = ranks.minimum(torch.stack([least, -most, at_k]))
    return low, torch.minimum(-minus_high, other_high)


def _distance_at(keys: Tensor, place: int, shift: int, farthest: int) -> Tensor:
    """Return the distance of the `place`-th smallest key of this rank, [Q]; `farthest` if it holds fewer keys."""
    if keys.shape[1] < place:
        return keys.new_full((len(keys),), farthest)
    return (keys[:, place - 1] >> shift).clamp(max=farthest)


def _count_below(keys: Tensor, distances: Tensor, shift: int) -> Tensor:
    """Return how many keys are nearer than each of `distances`, [Q, any]."""
    return torch.searchsorted(keys, distances << shift)


def _sent(ranks: Ranks, keys: Tensor, k: int, radius: Tensor, shift: int) -> Tensor:
    """Return the selected keys of all ranks, [Q, k], unordered and filled up with MISSING.

    The ranks sum a buffer [Q, k] in which each key has its own place. Each rank sends 8 Q k bytes twice in a ring, whatever the
    number of ranks and the lengths of their parts. Every backend supports a sum, and no message has a variable length.
    """
    below, within = _count_below(keys, torch.stack([radius, radius + 1], 1), shift).unbind(1)
    all_below, all_tied = ranks.gather(torch.stack([below, within - below])).unbind(1)  # [ranks, Q]
    ties = k - all_below.sum(0)  # places left for keys at the radius, which lower ranks fill first
    taken = all_below + torch.minimum((ties - _before(all_tied)).clamp(min=0), all_tied)
    buffer = ranks.sum(_placed(keys, taken[ranks.rank], _before(taken)[ranks.rank], k))
    return buffer.masked_fill_(torch.arange(k, device=buffer.device) >= taken.sum(0)[:, None], MISSING)


def _before(counts: Tensor) -> Tensor:
    """Return the sum of the counts of all lower ranks, [ranks, Q]."""
    return counts.cumsum(0) - counts


def _placed(keys: Tensor, count: Tensor, first: Tensor, k: int) -> Tensor:
    """Return zeros [Q, k] in which the first `count[q]` keys of query q are written from place `first[q]` on."""
    queries, place = len(keys), torch.arange(keys.shape[1], device=keys.device)
    buffer = keys.new_zeros(queries * k + 1)  # the last entry takes the keys that are not sent
    rows = k * torch.arange(queries, device=keys.device)[:, None]
    buffer[torch.where(place < count[:, None], rows + first[:, None] + place, queries * k)] = keys
    return buffer[:-1].view(queries, k)
