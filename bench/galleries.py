"""Galleries of binary codes of several kinds, and queries for them, which are made in place and always come out the same.

Every code is a function of its kind, the seed and its row alone. So a billion codes are made in the memory that holds them, by
all threads, and a process of a group makes its own rows only. Rows from `total` on are queries: fresh draws of the same kind.

- `uniform`: independent fair bits. No structure helps, and a search does best to scan.
- `trained`: codes of a network trained for `classes` words of a codebook: `bench/trained_spread.json` has the distances from the
  nearest word, and how often codes are equal, fitted to real runs by `python -m bench.fit_galleries`.
- `tied`: few distinct codes.
- `equidistant`: every code is at distance bits/2 from each of `equidistant_centres`, so that no ring can be left out.
- `shared`: every code equals one word but for one quarter of its bits, so that tables of substrings have lists of most codes.
- `planted`: uniform codes, of which one in 64 is another row with up to 1/32 of the bits flipped; all queries are such.

Example:
    >>> from bench import galleries
    >>> codes = galleries.make("uniform", 1000, 64)
    >>> queries = galleries.queries("uniform", 10, 64, total=1000)
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from orthohash_triton.kernels.cpu._threads import run_all, thread_count

SPREADS = Path(__file__).with_name("trained_spread.json")
DEMO = "fashion-mnist, 64 bits"  # the fitted run that `trained` follows by default

CLASSES = 10_000
DISTINCT = 1_000  # of `tied`
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROWS_AT_ONCE = 2**20

Fill = Callable[[np.ndarray, int, int], None]  # fill(words uint64 [n, W], first row, first query)


@numba.njit(nogil=True, inline="always")
def _mix(x):
    """Return the finalizer of splitmix64: a random-looking word for every word."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(nogil=True, inline="always")
def _below(word, count):
    """Return a number below `count` < 2^32 from the upper bits of a random word."""
    return np.int64(((word >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32))


@numba.njit(nogil=True, inline="always")
def _share(word):
    """Return a number in [0, 1) from a random word."""
    return np.float64(word >> np.uint64(11)) * 2.0**-53


@numba.njit(nogil=True, cache=True)
def _uniform(codes, seed, first):
    words = codes.shape[1]
    for row in range(codes.shape[0]):
        for word in range(words):
            codes[row, word] = _mix(seed + _GOLDEN * np.uint64((first + row) * words + word + 1))


@numba.njit(nogil=True, cache=True)
def _trained(codes, seed, first, centres, orders, radii, directions, stray):
    """A class, a distance from its word, and that many flips: the next bit of an order of the class, or by chance any bit."""
    bits, length = 64 * codes.shape[1], orders.shape[2]
    for row in range(codes.shape[0]):
        state = seed + _GOLDEN * np.uint64(64 * (first + row + 1))
        of = _below(_mix(state), centres.shape[0])
        radius = np.searchsorted(radii, _share(_mix(state + np.uint64(1))), side="right")
        direction = np.searchsorted(directions, _share(_mix(state + np.uint64(2))), side="right")
        draw = np.uint64(3)
        place = 0
        codes[row] = centres[of]
        flips = 0
        while flips < radius:
            step = _mix(state + draw * _GOLDEN)
            draw += np.uint64(1)
            if place < length and _share(step) >= stray:
                bit = np.int64(orders[of, direction, place])
                place += 1
            else:
                bit = _below(_mix(step), bits)
            word, flip = bit >> 6, np.uint64(1) << np.uint64(bit & 63)
            if (codes[row, word] ^ centres[of, word]) & flip == 0:
                codes[row, word] ^= flip
                flips += 1


@numba.njit(nogil=True, cache=True)
def _tied(codes, seed, first, distinct):
    words = codes.shape[1]
    for row in range(codes.shape[0]):
        which = _below(_mix(seed + _GOLDEN * np.uint64(first + row + 1)), distinct)
        for word in range(words):
            codes[row, word] = _mix(~seed + _GOLDEN * np.uint64(which * words + word + 1))


@numba.njit(nogil=True, cache=True)
def _equidistant(codes, seed, first):
    """The upper half of a code repeats its lower half; the centres have the complement there."""
    words = codes.shape[1]
    for row in range(codes.shape[0]):
        if words == 1:
            half = _mix(seed + _GOLDEN * np.uint64(first + row + 1)) >> np.uint64(32)
            codes[row, 0] = half | half << np.uint64(32)
        else:
            for word in range(words // 2):
                code = _mix(seed + _GOLDEN * np.uint64((first + row) * words + word + 1))
                codes[row, word] = code
                codes[row, word + words // 2] = code


@numba.njit(nogil=True, cache=True)
def _shared(codes, seed, first):
    words = codes.shape[1]
    part = 16 * words  # bits that differ
    for row in range(codes.shape[0]):
        for word in range(words):
            codes[row, word] = _mix(seed + _GOLDEN * np.uint64(word + 1))
        random = _mix(~seed + _GOLDEN * np.uint64(first + row + 1))
        start = part * _below(random, 4)
        random = _mix(random)
        for bit in range(start, start + part):
            flip = (random >> np.uint64((bit - start) & 63)) & np.uint64(1)
            codes[row, bit >> 6] ^= flip << np.uint64(bit & 63)


@numba.njit(nogil=True, inline="always")
def _is_copy(random):
    return _below(random, 64) == 0


@numba.njit(nogil=True, cache=True)
def _planted(codes, seed, first, total):
    words = codes.shape[1]
    for row in range(codes.shape[0]):
        number = first + row
        random = _mix(~seed + _GOLDEN * np.uint64(number + 1))
        is_copy = number >= total or _is_copy(random)
        source = number
        if is_copy:
            source = np.int64(_mix(random) % np.uint64(total))
            for _ in range(100):  # a copy of a copy would be farther from its row than promised
                if not _is_copy(_mix(~seed + _GOLDEN * np.uint64(source + 1))):
                    break
                source = (source + 1) % total
        for word in range(words):
            codes[row, word] = _mix(seed + _GOLDEN * np.uint64(source * words + word + 1))
        if is_copy:
            for flip in range(_below(_mix(random + np.uint64(1)), 2 * words + 1)):
                bit = _below(_mix(random + np.uint64(2 + flip)), 64 * words)
                codes[row, bit >> 6] ^= np.uint64(1) << np.uint64(bit & 63)


class Spread(NamedTuple):
    """How trained codes lie around the words of their classes."""

    radii: tuple[float, ...]  # the share of codes at each distance from the nearest word
    directions: int  # orders of bits in which the codes of a class deviate
    zipf: float  # the share of the i-th order is proportional to i^-zipf
    stray: float  # the chance that a flipped bit is a random one instead of the next of the order

    @classmethod
    def fitted(cls, run: str = DEMO) -> "Spread":
        fitted = json.loads(SPREADS.read_text(encoding="utf-8"))[run]["spread"]
        return cls(**fitted | {"radii": tuple(fitted["radii"])})


@functools.lru_cache(maxsize=4)
def words_of_classes(classes: int, bits: int) -> np.ndarray:
    """Return one word per class, uint64 [classes, bits/64], around which trained codes lie; any two differ in many bits.

    Up to 2 bits classes these are the rows of the Hadamard matrix and their complements, as in training. For more classes, each
    further 2 bits words are those rows XOR a quadratic form, chosen such that words differ in at least 3/8 of the bits.
    """
    from orthohash_triton import make_codebook, pack_codes

    rows = _as_words(np.asarray(pack_codes(make_codebook(2 * bits, bits).float())))
    forms = [np.zeros(bits // 64, np.uint64)]
    generator = np.random.default_rng(0)
    index = np.arange(bits)
    variables = bits.bit_length() - 1
    values = index[:, None] >> np.arange(variables) & 1  # [bits, variables]
    while len(forms) * len(rows) < classes:
        matrix = np.triu(generator.integers(0, 2, (variables, variables)), 1)
        truth = np.einsum("iv,vw,iw->i", values, matrix, values) & 1
        form = np.packbits(truth.astype(np.uint8), bitorder="little").view(np.uint64)
        distances = [np.bitwise_count(rows ^ form ^ other).sum(1).min() for other in forms]
        if min(distances) >= 3 * bits // 8:
            forms.append(form)
    return np.concatenate([rows ^ form for form in forms])[:classes]


def equidistant_centres(bits: int, count: int = 64, seed: int = 0) -> np.ndarray:
    """Return centres uint8 [count, bits/8] that are at distance bits/2 from every code of the gallery `equidistant`."""
    half = np.random.default_rng(seed).integers(0, 256, (count, bits // 16), dtype=np.uint8)
    return np.concatenate([half, ~half], axis=1)


def trained_tables(words: np.ndarray, spread: Spread, seed: int = 0) -> tuple[Any, ...]:
    """Return the arguments of `_trained` after the rows: words, orders of bits, and cumulative shares."""
    bits, length = 64 * words.shape[1], len(spread.radii)
    generator = np.random.default_rng(seed)
    orders = np.empty((len(words), spread.directions, length), np.uint16)
    for part in range(0, len(words), 512):
        shape = (*orders[part : part + 512].shape[:2], bits)
        orders[part : part + 512] = generator.random(shape, dtype=np.float32).argsort(axis=2)[..., :length]
    weights = np.arange(1, spread.directions + 1) ** -spread.zipf
    return words, orders, _cumulative(np.array(spread.radii)), _cumulative(weights), spread.stray


def _cumulative(weights: np.ndarray) -> np.ndarray:
    return (weights.cumsum() / weights.sum())[:-1]


def _as_words(codes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(codes).view(np.uint64)


@functools.lru_cache(maxsize=2)
def _tables(bits: int, classes: int, run: str) -> tuple[Any, ...]:
    return trained_tables(words_of_classes(classes, bits), Spread.fitted(run))


def _maker(kind: str, bits: int, total: int, seed: int, options: dict[str, Any]) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """Return the compiled function of a kind, and its arguments after the codes, the seed and the first row."""
    if kind == "uniform":
        return _uniform, ()
    if kind == "trained":
        return _trained, _tables(bits, options.pop("classes", CLASSES), options.pop("run", DEMO))
    if kind == "tied":
        return _tied, (options.pop("distinct", DISTINCT),)
    if kind == "equidistant":
        return _equidistant, ()
    if kind == "shared":
        return _shared, ()
    if kind == "planted":
        return _planted, (total,)
    raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")


KINDS = ("uniform", "trained", "tied", "equidistant", "shared", "planted")


def fill(kind: str, codes: np.ndarray, *, first: int = 0, total: int | None = None, seed: int = 0, **options: Any) -> None:
    """Write rows `first` on of a gallery of `total` codes into `codes`, uint8 [n, bits/8], with as many threads as torch has.

    options: `classes` and `run` (a key of trained_spread.json) of `trained`, `distinct` of `tied`.
    """
    bits = 8 * codes.shape[1]
    if bits % 64:
        raise ValueError(f"galleries have codes of a multiple of 64 bits; got {bits}")
    total = first + len(codes) if total is None else total
    make, arguments = _maker(kind, bits, total, seed, options)
    if options:
        raise TypeError(f"{kind} has no options {', '.join(options)}")
    words = codes.view(np.uint64)
    step = max(1, min(_ROWS_AT_ONCE, -(-len(words) // thread_count())))
    starts = range(0, len(words), step)
    mixed = np.uint64((seed * 2 + 1) * 0x5851F42D4C957F2D & 2**64 - 1)
    run_all(make, [(words[start : start + step], mixed, first + start, *arguments) for start in starts])


def make(kind: str, count: int, bits: int, *, seed: int = 0, **options: Any) -> np.ndarray:
    """Return a gallery, uint8 [count, bits/8]; options as for `fill`."""
    codes = np.empty((count, bits // 8), np.uint8)
    fill(kind, codes, seed=seed, **options)
    return codes


def queries(kind: str, count: int, bits: int, *, total: int, seed: int = 0, **options: Any) -> np.ndarray:
    """Return queries for a gallery of `total` codes with the same seed and options, uint8 [count, bits/8]."""
    codes = np.empty((count, bits // 8), np.uint8)
    fill(kind, codes, first=total, total=total, seed=seed, **options)
    return codes
