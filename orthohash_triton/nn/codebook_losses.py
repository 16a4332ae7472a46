"""Modules for the losses over cosines to a codebook."""

from typing import Any

from torch import Tensor, nn

from ..ops.cosine_codebook_loss import ImplChoice, MarginType, Precision, Reduction, check_options, cosine_codebook_loss
from ..ops.orthohash_loss import orthohash_loss
from ._options import CodebookLoss
from .batch_norm import shared_by


class CosineCodebookLoss(CodebookLoss):
    """Module of `orthohash_triton.cosine_codebook_loss`: `criterion(v, target)`.

    Args:
        codebook: int8 +-1 [C, K], one code per class. It is a buffer of the module.
        scale, margin, margin_type, label_smoothing, ignore_index, reduction, precision, impl, return_lse: options of the
            function.

    The call takes continuous codes v [N, K], and a target of class ids [N], or multi-hot or soft labels [N, C]. It returns and
    raises what the function does.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> codebook = oht.make_codebook(10, 16, seed=0)
        >>> criterion = oht.nn.CosineCodebookLoss(codebook, margin=0.1)
        >>> criterion
        CosineCodebookLoss(classes=10, bits=16, margin=0.1)
        >>> v = codebook[:3].float().requires_grad_()  # codes of the first three classes
        >>> criterion(v, torch.tensor([0, 1, 2])) < criterion(v, torch.tensor([3, 4, 5]))
        tensor(True)
    """

    check = staticmethod(check_options)

    def __init__(
        self,
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
    ) -> None:
        super().__init__(
            codebook, scale=scale, margin=margin, margin_type=margin_type, label_smoothing=label_smoothing,
            ignore_index=ignore_index, reduction=reduction, precision=precision, impl=impl, return_lse=return_lse,
        )  # fmt: skip

    def forward(self, v: Tensor, target: Tensor) -> Any:
        """Return the loss of v [N, K]; with `return_lse`, return (loss, log-sum-exp [N])."""
        return cosine_codebook_loss(v, target, self.codebook, **self.keywords)


class OrthoHashLoss(CodebookLoss):
    """Module of `orthohash_triton.orthohash_loss`: `criterion(latent, target, batch_norm)`.

    Args:
        codebook: int8 +-1 [C, K], one code per class. It is a buffer of the module.
        scale, margin, margin_type, label_smoothing, ignore_index, reduction, precision, impl, return_lse: options of the
            function.

    The call takes the latent [N, K] before batch normalisation, a target as `CosineCodebookLoss`, and the BatchNorm1d, which
    remains part of the model: its weight, bias, running statistics and training flag are used and updated as if
    `batch_norm(latent)` had been called. A SyncBatchNorm shares its statistics with all its processes. The call returns and
    raises what the function does, and raises TypeError for another `batch_norm`.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> _ = torch.manual_seed(0)
        >>> head = oht.nn.HashHead(in_features=32, bits=16)
        >>> criterion = oht.nn.OrthoHashLoss(oht.make_codebook(10, 16, seed=0))
        >>> features, target = torch.randn(8, 32), torch.randint(0, 10, (8,))
        >>> loss = criterion(head.latent(features), target, head.batch_norm)
        >>> loss.backward()
        >>> head.linear.weight.grad.shape
        torch.Size([16, 32])
    """

    check = staticmethod(check_options)

    def __init__(
        self,
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
    ) -> None:
        super().__init__(
            codebook, scale=scale, margin=margin, margin_type=margin_type, label_smoothing=label_smoothing,
            ignore_index=ignore_index, reduction=reduction, precision=precision, impl=impl, return_lse=return_lse,
        )  # fmt: skip

    def forward(self, latent: Tensor, target: Tensor, batch_norm: nn.BatchNorm1d) -> Any:
        """Return the loss of latent [N, K]; with `return_lse`, return (loss, log-sum-exp [N])."""
        if not isinstance(batch_norm, nn.BatchNorm1d | nn.SyncBatchNorm):
            raise TypeError(
                f"OrthoHashLoss: batch_norm must be the BatchNorm1d behind the hash layer; got {type(batch_norm).__name__}"
            )
        training = batch_norm.training or batch_norm.running_mean is None
        tracking = batch_norm.training and batch_norm.track_running_stats
        momentum = batch_norm.momentum
        if tracking:
            batch_norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            if momentum is None:  # None stands for a cumulative average
                momentum = 1.0 / float(batch_norm.num_batches_tracked)  # type: ignore[arg-type]
        return orthohash_loss(
            latent,
            target,
            self.codebook,
            batch_norm.running_mean if tracking or not training else None,
            batch_norm.running_var if tracking or not training else None,
            batch_norm.weight,
            batch_norm.bias,
            training=training,
            momentum=0.0 if momentum is None else momentum,
            eps=batch_norm.eps,
            process_group=shared_by(batch_norm) if training else None,
            **self.keywords,
        )
