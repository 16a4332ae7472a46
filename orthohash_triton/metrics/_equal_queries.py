"""Queries of equal code and labels, which have equal metrics and are therefore ranked once.

Queries of trained codes crowd around the class codes, so that many are equal.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_SAMPLE = 512  # queries that are compared first, in 0.1 ms
_FEWEST_PAIRS = 2**23  # queries times items from which on this time is below 2 % of that of the rankings
_ITEMS_PER_WORD = 200  # sorting a query by one word takes as long as ranking this number of items for it
_GPU_SPEED = 50  # a GPU ranks so many times faster; equal queries are found by the CPU in any case


class EqualQueries(NamedTuple):
    """The groups of equal queries."""

    first: Tensor  # int64 [D]: the first query of each group
    group: Tensor  # int64 [Q]: the group of each query
    copies: Tensor  # int64 [D]: number of queries in each group


def equal_queries(codes: Tensor, labels: Tensor, gallery: int) -> EqualQueries | None:
    """Return the groups of equal rows of `codes` uint8 [Q, B] and `labels` int64 words [Q, L], in host memory.

    None stands for groups of one query each, and for groups so few that to find them would take longer than to rank the
    `gallery` items for every query; a sample decides.
    """
    slower = 1 if codes.device.type == "cpu" else _GPU_SPEED
    if len(codes) * gallery < _FEWEST_PAIRS * slower:
        return None
    chosen = torch.arange(_SAMPLE, device=codes.device) * len(codes) // _SAMPLE if len(codes) > _SAMPLE else slice(None)
    sample = _keys(codes[chosen], labels[chosen])
    groups = _groups(sample)
    spared = (1 - len(groups.first) / len(sample)) * gallery  # items that are not ranked, per query
    if spared <= _ITEMS_PER_WORD * slower * sample.shape[1]:
        return None
    return groups if len(sample) == len(codes) else _groups(_keys(codes, labels))


def _keys(codes: Tensor, labels: Tensor) -> np.ndarray:
    """Return the words of codes and labels as uint64 [Q, W + L]."""
    words = -(-codes.shape[1] // 8)
    keys = np.zeros((len(codes), words + labels.shape[1]), np.uint64)
    keys[:, :words].view(np.uint8)[:, : codes.shape[1]] = codes.cpu().numpy()
    keys[:, words:] = labels.cpu().numpy().view(np.uint64)
    return keys


def _groups(keys: np.ndarray) -> EqualQueries:
    """Group equal rows of `keys`, not empty."""
    order = np.lexsort(keys.T)
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])
    copies = np.diff(np.r_[starts, len(keys)])
    group = np.empty(len(keys), np.int64)
    group[order] = np.repeat(np.arange(len(starts)), copies)
    return EqualQueries(*map(torch.from_numpy, (order[starts], group, copies)))
