"""Batch normalisation over the batch of all processes, on CPUs too."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.batch_norm import require_two, unbiased, update_running

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SumOverProcesses(torch.autograd.Function):
    """A sum of a tensor over all processes. The gradient is the sum of the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm, which trains on GPUs only, and a CPU implementation. It has the parameters of `plain`."""

    def __init__(self, plain: _BatchNorm) -> None:
        super().__init__(plain.num_features, plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        self.weight, self.bias = plain.weight, plain.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(plain, name))
        self.train(plain.training)
        # timm's batch norms end with a dropout and an activation
        self.after = [module for name in ("drop", "act") if isinstance(module := getattr(plain, name, None), nn.Module)]

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input) if input.is_cuda or not self.training else self._train_on_cpu(input)
        for module in self.after:
            output = module(output)
        return output

    def _train_on_cpu(self, input: Tensor) -> Tensor:
        """Normalise by the mean and variance of the rows of all processes, in at least float32.

        Raises:
            ValueError: all processes together hold one row, as torch raises for one process; or a running statistic cannot hold
                its new value.
        """
        values = input.to(torch.promote_types(input.dtype, torch.float32)).movedim(1, -1)  # [N, ..., K]
        rows = values.flatten(0, -2)
        total = SumOverProcesses.apply(torch.cat((rows.sum(0), rows.new_full((1,), len(rows)))))  # [K + 1]
        count = total[-1].detach()
        require_two(count)
        mean = total[:-1] / count.clamp(min=1)  # without rows in any process there is nothing to divide
        centred = values - mean
        variance = SumOverProcesses.apply(centred.flatten(0, -2).square().sum(0)) / count.clamp(min=1)
        self._track(mean.detach(), unbiased(variance.detach(), count), count)
        rstd = (variance + self.eps).rsqrt().masked_fill(variance == torch.inf, torch.nan)  # 0 would make all rows equal
        output = centred * rstd
        if self.weight is not None:
            output = output * self.weight + self.bias
        return output.movedim(-1, 1).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics as nn.BatchNorm does."""
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum  # type: ignore[arg-type]
        update_running(self.running_mean, self.running_var, mean, variance, count, share)  # type: ignore[arg-type]


@contextmanager
def synchronised(network: nn.Module, *, but: tuple[nn.Module | None, ...] = ()) -> Iterator[None]:
    """Make the batch norms of `network`, except those in `but`, use the statistics of all processes within the block.

    Raises:
        ValueError: a batch norm has an unknown class.
    """
    replaced = []
    try:
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm) and child not in but:
                    _require_known(child)
                    setattr(parent, name, SyncBatchNorm(child))
                    replaced.append((parent, name, child))
        yield
    finally:
        for parent, name, child in replaced:
            child.training = getattr(parent, name).training
            setattr(parent, name, child)


def _require_known(norm: _BatchNorm) -> None:
    with_activation = hasattr(norm, "drop") and hasattr(norm, "act")
    if type(norm) not in _PLAIN and not with_activation:
        raise ValueError(
            f"train: {type(norm).__name__} is not a batch norm that several processes can share; train in one process, "
            "or use nn.BatchNorm or nn.SyncBatchNorm in the backbone"
        )
