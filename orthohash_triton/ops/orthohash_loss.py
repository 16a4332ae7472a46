"""The OrthoHash objective: batch normalisation, then the cosine codebook loss, fused."""

from typing import Any

from torch import Tensor

from . import _codebook_loss
from .batch_norm import BatchNorm


def orthohash_loss(
    latent: Tensor,
    target: Tensor,
    codebook: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    bn_weight: Tensor | None = None,
    bn_bias: Tensor | None = None,
    *,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    process_group: Any = None,
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
    """`cosine_codebook_loss(batch_norm(latent), target, codebook)` in one go.

    OrthoHash (Hoe et al., NeurIPS 2021, arXiv 2109.14449), section 3: batch normalisation balances the bits, the cosine with a
    fixed +-1 code of the class does the rest.

    Args:
        latent: output of the hash layer before its batch normalisation [N, K].
        target, codebook: as `cosine_codebook_loss`.
        running_mean, running_var: [K], as in `torch.nn.functional.batch_norm`: updated in place when training, used otherwise.
        bn_weight, bn_bias: [K] or None; they get gradients.
        training: use the statistics of this batch. Rows that are ignored by the loss count in them, as they would in
            `torch.nn.BatchNorm1d`.
        momentum, eps: as in `torch.nn.functional.batch_norm`.
        process_group: a torch.distributed group whose processes share the statistics of their batches (synchronised batch
            normalisation), also inside torch.compile. The loss stays each process's own; gradients of weight and bias are each
            process's share.
        scale, margin, margin_type, label_smoothing, ignore_index, reduction, precision, impl, return_lse: as
            `cosine_codebook_loss`.

    Returns:
        As `cosine_codebook_loss`. Gradients go to latent, bn_weight and bn_bias.

    Raises:
        TypeError, ValueError: as `cosine_codebook_loss`; also for one row in training mode, or eval mode without statistics. The
            running statistics are then as before.
    """
    return _codebook_loss.evaluate(
        "orthohash_loss",
        "latent",
        latent,
        target,
        codebook,
        BatchNorm(running_mean, running_var, bn_weight, bn_bias, training, momentum, eps, process_group),
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
