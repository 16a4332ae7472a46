"""Codebooks from random codes, and Hadamard codebooks by Sylvester's construction."""

import numpy as np
import torch
from torch import Tensor

# Codes of up to this length are drawn without replacement, as permutations of all 2^bits codes.
_ENUMERABLE_BITS = 16

# "max_hamming": OrthoHash starts with 0.61 of the bits. Its released code reduces the distance by 0.01 of the bits after every
# 10,000 rejections. With packed codes more rejections cost little, and find better codebooks.
_FIRST_THRESHOLD = 0.61
_PATIENCE = 65_536
_DRAWS_AT_ONCE = 4_096


def hadamard_exists(num_classes: int, bits: int) -> bool:
    """Return whether a Hadamard codebook of this size exists."""
    return bits & (bits - 1) == 0 and num_classes <= 2 * bits


def hadamard(num_classes: int, bits: int, seed: int) -> Tensor:
    """Return the first rows of [H; -H], where H is the Hadamard matrix of order `bits`; `seed` is ignored."""
    if not hadamard_exists(num_classes, bits):
        raise ValueError(
            'make_codebook: method="hadamard" needs bits to be a power of two and num_classes at most 2 * bits; '
            f'got bits={bits} and num_classes={num_classes}. Use method="max_hamming" or "auto"'
        )
    rows = torch.ones(1, 1, dtype=torch.int8, device="cpu")
    while len(rows) < bits:
        rows = torch.cat([torch.cat([rows, rows], dim=1), torch.cat([rows, -rows], dim=1)])
    return torch.cat([rows, -rows])[:num_classes].clone()


def bernoulli(num_classes: int, bits: int, seed: int) -> Tensor:
    """Return distinct rows of independent fair coin flips."""
    rng = np.random.default_rng(seed)
    words = draw(rng, num_classes, bits)[:num_classes]
    while (repeated := _repeated_rows(words)).any():
        words[repeated] = draw(rng, int(repeated.sum()), bits)
    return signs(words, bits)


def _repeated_rows(words: np.ndarray) -> np.ndarray:
    """Return which rows equal an earlier row, bool [C]."""
    repeated = np.ones(len(words), dtype=bool)
    repeated[np.unique(words, axis=0, return_index=True)[1]] = False
    return repeated


def max_hamming(num_classes: int, bits: int, seed: int) -> Tensor:
    """Return random rows that a greedy search has kept far apart, in random order."""
    from ..kernels.cpu import codebook as kernel

    rng = np.random.default_rng(seed)
    planes = np.empty((-(-bits // 64), num_classes), dtype=np.uint64)
    candidates = draw(rng, _DRAWS_AT_ONCE, bits)
    count, rejected = 0, 0
    distance = int(np.ceil(_FIRST_THRESHOLD * bits))
    while count < num_classes:
        if len(candidates) == 0:
            candidates = draw(rng, _DRAWS_AT_ONCE, bits)
        count, tried, misses = kernel.extend_far_codes(candidates, planes, count, distance, _PATIENCE - rejected)
        candidates = candidates[tried:]
        rejected += misses
        if rejected == _PATIENCE:
            distance, rejected = max(1, distance - 1), 0
    return signs(rng.permutation(planes.T), bits)


def draw(rng: np.random.Generator, count: int, bits: int) -> np.ndarray:
    """Return at least `count` random codes as 64-bit words, uint64 [M, ceil(bits/64)]; for few bits all codes, shuffled."""
    if bits <= _ENUMERABLE_BITS:
        return rng.permutation(2**bits).astype(np.uint64)[:, None]
    words = rng.integers(0, 2**64, size=(count, -(-bits // 64)), dtype=np.uint64)
    words[:, -1] >>= np.uint64(-bits % 64)
    return words


def signs(words: np.ndarray, bits: int) -> Tensor:
    """Return codes in 64-bit words as int8 +-1 [C, bits]. Bit j of word i is dimension 64i + j."""
    octets = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    ones = np.unpackbits(octets, axis=1, count=bits, bitorder="little")
    return torch.from_numpy(2 * ones.astype(np.int8) - 1)
