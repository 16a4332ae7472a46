"""Modules for the functions of the package, with the same keywords."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .ops import _batch_norm
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


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Iterable[nn.Module] | None = None,
    reset_affine: bool = False,
    device: torch.device | str | None = None,
) -> None:
    """Replace the running statistics of batch normalisation by those of new data, exactly: the mean and the unbiased variance of
    everything that `loader` yields, not a moving average.

    Codes of a database that differs from the training data gain much from it, and from `reset_affine`: OrthoHash (Hoe et al.,
    NeurIPS 2021), supplement, table 6, where a head trained on GLDv2 goes from 0.036 to 0.359 on ROxford (hard, 512 bits).

    Args:
        model: called on every batch in eval mode: dropout is off, other batch normalisation uses and keeps its statistics.
        loader: yields batches, or tuples and lists whose first entry is the batch. With several layers it is gone through once
            for each.
        layers: the BatchNorm layers in `model` to re-estimate, first to last: a later layer sees the new statistics of an earlier
            one. None is the batch normalisation of every `HashHead` in `model`.
        reset_affine: also set weight to 1 and bias to 0, so that bits split at the new mean.
        device: where batches are moved; None is the device of the model.

    A SyncBatchNorm counts the data of all its processes. Training flags come back as they were. If anything raises, the model is
    as before.

    Raises:
        TypeError, ValueError: if a layer is no BatchNorm of `model` or keeps no statistics, `loader` yields nothing, or a layer
            sees less than two values a channel.
    """
    chosen = _layers_to_reestimate(model, layers)
    if device is None:
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    flags = [(module, module.training) for module in model.modules()]
    before = [{name: tensor.clone() for name, tensor in layer.state_dict().items()} for layer in chosen]
    model.eval()
    try:
        for layer in chosen:
            found = _input_statistics(model, layer, loader, device)
            layer.running_mean.copy_(found.mean)  # type: ignore[operator]
            layer.running_var.copy_(found.var * (found.count / (found.count - 1)))  # type: ignore[operator]
            if reset_affine and layer.weight is not None:
                layer.weight.fill_(1.0)  # type: ignore[operator]
                layer.bias.fill_(0.0)  # type: ignore[operator]
    except BaseException:
        for layer, state in zip(chosen, before, strict=True):
            layer.load_state_dict(state)
        raise
    finally:
        for module, training in flags:
            module.training = training


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _layers_to_reestimate(model: nn.Module, layers: Iterable[nn.Module] | None) -> list[nn.Module]:
    op = "reestimate_batch_norm"
    if layers is None:
        chosen: list[nn.Module] = [module.batch_norm for module in model.modules() if isinstance(module, HashHead)]
        if not chosen:
            raise ValueError(f"{op}: model has no HashHead; name the BatchNorm layers with layers=[...]")
    else:
        chosen = list(layers)
    inside = set(model.modules())
    for layer in chosen:
        if not isinstance(layer, _BATCH_NORMS) or layer not in inside:
            where = "" if layer in inside else " that is not part of model"
            raise TypeError(f"{op}: layers must be BatchNorm layers of model; got {type(layer).__name__}{where}")
        if layer.running_mean is None:
            raise ValueError(f"{op}: a layer has track_running_stats=False; there are no statistics to re-estimate")
    return chosen


def _input_statistics(
    model: nn.Module, layer: nn.Module, loader: Iterable[Any], device: torch.device | str
) -> _batch_norm.Statistics:
    """Mean and biased variance of what `layer` is given while `model` goes through `loader`, over all processes of the layer."""
    running = _RunningStatistics()
    hook = layer.register_forward_pre_hook(lambda _, inputs: running.add(inputs[0]))
    batches = 0
    try:
        for batch in loader:
            batch = batch[0] if isinstance(batch, tuple | list) else batch
            if not isinstance(batch, Tensor):
                raise TypeError(
                    f"reestimate_batch_norm: loader must yield tensors, or tuples that begin with one; got {type(batch).__name__}"
                )
            model(batch.to(device))
            batches += 1
    finally:
        hook.remove()
    if not batches:
        raise ValueError(
            "reestimate_batch_norm: loader is empty; it must yield at least one batch (an iterator serves only once)"
        )
    return running.over_processes(_shared_by(layer))


class _RunningStatistics:
    """Count, mean and sum of squares about the mean, in float64, batch by batch (Chan, Golub and LeVeque's combination)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros(())

    def add(self, batch: Tensor) -> None:
        """Rows [N, K], or [N, K, ...]."""
        rows = batch.detach().double().movedim(1, -1).flatten(0, -2)  # [rows, K]
        if not len(rows):
            return
        var, mean = torch.var_mean(rows, 0, correction=0)
        if not self.count:
            self.count, self.mean, self.squares = len(rows), mean, len(rows) * var
            return
        total = self.count + len(rows)
        step = mean - self.mean
        self.squares = self.squares + len(rows) * var + step.square() * (self.count * len(rows) / total)
        self.mean = self.mean + step * (len(rows) / total)
        self.count = total

    def over_processes(self, group: Any) -> _batch_norm.Statistics:
        found = _batch_norm.Statistics(self.mean, self.squares / max(self.count, 1), self.count)
        if group is not None:
            found = _batch_norm.over_processes(found, group.group_name)
        if found.count < 2:
            raise ValueError(
                f"reestimate_batch_norm: a layer saw {int(found.count)} values a channel; a variance takes at least 2"
            )
        return found
