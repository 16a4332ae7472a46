"""Cosine logits against a fixed +-1 codebook, margin, softmax cross entropy: fused, logits never in memory."""

from typing import Any

from torch import Tensor

from . import _codebook_loss


def cosine_codebook_loss(
    v: Tensor,
    target: Tensor,
    codebook: Tensor,
    *,
    scale: float | None = None,
    margin: float = 0.2,
    margin_type: str = "cosine",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    precision: str | None = None,
    impl: str = "auto",
    return_lse: bool = False,
) -> Any:
    """Softmax cross entropy over `z_c = scale * cos(v, o_c)`, with a margin on the positive classes.

    OrthoHash (Hoe et al., NeurIPS 2021, arXiv 2109.14449), section 3.3 and algorithm 1 of its supplement.

    Args:
        v: continuous codes, float32, float16, bfloat16 (float64 on a CPU) [N, K]. They are normalised to length one here.
        target: int64 class ids [N]; or multi-hot / soft targets [N, C] of any real dtype, which are divided by their row sums.
            They may be sparse, and then no [N, C] is ever made: `torch.sparse_csr` with ascending columns in every row, coalesced
            `torch.sparse_coo`, or the tuple (crow_indices, col_indices, values), which torch.compile takes where it does not take
            sparse tensors. A target gets no gradient.
        codebook: int8 +-1 [C, K], one code per class, as from `make_codebook`. It gets no gradient.
        scale: factor of the cosine; None is sqrt(K), the paper's choice (the released code has 8 for every K).
        margin: in [0, 2]; subtracted from the cosine of every positive class, or added to its angle in radians.
        margin_type: "cosine" (cos(theta) - margin) or "angular" (cos(theta + margin), continued by a straight line where
            theta + margin exceeds pi).
        label_smoothing: in [0, 1): this share of the target is spread evenly over all classes.
        ignore_index: rows with this class id have loss 0 and gradient 0 and are left out of the mean. So are rows of a
            [N, C] target that sum to 0.
        reduction: "none" | "mean" (over labelled rows; NaN if there is none, as in torch) | "sum".
        precision: of the matrix products on a GPU: "highest" (two fp16 parts: float32 accuracy), "high" (probabilities in
            one part: 1e-4), or None to follow `torch.get_float32_matmul_precision()`.
        impl: "auto" | "triton" | "cpu" | "reference".
        return_lse: also return the log-sum-exp of every row [N] (differentiable, for a z-loss).

    Returns:
        The loss, float32 whatever the dtype of v (float64 for float64): a scalar, or [N] for reduction="none". With return_lse
        a pair (loss, lse).

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device, option, class id or codebook. On a GPU, where looking at values
            would stall the stream, a class id outside [0, C) makes the loss of its row NaN instead
            (ORTHOHASH_VALIDATE=1 turns the check on), and a weight of a [N, C] target below 0 is not noticed.

    A zero row of v has the loss of all-zero cosines and no gradient; a NaN in v makes the loss of its row NaN. There is no second
    derivative except with impl="reference".

    On a GPU nothing is read back and every launch depends on shapes and options alone, not on values, so that a step can be
    captured in a CUDA graph. The first call with a codebook packs it: make that call before the capture, as for any warm-up.
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
