"""Softmax cross entropy over the cosines to the codes of a fixed codebook, without storing the logits."""

from typing import Literal, overload

from torch import Tensor

from . import _codebook_loss
from ._codebook_loss import MarginType, Precision, Reduction, check_codebook, check_options
from .dispatch import ImplChoice

__all__ = ["ImplChoice", "MarginType", "Precision", "Reduction", "check_codebook", "check_options", "cosine_codebook_loss"]


@overload
def cosine_codebook_loss(
    v: Tensor,
    target: Tensor | tuple[Tensor, Tensor, Tensor],
    codebook: Tensor,
    *,
    scale: float | None = ...,
    margin: float = ...,
    margin_type: MarginType = ...,
    label_smoothing: float = ...,
    ignore_index: int = ...,
    reduction: Reduction = ...,
    precision: Precision | None = ...,
    impl: ImplChoice = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...
@overload
def cosine_codebook_loss(
    v: Tensor,
    target: Tensor | tuple[Tensor, Tensor, Tensor],
    codebook: Tensor,
    *,
    scale: float | None = ...,
    margin: float = ...,
    margin_type: MarginType = ...,
    label_smoothing: float = ...,
    ignore_index: int = ...,
    reduction: Reduction = ...,
    precision: Precision | None = ...,
    impl: ImplChoice = ...,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def cosine_codebook_loss(
    v: Tensor,
    target: Tensor | tuple[Tensor, Tensor, Tensor],
    codebook: Tensor,
    *,
    scale: float | None = None,
    margin: float = 0.2,
    margin_type: MarginType = "cosine",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    precision: Precision | None = None,
    impl: ImplChoice = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the softmax cross entropy over `z_c = scale * cos(v, o_c)`, with a margin on the positive classes.

    OrthoHash (Hoe et al., NeurIPS 2021, arXiv 2109.14449), section 3.3 and algorithm 1 of its supplement.

    Args:
        v: continuous codes, float32, float16, bfloat16 (float64 on a CPU) [N, K]. The function normalises them to length one.
        target: int64 class ids [N]; or multi-hot or soft labels [N, C] of any real dtype, which are divided by their row sums. A
            [N, C] target may be sparse: `torch.sparse_csr` with ascending columns in every row, coalesced `torch.sparse_coo`, or
            the tuple (crow_indices, col_indices, values), which torch.compile accepts where it does not accept sparse tensors.
            A target gets no gradient.
        codebook: int8 +-1 [C, K], one code per class, as from `make_codebook`. It gets no gradient.
        scale: factor of the cosine, between 1e-30 and 1e6, so that logits neither vanish nor overflow. None is sqrt(K), as in the
            paper; its released code uses 8 for every K.
        margin: in [0, 2]; subtracted from the cosine of every positive class, or added to its angle in radians.
        margin_type: "cosine" (cos(theta) - margin) or "angular" (cos(theta + margin), continued by a straight line where
            theta + margin exceeds pi).
        label_smoothing: in [0, 1): this part of the target is distributed evenly over all classes.
        ignore_index: rows with this class id have loss 0 and gradient 0 and do not count in the mean. The same holds for rows of
            a [N, C] target that sum to 0.
        reduction: "none" | "mean" (over labelled rows; NaN if there are none, as in torch) | "sum".
        precision: of the matrix products on a GPU: "highest" (two fp16 numbers for a float32), "high" (one fp16 number for a
            probability: errors of 1e-4), or None to follow `torch.get_float32_matmul_precision()`.
        impl: "auto" | "triton" | "cpu" | "reference".
        return_lse: also return the log-sum-exp of every row [N]. It is differentiable, for instance for a z-loss.

    Returns:
        The loss, float32 whatever the dtype of v (float64 for float64): a scalar, or [N] for reduction="none". With return_lse
        a pair (loss, lse). Rows of any finite length are normalised without overflow. The loss of a zero row is that of all-zero
        cosines, and it gets no gradient; an entry of v that is NaN or infinite makes loss and gradient of its row NaN. There is
        no second derivative except with impl="reference".

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device, option, class id or codebook. On a GPU, where reading values
            would stall the stream, a class id outside [0, C) makes the loss of its row NaN instead
            (ORTHOHASH_VALIDATE=1 turns the check on), and a negative weight in a [N, C] target is not detected.

    Memory does not grow with N * C. On a GPU nothing is read back, and launches depend on shapes and options only, not on values,
    so a step can be captured in a CUDA graph. The first call with a codebook packs it: make that call before the capture, as for
    any warm-up.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> codebook = oht.make_codebook(num_classes=10, bits=16, seed=0)
        >>> v = codebook[:3].float()  # rows on the codes of the classes 0, 1 and 2
        >>> oht.cosine_codebook_loss(v, torch.tensor([0, 1, 2]), codebook, margin=0.0).item() < 0.5
        True
        >>> oht.cosine_codebook_loss(v, torch.tensor([3, 4, 5]), codebook, margin=0.0).item() > 3.0
        True
        >>> loss, lse = oht.cosine_codebook_loss(v, torch.tensor([0, 1, 2]), codebook, reduction="none", return_lse=True)
        >>> loss.shape, lse.shape
        (torch.Size([3]), torch.Size([3]))
    """
    return _codebook_loss.evaluate(
        "cosine_codebook_loss",
        "v",
        v,
        target,
        codebook,
        None,
        scale=scale,
        margin=margin,
        margin_type=margin_type,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
        precision=precision,
        impl=impl,
        return_lse=return_lse,
    )
