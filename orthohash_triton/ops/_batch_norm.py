"""Batch normalisation as the fused loss needs it: statistics apart from use, synchronised over processes where asked."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from . import _checks
from ._registered import registered

NO_NORM = (None, None, None, None, False, "")


class BatchNorm(NamedTuple):
    """The arguments of torch.nn.functional.batch_norm, and the processes that share the statistics."""

    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    momentum: float
    eps: float
    process_group: Any

    def check(self, op: str, latent: Tensor) -> None:
        bits = latent.shape[1]
        for name in ("running_mean", "running_var", "weight", "bias"):
            value = getattr(self, name)
            name = name if name.startswith("running") else f"bn_{name}"
            if value is None:
                continue
            _checks.tensor(
                op, name, value, dtypes=(torch.float32, torch.float16, torch.bfloat16, torch.float64), ndim=1, shape=f"[{bits}]"
            )
            if len(value) != bits:
                raise ValueError(f"{op}: {name} must be [{bits}], one per bit; got {_checks.describe(value)}")
            _checks.same_device(op, name, value, "latent", latent)
        if (self.running_mean is None) != (self.running_var is None):
            raise ValueError(f"{op}: running_mean and running_var must be given together; got one of them")
        if not self.training and self.running_mean is None:
            raise ValueError(f"{op}: training=False needs running_mean and running_var; got None. Pass those of the BatchNorm1d")
        if self.eps <= 0:
            raise ValueError(f"{op}: eps must be positive; got {self.eps}")
        if self.training and self.process_group is None and len(latent) == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {latent.shape}")

    def statistics(self, latent: Tensor, impl: str) -> "Statistics":
        if not self.training:
            assert self.running_mean is not None  # see check
            assert self.running_var is not None
            mean, var = (x.to(_wide(latent)).contiguous() for x in (self.running_mean, self.running_var))
            return Statistics(mean, var, len(latent))
        with torch.no_grad():
            if len(latent):
                mean, var = _statistics(latent.detach(), impl)
            else:  # zeros rather than NaN, which would spread to the processes that have rows
                mean = var = latent.new_zeros(latent.shape[1], dtype=_wide(latent))
            found = Statistics(mean, var, len(latent))
            return found if self.process_group is None else over_processes(found, self.process_group.group_name)

    def normalisation(self, found: "Statistics") -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, bool, str]:
        """(mean, 1 / deviation, weight, bias, training, group name): what the loss op takes."""
        weight, bias = (None if x is None else x.contiguous() for x in (self.weight, self.bias))
        group = self.process_group.group_name if self.training and self.process_group is not None else ""
        return found.mean, (found.var + self.eps).rsqrt(), weight, bias, self.training, group

    def update_running(self, found: "Statistics") -> None:
        """What training does to the running statistics, in place; without any row nothing, as in torch."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        if isinstance(found.count, int) and found.count == 0:
            return
        with torch.no_grad():
            unbiased = found.var * (found.count / (found.count - 1))
            self.running_mean.lerp_(found.mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


class Statistics(NamedTuple):
    """Of the rows of all processes together."""

    mean: Tensor  # [K]
    var: Tensor  # biased, [K]
    count: Any  # of rows: an int, or a scalar tensor where processes added theirs


def _wide(latent: Tensor) -> torch.dtype:
    return torch.float64 if latent.dtype == torch.float64 else torch.float32


def over_processes(mine: Statistics, group: str) -> Statistics:
    """Mean and variance of all processes' rows together (Chan et al.'s combination), and their number."""
    bits = len(mine.mean)
    numbers = torch.cat((mine.mean, mine.var, mine.mean.new_full((1,), mine.count)))  # [2K + 1]
    table = _from_every_process(numbers, group)  # [processes, 2K + 1]
    means, variances, counts = table[:, :bits], table[:, bits:-1], table[:, -1:]
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    return Statistics(mean, (share * (variances + (means - mean).square())).sum(0), counts.sum())


def backward(
    rows: Tensor, latent: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, training: bool, group: str, impl: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of latent [N, K], weight [K] and bias [K], from `rows`, the gradient of the normalised latent [N, K]."""
    weight_grad, bias_grad = _sums.op(rows, latent, mean, rstd, impl)
    sums, count = torch.stack((weight_grad, bias_grad)), len(latent)  # [2, K]
    if group:
        together = torch.cat((sums.flatten(), sums.new_full((1,), count)))
        together = _from_every_process(together, group).sum(0)
        sums, count = together[:-1].view(2, -1), together[-1:]
    # In eval mode the statistics do not depend on the latent: nothing comes back through them.
    through = sums / count if training else torch.zeros_like(sums)
    latent_grad = _input_gradient.op(rows, latent, mean, rstd, weight, through, impl)
    return latent_grad, weight_grad, bias_grad


def _implementation(impl: str) -> Any:
    if impl == "triton":
        from ..kernels import batch_norm

        return batch_norm
    from ..kernels.cpu import batch_norm as cpu_batch_norm

    return cpu_batch_norm


def _statistics_forward(latent: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every column.  [K], [K]"""
    return _implementation(impl).statistics(latent)


def _sums_forward(rows: Tensor, latent: Tensor, mean: Tensor, rstd: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    """Over the batch: the sum of rows * normalised latent, and the sum of rows.  [K], [K]"""
    return _implementation(impl).sums(rows, latent, mean, rstd)


def _input_gradient_forward(
    rows: Tensor, latent: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, through: Tensor, impl: str
) -> Tensor:
    """weight * rstd * (rows - through[1] - normalised latent * through[0]), in the dtype of the latent.  [N, K]"""
    return _implementation(impl).input_gradient(rows, latent, mean, rstd, weight, through)


def _group_named(name: str) -> Any:
    from torch.distributed import distributed_c10d  # builds without torch.distributed have no such module

    resolve: Any = distributed_c10d._resolve_process_group
    return resolve(name)


def _from_every_process_forward(numbers: Tensor, group: str) -> Tensor:
    """`numbers` of every process of the group of that name.  [M] -> [processes, M]"""
    processes = _group_named(group)
    table = [torch.empty_like(numbers) for _ in range(processes.size())]
    dist.all_gather(table, numbers, group=processes)
    return torch.stack(table)


def _fake_columns(latent: Tensor) -> tuple[Tensor, Tensor]:
    column = latent.new_empty(latent.shape[1], dtype=_wide(latent))
    return column, torch.empty_like(column)


_statistics = registered("batch_norm_statistics", _statistics_forward, fake=lambda latent, impl: _fake_columns(latent))
_sums = registered("batch_norm_sums", _sums_forward, fake=lambda rows, latent, mean, rstd, impl: _fake_columns(latent))
_input_gradient = registered(
    "batch_norm_backward",
    _input_gradient_forward,
    fake=lambda rows, latent, *_: torch.empty(latent.shape, dtype=latent.dtype, device=latent.device),
)
# An op of its own, so that torch.compile keeps the collective in its graph; there, a group can only travel by its name.
_from_every_process = registered(
    "from_every_process",
    _from_every_process_forward,
    fake=lambda numbers, group: numbers.new_empty(_group_named(group).size(), len(numbers)),
)
