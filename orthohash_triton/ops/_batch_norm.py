"""Batch normalisation as the fused loss needs it: statistics apart from use, synchronised over processes where asked."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from . import _checks
from ._registered import registered

NO_NORM = (None, None, None, None, False, "")

_groups: dict[str, Any] = {}  # process groups by name: a registered op takes no group


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
        if self.process_group is not None and torch.compiler.is_compiling():
            raise ValueError(
                f"{op}: process_group is not supported under torch.compile; leave this call outside of the compiled part"
            )

    def fix_statistics(self, latent: Tensor, impl: str) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, bool, str]:
        """(mean, 1 / deviation, weight, bias, training, group name): what the loss op takes. Updates the running statistics."""
        weight, bias = (None if x is None else x.contiguous() for x in (self.weight, self.bias))
        if not self.training:
            assert self.running_mean is not None  # see check
            assert self.running_var is not None
            mean, var = (x.to(_wide(latent)).contiguous() for x in (self.running_mean, self.running_var))
            return mean, (var + self.eps).rsqrt(), weight, bias, False, ""
        group = "" if self.process_group is None else self.process_group.group_name
        with torch.no_grad():
            mean, var = _statistics(latent.detach(), impl)
            count: Any = len(latent)
            if group:
                _groups[group] = self.process_group
                mean, var, count = _over_processes(mean, var, count, self.process_group)
            if self.running_mean is not None and self.running_var is not None:
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        return mean, (var + self.eps).rsqrt(), weight, bias, True, group


def _wide(latent: Tensor) -> torch.dtype:
    return torch.float64 if latent.dtype == torch.float64 else torch.float32


def _over_processes(mean: Tensor, var: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of all processes' rows together (Chan et al.'s combination), and their number."""
    mine = torch.cat((mean, var, mean.new_tensor([count])))  # [2K + 1]
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, mine, group=group)
    bits = len(mean)
    table = torch.stack(everyone)  # [processes, 2K + 1]
    means, variances, counts = table[:, :bits], table[:, bits:-1], table[:, -1:]
    share = counts / counts.sum()
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), counts.sum()


def backward(
    rows: Tensor, latent: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, training: bool, group: str, impl: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of latent [N, K], weight [K] and bias [K], from `rows`, the gradient of the normalised latent [N, K]."""
    weight_grad, bias_grad = _sums.op(rows, latent, mean, rstd, impl)
    sums = torch.stack((weight_grad, bias_grad))
    count = sums.new_tensor([len(latent)])
    if group:
        together = torch.cat((sums.flatten(), count))
        dist.all_reduce(together, group=_groups[group])
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
