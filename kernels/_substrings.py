"""The choice of substrings of codes for joins: two codes that are near are equal on some of the substrings (pigeonhole).

Codes that differ in at most r bits are equal on at least t of r + t disjoint substrings. A table of a join is one choice of t
substrings; the codes that are equal on all of them are compared. With t = 0 there is one table, which compares every pair.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

SAMPLE = 1024  # codes of a sample, of which all pairs are looked at
_MOST_TABLES = 1000
_MEASURED_TABLES = 12  # tables of a plan whose candidates are counted in the sample
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Costs(NamedTuple):
    """The costs of the steps of a join, in any unit of time."""

    row: float  # one code in one table: its key, the sort, and the search for equal keys
    candidate: float  # one pair of codes with equal keys
    pair: float  # one pair of codes where every pair is compared


class Plan(NamedTuple):
    """Disjoint substrings, and the tables of a join: every pair of codes within the radius is equal in one of the tables."""

    masks: np.ndarray  # uint64 [m, W]: the bits of each substring
    tables: list[tuple[int, ...]]  # the substrings of each table, in ascending order

    def mask(self, table: tuple[int, ...]) -> np.ndarray:
        """Return the bits on which two codes of a table are equal, uint64 [W]."""
        return np.bitwise_or.reduce(self.masks[list(table)], axis=0, initial=0).astype(np.uint64)


def plan(sample: np.ndarray, count: int, radius: int, costs: Costs) -> Plan:
    """Return the cheapest plan for the pairs within `radius` among `count` codes, of which `sample` uint64 [S, W] is drawn."""
    words = sample.shape[1]
    best, least = Plan(np.zeros((0, words), np.uint64), [()]), costs.pair * count * (count - 1) / 2
    bits = _bits_by_entropy(sample)
    scale = count * (count - 1) / max(len(sample) * (len(sample) - 1), 1)
    for equal in range(1, len(bits) - radius + 1):
        tables = math.comb(radius + equal, equal)
        if tables > _MOST_TABLES or tables * count * costs.row >= least:
            break
        offered = Plan(_dealt(bits, radius + equal, words), list(itertools.combinations(range(radius + equal), equal)))
        measured = offered.tables[:: math.ceil(tables / _MEASURED_TABLES)]
        candidates = scale * tables * sum(_equal_pairs(sample & offered.mask(table)) for table in measured) / len(measured)
        cost = tables * count * costs.row + candidates * costs.candidate
        if cost < least:
            best, least = offered, cost
    return best


def _bits_by_entropy(sample: np.ndarray) -> np.ndarray:
    """Return the bits that differ in the sample, those first that are nearest to being 1 in half of it."""
    ones = np.unpackbits(sample.view(np.uint8), axis=1, bitorder="little").sum(0, dtype=np.int64)
    balance = np.minimum(ones, len(sample) - ones)
    order = np.argsort(-balance, kind="stable")
    return order[balance[order] > 0]


def _dealt(bits: np.ndarray, count: int, words: int) -> np.ndarray:
    """Deal `bits` to `count` substrings in turn, and back in the next round: masks uint64 [count, words]."""
    masks = np.zeros((count, 64 * words), np.uint8)
    rounds = np.arange(len(bits)) // count
    place = np.arange(len(bits)) % count
    masks[np.where(rounds % 2, count - 1 - place, place), bits] = 1
    return np.packbits(masks, axis=1, bitorder="little").view(np.uint64)


def _equal_pairs(codes: np.ndarray) -> int:
    """Return the number of pairs of rows that are equal, except for rare accidents of a hash."""
    keys = np.zeros(len(codes), np.uint64)
    for word in codes.T:
        keys = (keys ^ word) * _MULTIPLIER
        keys ^= keys >> np.uint64(29)
    counts = np.unique(keys, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def sampled(count: int) -> np.ndarray:
    """Return the rows of a sample of `count` codes, int64 [S], evenly spread."""
    return np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64)


def expected_pairs(sample: np.ndarray, count: int, limit: int) -> int:
    """Return about how many pairs among `count` codes are nearer than `limit`, judged by the pairs of a sample uint64 [S, W]."""
    if len(sample) < 2:
        return 0
    signs = 1 - 2 * np.unpackbits(sample.view(np.uint8), axis=1).astype(np.float32)
    near = signs @ signs.T > signs.shape[1] - 2 * limit
    return (int(near.sum()) - len(sample)) * count * (count - 1) // (2 * len(sample) * (len(sample) - 1))
