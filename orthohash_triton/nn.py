"""Modules for the functions of the package, with the same keywords."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .ops.cosine_codebook_loss import cosine_codebook_loss
from .ops.orthohash_loss import orthohash_loss
from .ops.pack_codes import pack_codes


class _CodebookLoss(nn.Module):
    """Keeps the codebook as a buffer, so that it moves with the module and is saved with it, and the keywords of the loss."""

    codebook: Tensor

    def __init__(self, codebook: Tensor, **keywords: Any) -> None:
        super().__init__()
        self.register_buffer("codebook", codebook)
        self.keywords = keywords

    def extra_repr(self) -> str:
        classes, bits = self.codebook.shape
        return ", ".join([f"classes={classes}, bits={bits}", *(f"{name}={value!r}" for name, value in self.keywords.items())])


class CosineCodebookLoss(_CodebookLoss):
    """`cosine_codebook_loss` with its codebook [C, K] and keywords: `criterion(v, target)`."""

    def forward(self, v: Tensor, target: Tensor) -> Any:
        return cosine_codebook_loss(v, target, self.codebook, **self.keywords)


class OrthoHashLoss(_CodebookLoss):
    """`orthohash_loss` with its codebook [C, K] and keywords: `criterion(latent, target, batch_norm)`.

    The BatchNorm1d stays part of the model: its weight, bias, running statistics and training flag are used and updated as if
    `batch_norm(latent)` had been called.
    """

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
            process_group=_shared_by(batch_norm) if training else None,
            **self.keywords,
        )


def _shared_by(batch_norm: nn.Module) -> Any:
    """The process group that shares the statistics, or None: as SyncBatchNorm decides it."""
    if not isinstance(batch_norm, nn.SyncBatchNorm) or not dist.is_initialized():
        return None
    group = batch_norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


class HashHead(nn.Module):
    """The hash layer of OrthoHash: Linear without bias (weights N(0, 0.01^2)), then BatchNorm1d.

    Training feeds `latent(features)` and `batch_norm` to `OrthoHashLoss`; `forward` gives the continuous codes [N, bits] and
    `encode` the packed binary ones, uint8 [N, ceil(bits / 8)], bit 1 where a continuous code is above 0.
    """

    def __init__(self, in_features: int, bits: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, bits, bias=False)
        nn.init.normal_(self.linear.weight, std=0.01)
        self.batch_norm = nn.BatchNorm1d(bits)

    def latent(self, features: Tensor) -> Tensor:
        return self.linear(features)

    def forward(self, features: Tensor) -> Tensor:
        return self.batch_norm(self.linear(features))

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        return pack_codes(self(features))
