"""Similarity of classes from the confusions of a classifier: stage 1 of SHC."""

from typing import Any, Literal

import torch
from torch import Tensor

from .._base import checks
from .._base.labels import flatten_column

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_ENTRIES_AT_ONCE = 2**24  # logits per block, 128 MiB in float64


def class_similarity(
    logits: Tensor,
    labels: Tensor,
    *,
    mask: Literal["prediction", "label"] = "prediction",
    normalise: Literal["paper", "code"] = "paper",
) -> Tensor:
    """Return similarities of classes in [-1, 1], for `make_codebook(method="semantic")`.

    This is stage 1 of SHC (Chen et al., TOIS 2025, arXiv 2507.08404). The logit of one class of every sample is masked, and the
    softmax of the others is averaged over the samples of each class. Each row s of averages becomes
    (s - mean) / max(|max - mean|, |min - mean|). The diagonal is 1.

    Args:
        logits: finite logits of a trained classifier for its training samples, floating [N, C] with C at least 2.
        labels: int64 class ids [N], or multi-hot labels [N, C] of any real dtype. A sample of several classes counts for each of
            them, and all of them are masked, independent of `mask`; this extends SHC to several labels. Samples of no class or of
            all classes are ignored.
        mask: "prediction" masks the class of the largest logit (the paper), "label" the class of the sample (the released code).
        normalise: "paper" normalises the rows, then computes (S + S^T)/2. "code" computes (S + S^T)/2, then normalises the rows;
            the result is asymmetric, and `make_codebook` requires (S + S^T)/2 of it.

    Returns:
        float32 [C, C] on the device of `logits`.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a wrong shape, device or option, logits that are not finite, class ids outside [0, C), or a class without
            samples.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> logits = torch.tensor([[9.0, 5, 0], [4, 8, 0], [1, 1, 7]])  # classes 0 and 1 are often confused
        >>> similarity = oht.class_similarity(logits, torch.tensor([0, 1, 2]))
        >>> similarity.shape, bool(similarity[0, 1] > similarity[0, 2])
        (torch.Size([3, 3]), True)
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
            f"{op}: every class needs a sample; {len(missing)} of {classes} classes have none, the first is class {missing[0]}. "
            "Remove these classes, or add samples of them"
        )
    mean = total / count
    similarity = _symmetric(_centred(mean)) if normalise == "paper" else _centred(_symmetric(mean))
    return similarity.fill_diagonal_(1).float()


def _check_labels(op: str, labels: Any, logits: Tensor) -> Tensor:
    """Return `labels` after checking their dtype, shape, device and values."""
    samples, classes = logits.shape
    labels = flatten_column(op, "labels", labels) if isinstance(labels, Tensor) else labels
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
    """Return each row minus its mean, divided by its largest deviation; zeros for a constant row."""
    rows = rows - rows.mean(1, keepdim=True)
    widest = rows.abs().amax(1, keepdim=True)
    return rows / torch.where(widest > 0, widest, 1)
