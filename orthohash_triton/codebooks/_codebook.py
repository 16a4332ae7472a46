"""`make_codebook`: the choice among the methods that construct a codebook.

The rows of a good codebook are far apart: a code with fewer wrong bits than half of the smallest distance between two rows is
still nearest to the row of its class. Codebooks receive no gradient.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .._base import checks
from .._base.quoting import quoted
from ._drawn import bernoulli, hadamard, hadamard_exists, max_hamming
from ._minimum_distance import minimum_distance
from ._semantic import semantic

_MAKERS = {"hadamard": hadamard, "bernoulli": bernoulli, "max_hamming": max_hamming}
Method = Literal["auto", "hadamard", "bernoulli", "max_hamming", "minimum_distance", "semantic"]

# "auto" uses the quadratic search up to this num_classes^2 * bits, for which it takes seconds.
_AUTO_SEARCH_LIMIT = 10**12

_SYMMETRY_TOLERANCE = 1e-4


def make_codebook(
    num_classes: int,
    bits: int,
    *,
    method: Method = "auto",
    seed: int = 0,
    similarity: Tensor | None = None,
    min_distance: int | None = None,
) -> Tensor:
    """Return a codebook: one code of +-1 per class, the fixed targets of the losses.

    Methods:

    - `"hadamard"`: the first rows of [H; -H], H the Sylvester matrix of order `bits` (CSQ, Yuan et al. 2020, section 3.2).
      All distances are bits/2 or bits. Requires `bits` to be a power of two and `num_classes <= 2 * bits`; ignores `seed`.
    - `"bernoulli"`: independent fair coin flips (OrthoHash, Hoe et al. 2021). Repeated rows are drawn again, because two
      classes with the same code cannot be distinguished.
    - `"max_hamming"`: the greedy search of OrthoHash. A random code is accepted if it differs from all accepted rows in at
      least d bits; d starts at 0.61 of the bits and decreases by one after 65,536 rejections. The rows are shuffled at the
      end, because early rows are farther apart than late ones. The time grows with the square of `num_classes`: 40,000
      classes with 128 bits take seconds.
    - `"minimum_distance"`: the problem of MDS (Wang et al., CVPR 2023): maximise the smallest distance, and then the mean
      distance. The result is the best of simplex codes, Kerdock and Gold codes (which include Hadamard rows), linear codes
      found by search, and "max_hamming". The coordinate descent of the paper by lp-box ADMM improves it if its bits are not
      balanced, or if `min_distance` requires more. The result reaches the target of the paper, the smallest d with
      sum_{i<d} binom(K, i) >= 2^K / C, for every size in the paper. (The paper states that the Gilbert-Varshamov bound
      guarantees d; it guarantees d - 1.)
    - `"semantic"`: SHC (Chen et al., TOIS 2025, stage 2): rows whose cosines approximate `similarity`, with distances of at
      least `min_distance`. It starts from a "minimum_distance" codebook, applies the augmented Lagrangian method of the
      paper, and then annealed flips of single bits, which reduce the error further than the paper. It runs on the device of
      `similarity`, and is repeatable on a CPU.
    - `"auto"`: `"hadamard"` if it exists; otherwise `"max_hamming"` while num_classes^2 * bits <= 10^12 (100,000 classes
      with 64 bits, 40,000 with 512), which takes seconds; otherwise `"bernoulli"`.

    Args:
        num_classes: C, at least 1.
        bits: K, a positive multiple of 8.
        method: see above.
        seed: seed of the random numbers. The global generators of torch and NumPy are neither read nor advanced.
        similarity: for "semantic", floating [C, C] in [-1, 1], symmetric with a diagonal of 1, as from `class_similarity`.
        min_distance: for "minimum_distance" and "semantic", the required distance between two rows. None means the largest
            distance that is found for "minimum_distance". For "semantic", which needs room to move rows closer, None means the
            target of the paper, or the distance that "minimum_distance" finds if that is smaller.

    Returns:
        int8 [C, K] of +-1 on the CPU.

    Raises:
        TypeError: a number is not an integer, or `similarity` is not a floating-point tensor.
        ValueError: the method is unknown, `bits` is not a positive multiple of 8, there are more classes than codes, the Hadamard
            codebook does not exist, `similarity` is missing, invalid or not used by the method, or `min_distance` is not reached
            (the message says which distance was reached and which is impossible).

    Example:
        >>> import orthohash_triton as oht
        >>> codebook = oht.make_codebook(10, 16)
        >>> codebook.shape, codebook.dtype, oht.codebook_min_distance(codebook)
        (torch.Size([10, 16]), torch.int8, 8)
        >>> oht.codebook_min_distance(oht.make_codebook(100, 64, method="max_hamming", seed=1)) > 20
        True
    """
    op = "make_codebook"
    num_classes = checks.integer(op, "num_classes", num_classes, minimum=1)
    bits = checks.integer(op, "bits", bits, minimum=8)
    seed = checks.integer(op, "seed", seed, minimum=0)
    checks.choice(op, "method", method, get_args(Method))
    if bits % 8:
        raise ValueError(f"{op}: bits must be a positive multiple of 8; got {bits}. The next one is {bits + 8 - bits % 8}")
    if bits < 64 and num_classes > 2**bits:
        raise ValueError(f"{op}: {bits} bits have {2**bits} codes, fewer than num_classes={num_classes}. Use more bits")
    if min_distance is not None:
        min_distance = checks.integer(op, "min_distance", min_distance, minimum=1)
        if method not in ("minimum_distance", "semantic"):
            raise ValueError(f'{op}: min_distance applies to "minimum_distance" and "semantic" only; got method={quoted(method)}')
    if method == "semantic":
        return semantic(num_classes, bits, seed, _check_similarity(op, similarity, num_classes), min_distance)
    if similarity is not None:
        raise ValueError(f'{op}: similarity applies to method="semantic" only; got method={quoted(method)}')
    if method == "minimum_distance":
        return minimum_distance(num_classes, bits, seed, min_distance)
    return _MAKERS[_choose(num_classes, bits) if method == "auto" else method](num_classes, bits, seed)


def _choose(num_classes: int, bits: int) -> str:
    if hadamard_exists(num_classes, bits):
        return "hadamard"
    return "max_hamming" if num_classes**2 * bits <= _AUTO_SEARCH_LIMIT else "bernoulli"


def _check_similarity(op: str, similarity: Any, num_classes: int) -> Tensor:
    """Return `similarity` as float32 after checking its shape, range, symmetry and diagonal."""
    if similarity is None:
        raise ValueError(f'{op}: method="semantic" needs similarity [{num_classes}, {num_classes}]; see class_similarity')
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    similarity = checks.tensor(op, "similarity", similarity, dtypes=dtypes, ndim=2, shape="[C, C]").detach()
    if similarity.shape != (num_classes, num_classes):
        raise ValueError(
            f"{op}: similarity must have one row and one column per class, [{num_classes}, {num_classes}]; "
            f"got {checks.describe(similarity)}"
        )
    similarity = similarity.float()
    if not similarity.isfinite().all():
        raise ValueError(f"{op}: similarity must be finite; it holds NaN or infinity")
    if (largest := float(similarity.abs().max())) > 1 + _SYMMETRY_TOLERANCE:
        raise ValueError(f"{op}: similarity must be between -1 and 1, like a cosine; got {largest:.4g} in absolute value")
    if (gap := float((similarity - similarity.T).abs().max())) > _SYMMETRY_TOLERANCE:
        raise ValueError(
            f"{op}: similarity must be symmetric; entries differ from their mirror images by {gap:.4g}. Take (s + s.T) / 2"
        )
    if (gap := float((similarity.diagonal() - 1).abs().max())) > _SYMMETRY_TOLERANCE:
        raise ValueError(f"{op}: similarity must have a diagonal of 1; it is off by {gap:.4g}. Use similarity.fill_diagonal_(1)")
    return similarity
