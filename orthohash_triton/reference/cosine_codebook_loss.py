"""Cross entropy of cosine logits against a fixed +-1 codebook, written directly from the formula.

OrthoHash (Hoe et al., NeurIPS 2021, arXiv 2109.14449), equation 7 and algorithm 1 of the supplement.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SINE_FLOOR = 1e-6  # smallest sin^2(theta); below it the angular margin uses 0 for the derivative of sin(theta)


def cosine_codebook_loss(
    v: Tensor,  # [N, K]
    target: Tensor,  # int64 [N], or [N, C] multi-hot / soft, dense or sparse
    codebook: Tensor,  # +-1 [C, K]
    *,
    scale: float | None = None,
    margin: float = 0.2,
    margin_type: str = "cosine",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the loss, or (loss, log-sum-exp); see `orthohash_triton.cosine_codebook_loss`."""
    target = target if target.layout == torch.strided else target.to_dense()
    bits = v.shape[1]
    scale = math.sqrt(bits) if scale is None else scale
    cosine = _unit(v) @ codebook.to(v.dtype).T / math.sqrt(bits)  # [N, C]
    if target.ndim == 1:
        labelled = target != ignore_index
        column = torch.where(labelled, target, 0)[:, None]  # [N, 1]
        positive = cosine.gather(1, column)
        moved = torch.where(labelled[:, None], with_margin(positive, margin, margin_type), positive)
        logits = scale * cosine.scatter(1, column, moved)
        loss = F.cross_entropy(logits, target, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none")
    else:
        total = target.sum(1, keepdim=True)  # [N, 1]
        labelled = total[:, 0] > 0
        logits = scale * torch.where(target > 0, with_margin(cosine, margin, margin_type), cosine)
        q = (target / torch.where(total > 0, total, 1)).to(logits.dtype)
        loss = F.cross_entropy(logits, q, label_smoothing=label_smoothing, reduction="none")
        loss = torch.where(labelled, loss, 0.0)
    if reduction == "sum":
        loss = loss.sum()
    if reduction == "mean":
        loss = loss.sum() / labelled.sum()
    return (loss, logits.logsumexp(1)) if return_lse else loss


def with_margin(cosine: Tensor, margin: float, margin_type: str) -> Tensor:
    """Return the cosine of a positive class after its margin: cos(theta) - m, or cos(theta + m), with a line past pi."""
    if margin_type == "cosine":
        return cosine - margin
    sine = (1 - cosine.square()).clamp(min=SINE_FLOOR).sqrt()
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    past_pi = cosine < math.cos(math.pi - margin)
    return torch.where(past_pi, cosine - margin * math.sin(math.pi - margin), moved)


def _unit(v: Tensor) -> Tensor:
    """Return v / |v|; a zero row stays zero and gets no gradient, and a row that is not finite becomes NaN."""
    largest = v.detach().abs().amax(1, keepdim=True)
    v = v / torch.where(largest == 0, 1, largest)  # so that squares stay within the dtype
    square = v.square().sum(1, keepdim=True)
    norm = torch.where(square == 0, 1, square).sqrt()
    return torch.where(square == 0, 0, v / norm)
