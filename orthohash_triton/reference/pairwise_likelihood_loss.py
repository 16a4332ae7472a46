"""Weighted pairwise logistic likelihood of continuous codes, written directly from the formula.

DHN (Zhu et al., AAAI 2016); DPSH (Li et al., IJCAI 2016); HashNet (Cao et al., ICCV 2017), whose equation 2 has the weights.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_likelihood_loss(
    z: Tensor,  # [N, K]
    target: Tensor,  # int64 [N], or [N, C] multi-hot
    bank: Tensor | None = None,  # [M, K]
    bank_target: Tensor | None = None,  # int64 [M], or [M, C] multi-hot
    *,
    alpha: float,
    positive_weight: float | str | None = None,
    similarity: str = "any",
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the loss; see `orthohash_triton.pairwise_likelihood_loss`."""
    if bank is None or bank_target is None:
        bank, bank_target = z, target
    if target.ndim == 1:  # ignored rows may hold any numbers, also NaN
        z, bank = (x.masked_fill((ids == ignore_index)[:, None], 0) for x, ids in ((z, target), (bank, bank_target)))
    # Products of large numbers leave float32, and may cancel each other.
    theta = (alpha * (_or_nan(z).double() @ _or_nan(bank).double().T)).to(z.dtype)  # [N, M]
    overlap = overlap_weight(target, bank_target, similarity, theta.dtype)
    similar = overlap > 0
    kept = torch.ones_like(similar)
    if target.ndim == 1:
        kept = (target != ignore_index)[:, None] & (bank_target != ignore_index)[None, :]

    # log(1 + e^theta) - s theta, without its cancellation where s = 1 and theta is large
    loss = -F.logsigmoid(torch.where(similar, theta, -theta))
    positives, negatives = ((x & kept).sum().to(theta.dtype) for x in (similar, ~similar))
    pairs = positives + negatives
    weight = torch.where(similar, overlap, 1.0)
    total = pairs
    if isinstance(positive_weight, str):  # "balanced"
        weight = weight * pairs / torch.where(similar, positives, negatives)
    elif positive_weight is not None:
        weight = weight * torch.where(similar, positive_weight, 1.0)
        total = positive_weight * positives + negatives
    rows = torch.where(kept, weight * loss, 0.0).sum(1)
    if reduction == "none":
        return rows
    return rows.sum() / total if reduction == "mean" else rows.sum()


def _or_nan(codes: Tensor) -> Tensor:
    """Return codes [N, K] with NaN in all rows that are not finite, because an infinite code would count as a certain one."""
    return codes * torch.where(codes.detach().isfinite().all(1, keepdim=True), 1.0, torch.nan).to(codes.dtype)


def overlap_weight(target: Tensor, bank_target: Tensor, similarity: str, dtype: torch.dtype) -> Tensor:
    """Return the factors c_ij of similar pairs, 0 where two rows share no class.  [N, M]"""
    if target.ndim == 1:
        same = (target[:, None] == bank_target[None, :]).to(dtype)
        return 4 * same if similarity == "squared_cosine" else same
    target, bank_target = (target != 0).to(dtype), (bank_target != 0).to(dtype)
    shared = target @ bank_target.T
    mine, theirs = target.sum(1)[:, None], bank_target.sum(1)[None, :]
    if similarity == "jaccard":
        return shared / (mine + theirs - shared).clamp(min=1)
    if similarity == "squared_cosine":
        return 4 * shared.square() / (mine * theirs).clamp(min=1)
    return (shared > 0).to(dtype)
