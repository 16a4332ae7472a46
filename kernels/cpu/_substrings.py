"""Choice of the bits that a table of substrings looks at, by the statistics of a sample of the codes.

Two codes within `radius` bits of each other agree in one of `radius + 1` disjoint parts of their bits. In general they differ in
at most r_i bits of some part i, where the sum of r_i + 1 over the parts is radius + 1. A part finds few codes that are not near
if its bits are balanced and independent of each other, whatever the bits of the other parts are.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from ._bits import compiled, popcount
from ._blocks import in_words

MAX_WIDTH = 256  # bits of a substring; more of them do not tell codes apart any better
MAX_WEIGHT = 8  # bits of a substring that may differ from the query's
MAX_PROBES = 2**20  # probes of one table for one number of differing bits; more cost more than any scan that fits in memory

PROBE_COST, CANDIDATE_COST = 25, 5  # nanoseconds for the search of one bucket, and for one code of it
_SAMPLE, _ASKED = 2**13, 2**8  # codes of a sample, and the first of them, which are compared with all
_CORRELATED = 2**11  # codes from which the correlations of bits are computed
_RARE = 1 / 16  # bits that differ from the usual value in fewer codes tell little and cost as many probes as others
_MOST_TABLES = 24
_TRIED_ABOVE = 8  # numbers of tables above this are tried in steps


class Step(NamedTuple):
    """The search of all buckets of one table whose substring differs from the query's in exactly `weight` bits."""

    table: int
    weight: int


class Choice(NamedTuple):
    """The table of each bit, and the steps that find all codes within 0, 1, 2 .. bits."""

    tables: np.ndarray  # int16 [bits]: the table whose substring holds the bit; -1 for none
    steps: list[Step]
    cost: float  # expected nanoseconds for a query of the radius that the choice was made for


def choose(codes: np.ndarray, radius: int, *, tables: int | None = None) -> Choice:
    """Return the substrings with the least expected cost of a search for all codes within `radius` bits (inclusive).

    codes: uint8 [N, B]; radius: 0 or more; tables: their number, at most the number of bits, or None for the best.
    """
    bits = np.unpackbits(_sampled(codes, _SAMPLE), axis=1, bitorder="little")
    share = bits.mean(0) if len(bits) else np.full(bits.shape[1], 0.5)
    rarity = np.minimum(share, 1 - share)
    correlation = _correlation(bits[:_CORRELATED])
    best: Choice | None = None
    before = -1
    for least in (0.0, _RARE, -1.0):  # bits that vary, bits that vary much, and, where these are too few for the radius, all bits
        usable = np.flatnonzero(rarity > least)
        if len(usable) in (0, before):
            continue
        before = len(usable)
        for count in _numbers(min(radius + 1, _MOST_TABLES), before) if tables is None else [min(tables, before)]:
            of_bits = assigned(usable, rarity, correlation, count)
            choice = planned(of_bits, _near_pairs(bits, share, of_bits), len(codes), radius)
            if best is None or _is_better(choice, best, radius):
                best = choice
    assert best is not None
    return best


def _numbers(most: int, usable: int) -> list[int]:
    """Return the numbers of tables to try."""
    few = range(1, min(most, _TRIED_ABOVE) + 1)
    return [n for n in [*few, *range(_TRIED_ABOVE + 2, most, 2), most] if n <= usable]


def _is_better(choice: Choice, other: Choice, radius: int) -> bool:
    reached, before = (min(len(steps), radius + 1) for steps in (choice.steps, other.steps))
    return reached > before or (reached == before and choice.cost < 0.97 * other.cost)  # fewer tables take less memory


def _sampled(codes: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` rows of `codes`, chosen at random but always the same."""
    if len(codes) <= count:
        return codes
    rng = np.random.default_rng(0)
    return codes[rng.permutation(np.unique(rng.integers(0, len(codes), count)))]


def _correlation(bits: np.ndarray) -> np.ndarray:
    """Return the squared correlations of the bits [bits, bits], 0 for constant ones."""
    centred = bits.astype(np.float32) - bits.mean(0, dtype=np.float32) if len(bits) else np.zeros((1, bits.shape[1]), np.float32)
    deviation = np.sqrt(np.einsum("nb,nb->b", centred, centred))
    centred /= np.where(deviation > 0, deviation, 1)
    return np.square(centred.T @ centred)


def assigned(usable: np.ndarray, rarity: np.ndarray, correlation: np.ndarray, tables: int) -> np.ndarray:
    """Give each usable bit to one of `tables` substrings: balanced bits first, correlated bits apart.  Returns int16 [bits]."""
    of_bits = np.full(len(rarity), -1, np.int16)
    order = usable[np.argsort(-rarity[usable], kind="stable")][: tables * MAX_WIDTH]
    related = np.zeros((tables, len(rarity)))  # the sum of squared correlations of a table's bits with each bit
    for first in range(0, len(order), tables):
        free = np.ones(tables, bool)
        for bit in order[first : first + tables]:
            table = int(np.argmin(np.where(free, related[:, bit], np.inf)))
            of_bits[bit] = table
            free[table] = False
            related[table] += correlation[bit]
    return of_bits


def _near_pairs(bits: np.ndarray, share: np.ndarray, of_bits: np.ndarray) -> np.ndarray:
    """Return the probability that the substrings of two codes differ in w bits, [tables, MAX_WEIGHT + 1].

    It is measured in a sample, and at least what it would be if bits were independent, because a sample has no rare pairs.
    """
    rates = np.zeros((int(of_bits.max()) + 1, MAX_WEIGHT + 1))
    differ = 2 * share * (1 - share)
    for table, of_table in enumerate(rates):
        members = of_bits == table
        independent = np.eye(1, MAX_WEIGHT + 1)[0]
        for p in differ[members]:
            independent[1:] = (1 - p) * independent[1:] + p * independent[:-1]
            independent[0] *= 1 - p
        of_table[:] = independent
        if len(bits) > 1:
            words = in_words(np.packbits(bits[:, members], axis=1))
            asked = words[:_ASKED]
            pairs = np.zeros(MAX_WEIGHT + 1)
            _count_pairs(asked, words, pairs)
            pairs[0] -= len(asked)  # each with itself
            of_table[:] = np.maximum(independent, pairs / (len(asked) * (len(words) - 1)))
    return rates


@compiled
def _count_pairs(a, b, counts):
    """Add to counts[d] the pairs of rows of uint64 arrays a [n, W] and b [m, W] that differ in d bits."""
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            distance = np.int64(0)
            for word in range(a.shape[1]):
                distance += popcount(a[i, word] ^ b[j, word])
            if distance < counts.shape[0]:
                counts[distance] += 1


def planned(of_bits: np.ndarray, near_pairs: np.ndarray, count: int, radius: int) -> Choice:
    """Return the cheapest steps for these substrings: each step takes one more bit of distance, the cheapest one is next."""
    widths = np.bincount(of_bits[of_bits >= 0], minlength=len(near_pairs))
    chance = count * 2.0 ** -hash_bits(count)  # codes that share a bucket without sharing the substring
    costs = np.full((len(near_pairs), MAX_WEIGHT + 2), math.inf)
    for table, width in enumerate(widths.tolist()):
        for weight in range(MAX_WEIGHT + 1):
            probes = _probes(width, weight)
            if probes:
                candidates = count * near_pairs[table, weight] + probes * chance
                costs[table, weight] = PROBE_COST * probes + CANDIDATE_COST * candidates
    weights = np.zeros(len(near_pairs), np.int64)
    tables = np.arange(len(near_pairs))
    steps: list[Step] = []
    total = 0.0
    while True:
        table = int(np.argmin(costs[tables, weights]))
        cost = float(costs[table, weights[table]])
        if cost == math.inf:
            return Choice(of_bits, steps, total)
        steps.append(Step(table, int(weights[table])))
        weights[table] += 1
        total += cost if len(steps) <= radius + 1 else 0.0


@functools.cache
def _probes(width: int, weight: int) -> int:
    """Return the number of substrings that differ in `weight` bits; 0 if there are none or too many."""
    probes = math.comb(width, weight) if weight <= min(width, MAX_WEIGHT) else 0
    return probes if probes <= MAX_PROBES else 0


def hash_bits(count: int) -> int:
    """Return the number of bits of the hash of a substring, for one or two codes a bucket."""
    return max(1, (count - 1).bit_length() - 1)
