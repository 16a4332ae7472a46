"""The OrthoHash objective: batch normalisation, then the cosine codebook loss, fused."""

from typing import Any, Literal, overload

from torch import Tensor

from . import _codebook_loss
from ._codebook_loss import MarginType, Precision, Reduction
from .batch_norm import BatchNorm
from .dispatch import ImplChoice


@overload
def orthohash_loss(
    latent: Tensor,
    target: Tensor | tuple[Tensor, Tensor, Tensor],
    codebook: Tensor,
    running_mean: Tensor | None = ...,
    running_var: Tensor | None = ...,
    bn_weight: Tensor | None = ...,
    bn_bias: Tensor | None = ...,
    *,
    training: bool = ...,
    momentum: float = ...,
    eps: float = ...,
    process_group: Any = ...,
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
def orthohash_loss(
    latent: Tensor,
    target: Tensor | tuple[Tensor, Tensor, Tensor],
    codebook: Tensor,
    running_mean: Tensor | None = ...,
    running_var: Tensor | None = ...,
    bn_weight: Tensor | None = ...,
    bn_bias: Tensor | None = ...,
    *,
    training: bool = ...,
    momentum: float = ...,
    eps: float = ...,
    process_group: Any = ...,
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
def orthohash_loss(
    latent: Tensor,
    target: Tensor | tuple[Tensor, Tensor, Tensor],
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
    margin_type: MarginType = "cosine",
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    precision: Precision | None = None,
    impl: ImplChoice = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return `cosine_codebook_loss(batch_norm(latent), target, codebook)`, computed in one sweep.

    OrthoHash (Hoe et al., NeurIPS 2021, arXiv 2109.14449), section 3: batch normalisation balances the bits, and the cosine to a
    fixed +-1 code of the class is the logit.

    Args:
        latent: output of the hash layer before its batch normalisation [N, K].
        target, codebook: as in `cosine_codebook_loss`.
        running_mean, running_var: [K], as in `torch.nn.functional.batch_norm`: updated in place when training, used otherwise.
        bn_weight, bn_bias: [K] or None; they get gradients.
        training: use the statistics of this batch. They include rows that the loss ignores, as in `torch.nn.BatchNorm1d`.
        momentum, eps: as in `torch.nn.functional.batch_norm`.
        process_group: a torch.distributed group whose processes share the statistics of their batches (synchronised batch
            normalisation), also inside torch.compile. Each process computes the loss of its own batch, and its own contribution
            to the gradients of weight and bias.
        scale, margin, margin_type, label_smoothing, ignore_index, reduction, precision, impl, return_lse: as in
            `cosine_codebook_loss`.

    Returns:
        As `cosine_codebook_loss`. Gradients go to latent, bn_weight and bn_bias.

    Raises:
        TypeError, ValueError: as `cosine_codebook_loss`; also for one row in training mode (in all processes together),
            for eval mode without statistics, and for a batch whose statistics the dtype of the running ones cannot hold. The
            running statistics are unchanged then. On a GPU, where reading the number of rows or a variance would stall the
            stream, one row in all processes leaves the running statistics as they are, and a variance that they cannot hold
            becomes NaN. Processes that have no rows in all leave them as they are, too.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> _ = torch.manual_seed(0)
        >>> codebook = oht.make_codebook(num_classes=10, bits=16, seed=0)
        >>> latent, target = torch.randn(8, 16, requires_grad=True), torch.arange(8)
        >>> running_mean, running_var = torch.zeros(16), torch.ones(16)
        >>> loss = oht.orthohash_loss(latent, target, codebook, running_mean, running_var)
        >>> normalised = torch.nn.functional.batch_norm(latent, None, None, training=True)
        >>> torch.allclose(loss, oht.cosine_codebook_loss(normalised, target, codebook))
        True
        >>> torch.allclose(running_mean, 0.1 * latent.mean(0))
        True
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
