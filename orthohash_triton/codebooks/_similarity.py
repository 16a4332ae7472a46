"""How alike classes are, from what a classifier confuses: stage 1 of SHC."""

from typing import Any

import torch
from torch import Tensor

from .._base import checks

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_ENTRIES_AT_ONCE = 2**24  # of the logits: 64 MiB in float32


def class_similarity(logits: Tensor, labels: Tensor, *, mask: str = "prediction", normalise: str = "paper") -> Tensor:
    """Similarity of classes, for `make_codebook(method="semantic")`: stage 1 of SHC (Chen et al., TOIS 2025, arXiv 2507.08404).

    The logit of one class of every sample is masked, the softmax of the others is averaged over the samples of a class, and the
    rows s of averages become (s - mean) / max(|max - mean|, |min - mean|), in [-1, 1]. The diagonal is 1.

    Args:
        logits: of a trained classifier, floating [N, C] with C at least 2, finite, for the samples it was trained on.
        labels: int64 class ids [N], or multi-hot [N, C] of any real dtype. A sample of several classes counts for each of them,
            and all of them are masked, whatever `mask` says (an extension: SHC knows one class a sample). A sample without a
            class, or of every class, counts for none.
        mask: "prediction" masks the class of the largest logit (the paper), "label" the sample's own (the released code).
        normalise: "paper" normalises the rows, then takes (S + S^T)/2; "code" takes (S + S^T)/2, then normalises the rows, which
            leaves S asymmetric: `make_codebook` wants (S + S^T)/2 of it.

    Returns:
        float32 [C, C] on the device of the logits.

    Raises:
        TypeError, ValueError: a wrong dtype, shape, device or option, logits that are not finite, class ids outside [0, C), or
            classes without a sample.
    """
    op = "class_similarity"
    logits = checks.tensor(op, "logits", logits, dtypes=_DTYPES, ndim=2, shape="[N, C]")
    samples, classes = logits.shape
    if classes < 2:
        raise ValueError(f"{op}: logits must have at least two classes; got {checks.describe(logits)}")
    labels = _check_labels(op, labels, logits)
    checks.choice(op, "mask", mask, ("prediction", "label"))
    checks.choice(op, "normalise", normalise, ("paper", "code"))

    total = torch.zeros(classes, classes, dtype=torch.float64, device=logits.device)
    count = torch.zeros(classes, 1, dtype=torch.float64, device=logits.device)
    step = max(1, _ENTRIES_AT_ONCE // classes)
    for start in range(0, samples, step):
        part, own = logits[start : start + step].double(), labels[start : start + step]
        if not part.isfinite().all():
            raise ValueError(f"{op}: logits must be finite; got NaN or infinity among rows {start} to {start + len(part) - 1}")
        if own.ndim == 1:
            masked = (own if mask == "label" else part.argmax(1))[:, None]
            total.index_add_(0, own, torch.softmax(part.scatter(1, masked, -torch.inf), 1))
            count[:, 0] += own.bincount(minlength=classes)
        else:
            member = (own > 0) & ~(own > 0).all(1, keepdim=True)
            total += member.double().T @ torch.softmax(part.masked_fill(member, -torch.inf), 1)
            count[:, 0] += member.sum(0)
    if (count == 0).any():
        missing = (count[:, 0] == 0).nonzero()[:, 0].tolist()
        raise ValueError(
            f"{op}: every class needs a sample; {len(missing)} of {classes} have none, class {missing[0]} first. "
            "Leave those classes out, or add samples of them"
        )
    mean = total / count
    similarity = _symmetric(_centred(mean)) if normalise == "paper" else _centred(_symmetric(mean))
    return similarity.fill_diagonal_(1).float()


def _check_labels(op: str, labels: Any, logits: Tensor) -> Tensor:
    samples, classes = logits.shape
    if not isinstance(labels, Tensor) or labels.is_complex() or (labels.ndim == 1 and labels.dtype != torch.int64):
        raise TypeError(f"{op}: labels must be int64 class ids [N] or multi-hot [N, C]; got {checks.describe(labels)}")
    if labels.shape not in ((samples,), (samples, classes)):
        raise ValueError(f"{op}: labels must be [{samples}] or [{samples}, {classes}]; got {checks.describe(labels)}")
    checks.same_device(op, "labels", labels, "logits", logits)
    if labels.ndim == 1 and samples and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        low, high = int(labels.min()), int(labels.max())
        raise ValueError(f"{op}: labels has class {low if low < 0 else high}; expected ids from 0 to {classes - 1}")
    return labels


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


def _centred(rows: Tensor) -> Tensor:
    """Each row minus its mean, over its largest distance from the mean; a constant row becomes zeros."""
    rows = rows - rows.mean(1, keepdim=True)
    widest = rows.abs().amax(1, keepdim=True)
    return rows / torch.where(widest > 0, widest, 1)
