"""Algebraic codebooks: families of codes with a guaranteed distance, and linear codes found by search.

Except for `simplex`, codes come in pairs of a code and its complement. Every bit is then +1 in half of the rows, which makes the
mean distance the largest possible.
"""

import numpy as np
import torch
from torch import Tensor

from ._drawn import draw, signs

# An irreducible polynomial over GF(2) for every odd degree in use, as a bit mask of its coefficients.
_IRREDUCIBLE = {3: 0b1011, 5: 0b100101, 7: 0b10000011, 9: 0b1000010001, 11: 0b100000000101}

_PATIENCE = 2**14  # candidates for a generator before the search for a linear code restarts
_STARTS = 32  # starts before the search gives up a distance
_DRAWS_AT_ONCE = 4_096


def quadratic(num_classes: int, bits: int, rng: np.random.Generator) -> Tensor | None:
    """Return rows of Kerdock codes and codes from Gold functions, concatenated over the powers of two in `bits`.

    The columns of the power of two P = 2^m hold the values of Boolean functions of m variables: linear functions (Hadamard rows,
    distance P/2) for up to 2P rows. For more rows quadratic forms are added: for even m those of the Kerdock set (P^2 rows,
    distance P/2 - sqrt(P)/2), for odd m Tr(b x^3) (2P^2 rows, distance P/2 - sqrt(P/2)). See MacWilliams and Sloane, The Theory
    of Error-Correcting Codes, chapter 15. If a power has too few functions, they are repeated.

    Returns:
        int8 +-1 [C, K], or None if the largest power of two has too few functions.
    """
    pairs = -(-num_classes // 2)
    variables = [m for m in reversed(range(bits.bit_length())) if bits >> m & 1]
    if pairs > 2 ** variables[0] * _form_count(variables[0]):
        return None
    return _with_opposites(np.concatenate([_functions(pairs, m, rng) for m in variables], axis=1), num_classes, rng)


def _form_count(variables: int) -> int:
    degree = _field_degree(variables)
    return 2**degree if degree in _IRREDUCIBLE else 1


def _field_degree(variables: int) -> int:
    return variables if variables % 2 else variables - 1


def _functions(pairs: int, variables: int, rng: np.random.Generator) -> np.ndarray:
    """Return values uint8 [pairs, 2^variables] of Boolean functions, no two of which are complements."""
    length, degree = 2**variables, _field_degree(variables)
    forms = min(-(-pairs // length), _form_count(variables))
    quadratics = np.zeros((1, length), dtype=np.uint8)
    if forms > 1:
        chosen = rng.permutation(2**degree)[:forms]
        quadratics = (_gold_forms(chosen, degree) if variables % 2 else _kerdock_forms(chosen, degree)).astype(np.uint8)
    index = np.resize(rng.permutation(forms * length), pairs)
    slopes = (index % length).astype(np.uint16)[:, None] & np.arange(length, dtype=np.uint16)
    return quadratics[index // length] ^ _parity(slopes).astype(np.uint8)


def _parity(values: np.ndarray) -> np.ndarray:
    """Return 1 where an odd number of bits is set, otherwise 0."""
    shift = 4 * values.itemsize
    while shift:
        values = values ^ (values >> values.dtype.type(shift))
        shift //= 2
    return values & values.dtype.type(1)


def _gold_forms(b: np.ndarray, degree: int) -> np.ndarray:
    """Return Tr(b x^3) for every x in GF(2^degree), [B, 2^degree]."""
    x = np.arange(2**degree)
    return _trace(_multiply(b[:, None], _multiply(_multiply(x, x, degree), x, degree)[None], degree), degree)


def _kerdock_forms(a: np.ndarray, degree: int) -> np.ndarray:
    """Return sum_j Tr((a x)^(1 + 2^j)) + y Tr(a x) for j = 1 .. (degree - 1)/2, all x, and y = 0, 1: [A, 2^(degree + 1)]."""
    ax = _multiply(a[:, None], np.arange(2**degree)[None], degree)
    power, form = ax, np.zeros_like(ax)
    for _ in range((degree - 1) // 2):
        power = _multiply(power, power, degree)
        form = form ^ _trace(_multiply(ax, power, degree), degree)
    return np.concatenate([form, form ^ _trace(ax, degree)], axis=1)


def _multiply(a: np.ndarray, b: np.ndarray, degree: int) -> np.ndarray:
    """Return products in GF(2^degree), whose elements are bit masks of polynomial coefficients."""
    product = np.zeros(np.broadcast_shapes(a.shape, b.shape), dtype=np.int64)
    for bit in range(degree):
        product ^= np.where(b >> bit & 1, a, 0)
        a = a << 1
        a = np.where(a >> degree & 1, a ^ _IRREDUCIBLE[degree], a)
    return product


def _trace(a: np.ndarray, degree: int) -> np.ndarray:
    """Return the trace a + a^2 + a^4 + ... in GF(2^degree), which is 0 or 1."""
    total = power = a
    for _ in range(degree - 1):
        power = _multiply(power, power, degree)
        total = total ^ power
    return total


def simplex(num_classes: int, bits: int, rng: np.random.Generator) -> Tensor | None:
    """Return rows of a simplex code, repeated to `bits` columns; None if the code is longer than `bits`.

    All distances are nearly equal, and larger than bits/2.
    """
    dimension = max(1, (num_classes - 1).bit_length())
    columns = 2**dimension - 1
    if columns > bits:
        return None
    column = 1 + np.arange(bits) % columns
    message = rng.permutation(2**dimension)[:num_classes]
    return torch.from_numpy(1 - 2 * _parity(message[:, None] & column).astype(np.int8))


def linear(num_classes: int, bits: int, rng: np.random.Generator, distances: range) -> Tensor | None:
    """Return rows of a linear code with the first of `distances` for which a search finds a code; None if it finds none.

    The code grows by one generator at a time, a random word that is far enough from all words so far. This is the greedy search
    of "max_hamming" with log2(C) steps instead of C, and reaches larger distances.
    """
    for distance in distances:
        attempts = (_linear_words(num_classes, bits, rng, distance) for _ in range(_STARTS))
        words = next((words for words in attempts if words is not None), None)
        if words is not None:
            pairs = rng.permutation(words.shape[1] // 2)[: -(-num_classes // 2)]
            half = signs(words[:, 2 * pairs].T, bits).numpy() > 0
            return _with_opposites(half.astype(np.uint8), num_classes, rng)
    return None


def _linear_words(num_classes: int, bits: int, rng: np.random.Generator, distance: int) -> np.ndarray | None:
    """Return all words of a linear code of at least `num_classes` words, uint64 [W, 2^k]. Word 2i + 1 complements word 2i."""
    from ..kernels.cpu import codebook as kernel

    size = 2 ** max(1, (num_classes - 1).bit_length())
    planes = np.zeros((-(-bits // 64), size), dtype=np.uint64)
    planes[:, 1] = np.uint64(2**64 - 1)
    planes[-1, 1] >>= np.uint64(-bits % 64)
    count = 2
    while count < size:
        found, rejected = count, 0
        while found == count:
            if rejected >= _PATIENCE:
                return None
            candidates = draw(rng, _DRAWS_AT_ONCE, bits)
            if distance % 2 == 0:  # words of even weight have even distances, so that fewer of them are too near
                candidates = candidates[_parity(np.bitwise_xor.reduce(candidates, axis=1)) == 0]
            found, _, misses = kernel.extend_far_codes(candidates, planes[:, : count + 1], count, distance, _PATIENCE)
            rejected += misses
        planes[:, count : 2 * count] = planes[:, :count] ^ planes[:, count : count + 1]
        count *= 2
    return planes


def _with_opposites(half: np.ndarray, num_classes: int, rng: np.random.Generator) -> Tensor:
    """Return C rows of `half` (bits) and of their complements, in random order, as int8 +-1 [C, K]."""
    rows = np.concatenate([half, 1 - half])[:num_classes]
    return torch.from_numpy(2 * rng.permutation(rows).astype(np.int8) - 1)
