"""Choice of the bits that a table of substrings looks at, by the statistics of a sample of the codes.

Two codes within `radius` bits of each other agree in one of `radius + 1` disjoint parts of their bits. In general they differ in
at most r_i bits of some part i, where the sum of r_i + 1 over the parts is radius + 1. A part finds few codes that are not near
if its bits are balanced and independent of each other, whatever the bits of the other parts are.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

MAX_WIDTH = 256  # bits of a substring; more of them do not tell codes apart any better
MAX_WEIGHT = 8  # bits of a substring that may differ from the query's
MAX_PROBES = 2**20  # probes of one table for one number of differing bits; more cost more than any scan that fits in memory

PROBE_COST, CANDIDATE_COST = 10, 15  # nanoseconds for the search of one bucket, and for the comparison of one code of it
_SAMPLE = 2**14  # codes whose substrings are compared with each other
_CORRELATED = 2**11  # codes from which the correlations of bits are computed
_RARE = 1 / 16  # bits that differ from the usual value in fewer codes tell little and cost as many probes as others
_MAX_TABLES = 24


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
    sample = _sampled(codes, _SAMPLE)
    bits = np.unpackbits(sample, axis=1, bitorder="little")
    share = bits.mean(0) if len(bits) else np.full(bits.shape[1], 0.5)
    rarity = np.minimum(share, 1 - share)
    correlation = _correlation(bits[:: max(1, len(bits) // _CORRELATED)])
    best: Choice | None = None
    for least in (0.0, _RARE, -1.0):  # bits that vary, bits that vary much, and, where these are too few for the radius, all bits
        usable = np.flatnonzero(rarity > least)
        most = min(radius + 1, _MAX_TABLES, len(usable))
        for count in range(1, most + 1) if tables is None else range(tables, min(tables, len(usable)) + 1):
            of_bits = assigned(usable, rarity, correlation, count)
            rates = _collision_rates(bits, share, of_bits)
            choice = planned(of_bits, rates, len(codes), radius)
            if best is None or _is_better(choice, best, radius):
                best = choice
    assert best is not None
    return best


def _is_better(choice: Choice, other: Choice, radius: int) -> bool:
    reached, before = (min(len(steps), radius + 1) for steps in (choice.steps, other.steps))
    return reached > before or (reached == before and choice.cost < 0.97 * other.cost)  # fewer tables take less memory


def _sampled(codes: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` rows of `codes`, chosen at random but always the same."""
    if len(codes) <= count:
        return codes
    return codes[np.sort(np.random.default_rng(0).integers(0, len(codes), count))]


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


def _collision_rates(bits: np.ndarray, share: np.ndarray, of_bits: np.ndarray) -> np.ndarray:
    """Return for each table the probability that two codes have the same substring, as far as a sample tells."""
    equal = share**2 + (1 - share) ** 2
    count = len(bits)
    rates = []
    for table in range(int(of_bits.max()) + 1):
        members = of_bits == table
        independent = float(np.exp(np.log(equal[members]).sum()))
        packed = np.packbits(bits[:, members], axis=1)
        padded = np.zeros((count, 8 * math.ceil(packed.shape[1] / 8)), np.uint8)
        padded[:, : packed.shape[1]] = packed
        words = padded.view(np.uint64)
        odd = (2 * np.arange(words.shape[1], dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        _, sizes = np.unique((words * odd).sum(1, dtype=np.uint64), return_counts=True)
        pairs = float((sizes.astype(np.float64) * (sizes - 1)).sum())
        rates.append(max(independent, pairs / max(count * (count - 1), 1)))
    return np.array(rates)


def planned(of_bits: np.ndarray, rates: np.ndarray, count: int, radius: int) -> Choice:
    """Return the cheapest steps for these substrings: each step takes one more bit of distance, the cheapest one is next."""
    widths = np.bincount(of_bits[of_bits >= 0], minlength=len(rates))
    met = count * (rates + 2.0 ** -hash_bits(count))
    weights = np.zeros(len(rates), np.int64)
    steps, total = [], 0.0
    while True:
        probes = [_probes(int(width), int(weight)) for width, weight in zip(widths, weights, strict=True)]
        costs = [n * (PROBE_COST + CANDIDATE_COST * m) if n else math.inf for n, m in zip(probes, met, strict=True)]
        table = int(np.argmin(costs))
        if costs[table] == math.inf:
            break
        steps.append(Step(table, int(weights[table])))
        weights[table] += 1
        total += costs[table] if len(steps) <= radius + 1 else 0.0
    return Choice(of_bits, steps, total)


@functools.cache
def _probes(width: int, weight: int) -> int:
    """Return the number of substrings that differ in `weight` bits; 0 if there are none or too many."""
    probes = math.comb(width, weight) if weight <= min(width, MAX_WEIGHT) else 0
    return probes if probes <= MAX_PROBES else 0


def hash_bits(count: int) -> int:
    """Return the number of bits of the hash of a substring, for about one code a bucket."""
    return max(1, (count - 1).bit_length())
