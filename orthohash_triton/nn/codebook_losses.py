"""Modules for the losses against a codebook."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..ops.cosine_codebook_loss import cosine_codebook_loss
from ..ops.orthohash_loss import orthohash_loss
from . import _keywords
from .batch_norm import shared_by


class _CodebookLoss(nn.Module):
    """Keeps the codebook as a buffer, so that it moves with the module and is saved with it, and the keywords of the loss."""

    codebook: Tensor
    function: Callable[..., Any]
    filled: tuple[str, ...] = ()  # keywords of the function that are not the caller's

    def __init__(self, codebook: Tensor, **keywords: Any) -> None:
        super().__init__()
        self.register_buffer("codebook", codebook)
        self.keywords = _keywords.checked(self, type(self).function, keywords, self.filled)

    def extra_repr(self) -> str:
        classes, bits = self.codebook.shape
        return ", ".join([f"classes={classes}, bits={bits}", *(f"{name}={value!r}" for name, value in self.keywords.items())])


class CosineCodebookLoss(_CodebookLoss):
    """`cosine_codebook_loss` with its codebook [C, K] and keywords: `criterion(v, target)`.

    v are continuous codes [N, K], target class ids [N] or multi-hot or soft [N, C]. Errors are the function's.
    """

    function = staticmethod(cosine_codebook_loss)

    def forward(self, v: Tensor, target: Tensor) -> Any:
        return cosine_codebook_loss(v, target, self.codebook, **self.keywords)


class OrthoHashLoss(_CodebookLoss):
    """`orthohash_loss` with its codebook [C, K] and keywords: `criterion(latent, target, batch_norm)`.

    latent [N, K] comes before the batch norm; target as `CosineCodebookLoss`. The BatchNorm1d stays part of the model: its
    weight, bias, running statistics and training flag are used and updated as if `batch_norm(latent)` had been called. Those of
    a SyncBatchNorm are of all its processes. Errors are the function's; TypeError where batch_norm is none.
    """

    function = staticmethod(orthohash_loss)
    filled = ("training", "momentum", "eps", "process_group")  # the batch norm's

    def forward(self, latent: Tensor, target: Tensor, batch_norm: nn.BatchNorm1d) -> Any:
        if not isinstance(batch_norm, nn.BatchNorm1d | nn.SyncBatchNorm):
            raise TypeError(
                f"OrthoHashLoss: batch_norm must be the BatchNorm1d behind the hash layer; got {type(batch_norm).__name__}"
            )
        training = batch_norm.training or batch_norm.running_mean is None
        tracking = batch_norm.training and batch_norm.track_running_stats
        momentum = batch_norm.momentum
        if tracking:
            batch_norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            if momentum is None:  # a cumulative average
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
