"""Binary cross entropy of tanh codes to the centre of their class."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._base import checks
from .._base.modes import without_autocast
from . import _plain
from .quantization_loss import KINDS, Kind, row_penalty


def central_similarity_loss(
    u: Tensor,
    target: Tensor,
    codebook: Tensor,
    *,
    centre_weight: float = 1.0,
    quantization_weight: float = 1e-4,
    quantization: Kind = "log_cosh",
    seed: int = 0,
    ignore_index: int = -100,
    reduction: _plain.Reduction = "mean",
) -> Tensor:
    """Return `centre_weight * BCE((y + 1)/2, (c + 1)/2) + quantization_weight * Q(y)`, with y = tanh(u) and c the row's centre.

    CSQ (Yuan et al., CVPR 2020, arXiv 1908.00347); stage 3 of SHC (Chen et al., TOIS 2025, arXiv 2507.08404). As
    (tanh(u) + 1)/2 is the sigmoid of 2u, the cross entropy of a bit is softplus(-2 c u). This is exact where tanh saturates,
    while the released codes clamp a logarithm there.

    The centre of a row with several classes is the majority vote of their centres. Bits with as many votes for +1 as for -1 come
    from one random vector, which is the same for all rows (the released code draws it once per run).

    Args:
        u: latents before tanh, float32, float16, bfloat16 or float64 [N, K].
        target: int64 class ids [N], or multi-hot [N, C] of any real dtype (entries above 0 are classes of the row).
        codebook: int8 +-1 [C, K], one centre per class, as from `make_codebook`.
        centre_weight: weight of the cross entropy (lambda_0 of the released code).
        quantization_weight: weight of Q (lambda_2; CSQ uses 0.05 for ResNet-50 and 1e-3 to 1e-4 for AlexNet, SHC 1e-4). The
            weight lambda_1 of a pairwise term is 0 in all runs of CSQ; add `pairwise_likelihood_loss` for such a term.
        quantization: Q, a kind of `quantization_loss`: "log_cosh" as in the paper of CSQ, "l2" as in its released code and SHC,
            "l1" or "cosine".
        seed: determines the random vector that decides ties of votes.
        ignore_index: rows with this class id, and rows of a [N, C] target without a class, have loss 0 and gradient 0 and do not
            count in the mean.
        reduction: "none" | "mean" (over labelled rows; NaN if there are none, as in torch) | "sum" (over the rows).

    Returns:
        The loss, a mean over the bits, in float32 (float64 for float64): a scalar, or [N] for reduction="none". NaN or infinity
        in u makes loss and gradient of its row NaN.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device, option, class id or codebook. On a GPU, where reading values
            would stall the stream, a class id outside [0, C) makes the loss of its row NaN instead.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> codebook = torch.tensor([[1, 1], [-1, 1]], dtype=torch.int8)
        >>> u = torch.tensor([[9.0, 9.0], [9.0, 9.0]])  # two rows close to the centre of class 0
        >>> oht.central_similarity_loss(u, torch.tensor([0, 1]), codebook, quantization_weight=0.0, reduction="none")
        tensor([1.5230e-08, 9.0000e+00])
    """
    op = "central_similarity_loss"
    options = check_options(
        op, centre_weight=centre_weight, quantization_weight=quantization_weight, quantization=quantization, seed=seed,
        ignore_index=ignore_index, reduction=reduction,
    )  # fmt: skip
    centre_weight, quantization_weight, quantization, seed, ignore_index, reduction = options.values()
    u, target, codebook = _plain.labels(op, "u", u, target, codebook, ignore_index)

    labelled = _plain.labelled_rows(target, ignore_index)
    u = _plain.or_nan(torch.where(labelled[:, None], _plain.widened(u), 0))
    with without_autocast(u):
        centre = _centres(u, target, codebook, ignore_index, seed)
        loss = centre_weight * F.softplus(-2 * centre * u).mean(1)
        if quantization_weight:
            loss = loss + quantization_weight * row_penalty(torch.tanh(u), quantization)
    loss = torch.where(labelled, loss, 0)
    return _plain.reduce(loss, labelled, reduction)


def check_options(
    op: str,
    *,
    centre_weight: float,
    quantization_weight: float,
    quantization: Kind,
    seed: int,
    ignore_index: int,
    reduction: _plain.Reduction,
) -> dict[str, Any]:
    """Check the options, and return them by name, with numbers of NumPy and PyTorch as those of Python.

    Raises TypeError or ValueError for an invalid value.
    """
    checks.choice(op, "quantization", quantization, KINDS)
    checks.choice(op, "reduction", reduction, _plain.REDUCTIONS)
    return dict(
        centre_weight=checks.factor(op, "centre_weight", centre_weight, zero=True),
        quantization_weight=checks.factor(op, "quantization_weight", quantization_weight, zero=True),
        quantization=quantization,
        seed=checks.integer(op, "seed", seed, minimum=0),
        ignore_index=checks.class_id(op, "ignore_index", ignore_index),
        reduction=reduction,
    )


def _centres(u: Tensor, target: Tensor, codebook: Tensor, ignore_index: int, seed: int) -> Tensor:
    """Return the centre of every row, +-1 in the dtype of u [N, K]; NaN for an invalid class id."""
    if target.ndim == 1:
        classes = len(codebook)
        centre = codebook[target.clamp(0, classes - 1)].to(u.dtype)
        return centre.masked_fill(_plain.unknown_class(target, classes, ignore_index)[:, None], float("nan"))
    votes = (target > 0).to(u.dtype) @ codebook.to(u.dtype)
    return torch.where(votes == 0, tie_breaker(codebook.shape[1], seed, u.device).to(u.dtype), votes.sign())


def tie_breaker(bits: int, seed: int, device: torch.device) -> Tensor:
    """Return a random vector of +-1, int64 [K]: a hash of (seed, bit) computed on the device, without a copy from the host."""
    bit = torch.arange(bits, device=device)
    value = (bit * 0x9E3779B1 + 0x85EBCA6B * (seed + 1) % 2**32) % 2**32
    for _ in range(2):
        value = ((value ^ (value >> 16)) * 0x45D9F3B) % 2**32
    return 1 - 2 * ((value >> 16) % 2)
