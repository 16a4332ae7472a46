"""Codebooks: one +-1 code per class, the fixed targets of the losses.

A good codebook keeps its rows far apart: half of the smallest distance between two rows is how many bits a code may get
wrong and still be nearest to its own class. No method looks at data, and no gradient flows into a codebook.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .ops import _checks
from .ops._arrays import as_tensor

_METHODS = ("auto", "hadamard", "bernoulli", "max_hamming")

# Codes this short are drawn without replacement, as permutations of all 2^bits of them.
_ENUMERABLE_BITS = 16

# "max_hamming": OrthoHash starts at 0.61 of the bits. Its reference code lowers the threshold by 0.01 of the bits after
# every 10,000 rejections; at the speed of packed codes more patience costs nothing and finds better codebooks.
_FIRST_THRESHOLD = 0.61
_PATIENCE = 65_536
_DRAWS_AT_ONCE = 4_096

# "auto" leaves the quadratic search to codebooks on which it takes seconds.
_AUTO_SEARCH_LIMIT = 10**12


def make_codebook(num_classes: int, bits: int, *, method: str = "auto", seed: int = 0) -> Tensor:
    """A codebook of `num_classes` rows of +-1.

    Methods:

    - `"hadamard"`: the first rows of [H; -H], H the Sylvester matrix of order `bits` (CSQ, Yuan et al. 2020, section 3.2).
      All distances are bits/2 or bits, the best there is. Needs `bits` a power of two and `num_classes <= 2 * bits`;
      the same for every `seed`.
    - `"bernoulli"`: independent fair coin flips (OrthoHash, Hoe et al. 2021), with repeated rows drawn again, since two
      classes with one code cannot be told apart.
    - `"max_hamming"`: OrthoHash's greedy search. Random codes are kept when they differ from all rows kept so far in at
      least d bits; d starts at 0.61 of the bits and falls by one after 65,536 rejections. The rows are shuffled at the end,
      because early rows keep more distance than late ones. Time grows with `num_classes` squared: 40,000 classes at 128
      bits take seconds.
    - `"auto"`: `"hadamard"` where it exists; otherwise `"max_hamming"` while num_classes^2 * bits <= 10^12 (100,000 classes
      at 64 bits, 40,000 at 512), a matter of seconds; `"bernoulli"` beyond.

    Args:
        num_classes: C, at least 1.
        bits: K, a positive multiple of 8.
        seed: fixes the draws; torch's and NumPy's global generators are neither read nor advanced.

    Returns:
        int8 [C, K] of +-1 on the CPU.

    Raises:
        TypeError: an argument is no integer.
        ValueError: an unknown method, bits that are no positive multiple of 8, more classes than there are codes, or a
            Hadamard codebook that does not exist.
    """
    op = "make_codebook"
    num_classes = _checks.integer(op, "num_classes", num_classes, minimum=1)
    bits = _checks.integer(op, "bits", bits, minimum=8)
    seed = _checks.integer(op, "seed", seed, minimum=0)
    _checks.choice(op, "method", method, _METHODS)
    if bits % 8:
        raise ValueError(f"{op}: bits must be a positive multiple of 8; got {bits}. The next one is {bits + 8 - bits % 8}")
    if bits < 64 and num_classes > 2**bits:
        raise ValueError(f"{op}: {bits} bits have {2**bits} codes, fewer than num_classes={num_classes}. Use more bits")
    if method == "auto":
        method = _choose(num_classes, bits)
    return _MAKERS[method](num_classes, bits, seed)


def codebook_min_distance(codebook: Tensor | np.ndarray) -> int:
    """Smallest Hamming distance between two rows of a codebook, exactly.

    Args:
        codebook: [C, K] of +-1, C at least 2, any numeric dtype, torch (any device) or numpy.

    Returns:
        Bits in which the two nearest rows differ; 0 means that two classes share a code. No [C, C] matrix is formed.

    Raises:
        TypeError: not a numeric tensor or array.
        ValueError: not two-dimensional, fewer than two rows, or values other than +-1.
    """
    from .kernels.cpu import codebook as kernel

    op = "codebook_min_distance"
    dtypes = (torch.int8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64, torch.float16, torch.bfloat16)
    rows = _checks.tensor(op, "codebook", as_tensor(codebook), dtypes=dtypes, ndim=2, shape="[C, K] of +-1")
    if rows.shape[0] < 2 or rows.shape[1] == 0:
        raise ValueError(f"{op}: codebook must have at least two rows and one bit; got {_checks.describe(rows)}")
    if not ((rows == 1) | (rows == -1)).all():
        raise ValueError(f"{op}: codebook must hold only +1 and -1; got other values in {_checks.describe(rows)}")
    packed = np.packbits((rows > 0).cpu().numpy(), axis=1, bitorder="little")
    return kernel.min_distance(packed)


def _choose(num_classes: int, bits: int) -> str:
    if _hadamard_exists(num_classes, bits):
        return "hadamard"
    return "max_hamming" if num_classes**2 * bits <= _AUTO_SEARCH_LIMIT else "bernoulli"


def _hadamard_exists(num_classes: int, bits: int) -> bool:
    return bits & (bits - 1) == 0 and num_classes <= 2 * bits


def _hadamard(num_classes: int, bits: int, seed: int) -> Tensor:
    if not _hadamard_exists(num_classes, bits):
        raise ValueError(
            'make_codebook: method="hadamard" needs bits to be a power of two and num_classes at most 2 * bits; '
            f'got bits={bits} and num_classes={num_classes}. Use method="max_hamming" or "auto"'
        )
    rows = torch.ones(1, 1, dtype=torch.int8)
    while len(rows) < bits:
        rows = torch.cat([torch.cat([rows, rows], dim=1), torch.cat([rows, -rows], dim=1)])
    return torch.cat([rows, -rows])[:num_classes].clone()


def _bernoulli(num_classes: int, bits: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    words = _draw(rng, num_classes, bits)[:num_classes]
    while (repeated := _repeated_rows(words)).any():
        words[repeated] = _draw(rng, int(repeated.sum()), bits)
    return _signs(words, bits)


def _repeated_rows(words: np.ndarray) -> np.ndarray:
    """Which rows equal an earlier row, bool [C]."""
    repeated = np.ones(len(words), dtype=bool)
    repeated[np.unique(words, axis=0, return_index=True)[1]] = False
    return repeated


def _max_hamming(num_classes: int, bits: int, seed: int) -> Tensor:
    from .kernels.cpu import codebook as kernel

    rng = np.random.default_rng(seed)
    planes = np.empty((-(-bits // 64), num_classes), dtype=np.uint64)
    candidates = _draw(rng, _DRAWS_AT_ONCE, bits)
    count, rejected = 0, 0
    distance = int(np.ceil(_FIRST_THRESHOLD * bits))
    while count < num_classes:
        if len(candidates) == 0:
            candidates = _draw(rng, _DRAWS_AT_ONCE, bits)
        count, tried, misses = kernel.extend_far_codes(candidates, planes, count, distance, _PATIENCE - rejected)
        candidates = candidates[tried:]
        rejected += misses
        if rejected == _PATIENCE:
            distance, rejected = max(1, distance - 1), 0
    return _signs(rng.permutation(planes.T), bits)


def _draw(rng: np.random.Generator, count: int, bits: int) -> np.ndarray:
    """At least `count` random codes as 64-bit words, uint64 [M, ceil(bits/64)]; short codes come as all there are, shuffled."""
    if bits <= _ENUMERABLE_BITS:
        return rng.permutation(2**bits).astype(np.uint64)[:, None]
    words = rng.integers(0, 2**64, size=(count, -(-bits // 64)), dtype=np.uint64)
    words[:, -1] >>= np.uint64(-bits % 64)
    return words


def _signs(words: np.ndarray, bits: int) -> Tensor:
    """int8 +-1 [C, bits] of codes in 64-bit words; bit j of word i is dimension 64i + j."""
    octets = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)
    ones = np.unpackbits(octets, axis=1, count=bits, bitorder="little")
    return torch.from_numpy(2 * ones.astype(np.int8) - 1)


_MAKERS: dict[str, Callable[[int, int, int], Tensor]] = {
    "hadamard": _hadamard,
    "bernoulli": _bernoulli,
    "max_hamming": _max_hamming,
}
