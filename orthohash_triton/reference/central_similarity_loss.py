"""Binary cross entropy of tanh codes to the centre of their class, written directly from the formula.

CSQ (Yuan et al., CVPR 2020); SHC (Chen et al., TOIS 2025) uses the same loss.
"""

import torch
from torch import Tensor

from .quantization_loss import quantization_loss


def central_similarity_loss(
    u: Tensor,  # [N, K]
    target: Tensor,  # int64 [N], or multi-hot [N, C]
    codebook: Tensor,  # +-1 [C, K]
    ties: Tensor,  # +-1 [K], the bits of centres on which the classes of a row are evenly split
    *,
    centre_weight: float = 1.0,
    quantization_weight: float = 1e-4,
    quantization: str = "log_cosh",
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the loss; see `orthohash_triton.central_similarity_loss`."""
    centres = codebook.to(u.dtype)
    if target.ndim == 1:
        labelled = target != ignore_index
        centre = centres[torch.where(labelled, target, 0)]  # [N, K]
    else:
        labelled = (target > 0).any(1)
        votes = (target > 0).to(u.dtype) @ centres
        centre = torch.where(votes == 0, ties.to(u.dtype), votes.sign())
    y = torch.tanh(u)
    h, c = (y + 1) / 2, (centre + 1) / 2
    loss = -centre_weight * (c * h.log() + (1 - c) * (1 - h).log()).mean(1)
    loss = loss + quantization_weight * quantization_loss(y, quantization, reduction="none")
    loss = torch.where(labelled, loss, 0.0)
    return loss if reduction == "none" else loss.sum() / labelled.sum() if reduction == "mean" else loss.sum()
