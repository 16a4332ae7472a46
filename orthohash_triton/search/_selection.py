"""The k smallest of keys that lie sorted on several ranks, found without sending them all.

A key is an int64, distance << shift | position. Each rank holds `keys` [Q, any], ascending along a row; positions ascend from
rank to rank. The radius of the answer (the distance of its last member) is bracketed by the distances at two places of the ranks'
keys, and narrowed by counts. Then each rank knows which of its keys belong to the answer: those inside of the radius, and its
part of those at it. Only they travel, each to a slot of its own.
"""

import torch
from torch import Tensor

from ._ranks import Ranks

MISSING = 2**63 - 1

_CUTS = 16  # distances tried in one round of counting
_GATHERED_BYTES = (
    2**18
)  # so much is sooner gathered from all ranks than chosen from: rounds take their time however little they say


def smallest(ranks: Ranks, keys: Tensor, k: int, share: int, shift: int, farthest: int) -> Tensor:
    """The k smallest keys of each query in order, [Q, k]; MISSING where there are fewer.

    share: how many of k this rank is expected to hold: k times its part of the gallery, rounded up. farthest: no distance is
    above it.
    """
    count = len(keys)
    if ranks.size * count * k * 8 <= _GATHERED_BYTES:
        padded = keys.new_full((count, k), MISSING)
        padded[:, : keys.shape[1]] = keys[:, :k]
        return ranks.gather(padded).transpose(0, 1).reshape(count, -1).sort(1).values[:, :k].contiguous()
    return _sent(ranks, keys, k, _radius(ranks, keys, k, share, shift, farthest), shift).sort(1).values


def _radius(ranks: Ranks, keys: Tensor, k: int, share: int, shift: int, farthest: int) -> Tensor:
    """The least distance within which k codes lie, [Q]; `farthest` where there is none."""
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
    """Bounds [Q] of the radius.

    If every rank holds its share within a distance, k codes are within it, as the shares sum up to k or more; if none does, fewer
    than k are, as shares smaller by one sum up to less. And if one rank alone holds k within a distance, that is enough. Where
    codes are spread at random, the bounds lie next to each other.
    """
    at_k = _distance_at(keys, k, shift, farthest)
    if share:
        least = most = _distance_at(keys, share, shift, farthest)
    else:
        least, most = torch.full_like(at_k, farthest), torch.zeros_like(at_k)
    low, minus_high, other_high = ranks.minimum(torch.stack([least, -most, at_k]))
    return low, torch.minimum(-minus_high, other_high)


def _distance_at(keys: Tensor, place: int, shift: int, farthest: int) -> Tensor:
    """The distance of the `place`-th smallest key of this rank, [Q]; `farthest` where it holds fewer."""
    if keys.shape[1] < place:
        return keys.new_full((len(keys),), farthest)
    return (keys[:, place - 1] >> shift).clamp(max=farthest)


def _count_below(keys: Tensor, distances: Tensor, shift: int) -> Tensor:
    """How many keys are nearer than each of `distances`, [Q, any]."""
    return torch.searchsorted(keys, distances << shift)


def _sent(ranks: Ranks, keys: Tensor, k: int, radius: Tensor, shift: int) -> Tensor:
    """The chosen keys of all ranks, [Q, k], unordered, then MISSING.

    One sum over a [Q, k] buffer in which each key has its own slot: 8 Q k bytes, twice through a ring, however many ranks there
    are and however unequal their parts; nothing ragged, and every backend has it.
    """
    below, within = _count_below(keys, torch.stack([radius, radius + 1], 1), shift).unbind(1)
    all_below, all_tied = ranks.gather(torch.stack([below, within - below])).unbind(1)  # [ranks, Q]
    ties = k - all_below.sum(0)  # as many as the answer takes, first come first served
    taken = all_below + torch.minimum((ties - _before(all_tied)).clamp(min=0), all_tied)
    buffer = ranks.sum(_placed(keys, taken[ranks.rank], _before(taken)[ranks.rank], k))
    return buffer.masked_fill_(torch.arange(k, device=buffer.device) >= taken.sum(0)[:, None], MISSING)


def _before(counts: Tensor) -> Tensor:
    """What stands on lower ranks; [ranks, Q]."""
    return counts.cumsum(0) - counts


def _placed(keys: Tensor, count: Tensor, first: Tensor, k: int) -> Tensor:
    """Zeros [Q, k], but the first count[q] keys of query q from slot first[q] on."""
    queries, place = len(keys), torch.arange(keys.shape[1], device=keys.device)
    buffer = keys.new_zeros(queries * k + 1)  # the last entry takes the keys that stay
    rows = k * torch.arange(queries, device=keys.device)[:, None]
    buffer[torch.where(place < count[:, None], rows + first[:, None] + place, queries * k)] = keys
    return buffer[:-1].view(queries, k)
