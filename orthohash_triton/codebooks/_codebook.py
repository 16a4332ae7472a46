"""make_codebook: one +-1 code per class, the fixed targets of the losses.

A good codebook keeps its rows far apart: half of the smallest distance between two rows is how many bits a code may get
wrong and still be nearest to its own class. No gradient flows into a codebook.
"""

from typing import Any

import torch
from torch import Tensor

from .._base import checks
from ._drawn import bernoulli, hadamard, hadamard_exists, max_hamming
from ._minimum_distance import minimum_distance
from ._semantic import semantic

_MAKERS = {"hadamard": hadamard, "bernoulli": bernoulli, "max_hamming": max_hamming}
_METHODS = ("auto", *_MAKERS, "minimum_distance", "semantic")

# "auto" leaves the quadratic search to codebooks on which it takes seconds.
_AUTO_SEARCH_LIMIT = 10**12

_SYMMETRY_TOLERANCE = 1e-4


def make_codebook(
    num_classes: int,
    bits: int,
    *,
    method: str = "auto",
    seed: int = 0,
    similarity: Tensor | None = None,
    min_distance: int | None = None,
) -> Tensor:
    """A codebook of `num_classes` rows of +-1.

    Methods:

    - `"hadamard"`: the first rows of [H; -H], H the Sylvester matrix of order `bits` (CSQ, Yuan et al. 2020, section 3.2).
      All distances are bits/2 or bits. Needs `bits` a power of two and `num_classes <= 2 * bits`; the same for every `seed`.
    - `"bernoulli"`: independent fair coin flips (OrthoHash, Hoe et al. 2021), with repeated rows drawn again, since two
      classes with one code cannot be told apart.
    - `"max_hamming"`: OrthoHash's greedy search. Random codes are kept when they differ from all rows kept so far in at
      least d bits; d starts at 0.61 of the bits and falls by one after 65,536 rejections. The rows are shuffled at the end,
      because early rows keep more distance than late ones. Time grows with `num_classes` squared: 40,000 classes at 128
      bits take seconds.
    - `"minimum_distance"`: the problem of MDS (Wang et al., CVPR 2023): the largest smallest distance, and the
      largest mean distance beside it. The best of simplex codes, of Kerdock's and Gold's quadratic forms (Hadamard rows among
      them), of linear codes found by search and of "max_hamming" is taken; the paper's coordinate descent by lp-box ADMM improves
      it where its bits are not even, or where `min_distance` asks for more. The papers' target, the smallest d with
      sum_{i<d} binom(K, i) >= 2^K / C, is reached or passed on every size that they report. (They call it guaranteed by
      the Gilbert-Varshamov bound, which guarantees d - 1.)
    - `"semantic"`: SHC (Chen et al., TOIS 2025, stage 2): rows whose cosines follow `similarity`, none of them nearer than
      `min_distance`. From a "minimum_distance" codebook, by the paper's augmented Lagrangian method, then by annealed
      flips of single bits, which lower the error further (the paper stops at the former). Runs where `similarity` is; repeatable
      on a CPU.
    - `"auto"`: `"hadamard"` where it exists; otherwise `"max_hamming"` while num_classes^2 * bits <= 10^12 (100,000 classes
      at 64 bits, 40,000 at 512), a matter of seconds; `"bernoulli"` beyond.

    Args:
        num_classes: C, at least 1.
        bits: K, a positive multiple of 8.
        seed: fixes the draws; torch's and NumPy's global generators are neither read nor advanced.
        similarity: for "semantic", floating [C, C] in [-1, 1], symmetric, diagonal 1, as from `class_similarity`.
        min_distance: for "minimum_distance" and "semantic", the smallest distance between two rows that will do. None takes the
            largest that is found for the former, and the papers' target (or what the former finds, if that is less) for the
            latter, which needs room to bring rows together.

    Returns:
        int8 [C, K] of +-1 on the CPU.

    Raises:
        TypeError: an argument is no integer, or similarity no floating tensor.
        ValueError: an unknown method, bits that are no positive multiple of 8, more classes than there are codes, a Hadamard
            codebook that does not exist, a similarity that is missing, unusable or not asked for, or a min_distance that is not
            reached (the message says which is, and how much no codebook can have).
    """
    op = "make_codebook"
    num_classes = checks.integer(op, "num_classes", num_classes, minimum=1)
    bits = checks.integer(op, "bits", bits, minimum=8)
    seed = checks.integer(op, "seed", seed, minimum=0)
    checks.choice(op, "method", method, _METHODS)
    if bits % 8:
        raise ValueError(f"{op}: bits must be a positive multiple of 8; got {bits}. The next one is {bits + 8 - bits % 8}")
    if bits < 64 and num_classes > 2**bits:
        raise ValueError(f"{op}: {bits} bits have {2**bits} codes, fewer than num_classes={num_classes}. Use more bits")
    if min_distance is not None:
        min_distance = checks.integer(op, "min_distance", min_distance, minimum=1)
        if method not in ("minimum_distance", "semantic"):
            raise ValueError(f'{op}: min_distance is for "minimum_distance" and "semantic" only; got method={method!r}')
    if method == "semantic":
        return semantic(num_classes, bits, seed, _check_similarity(op, similarity, num_classes), min_distance)
    if similarity is not None:
        raise ValueError(f'{op}: similarity is for method="semantic" only; got method={method!r}')
    if method == "minimum_distance":
        return minimum_distance(num_classes, bits, seed, min_distance)
    return _MAKERS[_choose(num_classes, bits) if method == "auto" else method](num_classes, bits, seed)


def _choose(num_classes: int, bits: int) -> str:
    if hadamard_exists(num_classes, bits):
        return "hadamard"
    return "max_hamming" if num_classes**2 * bits <= _AUTO_SEARCH_LIMIT else "bernoulli"


def _check_similarity(op: str, similarity: Any, num_classes: int) -> Tensor:
    if similarity is None:
        raise ValueError(f'{op}: method="semantic" needs similarity [{num_classes}, {num_classes}]. class_similarity makes one')
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    similarity = checks.tensor(op, "similarity", similarity, dtypes=dtypes, ndim=2, shape="[C, C]").detach()
    if similarity.shape != (num_classes, num_classes):
        raise ValueError(
            f"{op}: similarity must have a row and a column per class, [{num_classes}, {num_classes}]; "
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
