"""Batch normalisation for the fused loss: statistics, which processes can share, and gradients."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .._base import checks
from . import dispatch
from ._registered import registered

NO_NORM = (None, None, None, None, False, "")
_ONE_ROW = "Expected more than 1 value per channel when training"  # the message of torch.nn.functional.batch_norm


class BatchNorm(NamedTuple):
    """Arguments of torch.nn.functional.batch_norm, and the group of processes that shares the statistics."""

    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    momentum: float
    eps: float
    process_group: Any

    def checked(self, op: str, latent: Tensor) -> "BatchNorm":
        """Return the arguments with plain numbers; raise TypeError or ValueError if they do not fit latent [N, K]."""
        bits = latent.shape[1]
        for name in ("running_mean", "running_var", "weight", "bias"):
            value = getattr(self, name)
            name = name if name.startswith("running") else f"bn_{name}"
            if value is None:
                continue
            checks.tensor(
                op, name, value, dtypes=(torch.float32, torch.float16, torch.bfloat16, torch.float64), ndim=1, shape=f"[{bits}]"
            )
            if len(value) != bits:
                raise ValueError(f"{op}: {name} must be [{bits}], one per bit; got {checks.describe(value)}")
            checks.same_device(op, name, value, "latent", latent)
        if (self.running_mean is None) != (self.running_var is None):
            raise ValueError(f"{op}: running_mean and running_var must be given together; got one of them")
        if not self.training and self.running_mean is None:
            raise ValueError(f"{op}: training=False needs running_mean and running_var; got None. Pass those of the BatchNorm1d")
        if self.training and self.process_group is None and len(latent) == 1:
            raise ValueError(f"{_ONE_ROW}, got input size {latent.shape}")
        eps, momentum = checks.factor(op, "eps", self.eps), checks.number(op, "momentum", self.momentum)
        if not 0 <= momentum <= 1:
            raise ValueError(f"{op}: momentum must be between 0 and 1, the share of the new statistics; got {momentum}")
        return self._replace(eps=eps, momentum=momentum)

    def statistics(self, latent: Tensor, impl: str) -> "Found":
        """Return the statistics that normalise latent [N, K]: running ones in eval mode, otherwise those of the batch.

        Raises:
            ValueError: the processes of the group hold one row in all, where values may be read.
        """
        with torch.no_grad():
            if not self.training:
                assert self.running_mean is not None  # see checked
                assert self.running_var is not None
                mean, var = (x.to(_wide(latent)).contiguous() for x in (self.running_mean, self.running_var))
                rstd = (var + self.eps).rsqrt()
                # 1 / deviation of an infinite variance would be 0, which turns every row into the same finite one.
                return Found(mean, rstd.masked_fill(var == torch.inf, torch.nan), var, len(latent))
            mean, var, rstd = _statistics(latent.detach(), int(self.process_group is None), self.eps, impl)
            if self.process_group is None:
                return Found(mean, rstd, var, len(latent))
            mean, var, count = over_processes(Statistics(mean, var, len(latent)), self.process_group.group_name)
            require_two(count)
            rstd = (var + self.eps).rsqrt()
            return Found(mean.to(_wide(latent)), rstd.to(_wide(latent)), unbiased(var, count), count)

    def normalisation(self, found: "Found") -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, bool, str]:
        """Return (mean, 1 / deviation, weight, bias, training, group name), which the loss op takes."""
        weight, bias = (None if x is None else x.contiguous() for x in (self.weight, self.bias))
        group = self.process_group.group_name if self.training and self.process_group is not None else ""
        return found.mean, found.rstd, weight, bias, self.training, group

    def update_running(self, found: "Found") -> None:
        """Update the running statistics in place if training; without rows they do not change, as in torch."""
        if self.training and self.running_mean is not None and self.running_var is not None:
            update_running(self.running_mean, self.running_var, found.mean, found.unbiased, found.count, self.momentum)


@torch.no_grad()
def update_running(
    running_mean: Tensor,  # [K], changed in place
    running_var: Tensor,  # [K], changed in place
    mean: Tensor,  # [K]
    var: Tensor,  # unbiased, [K]; NaN where its dtype cannot hold it
    count: Any,  # rows: an int, or a scalar tensor if it is the sum over processes
    share: float,
) -> None:
    """Move the running statistics by `share` towards the statistics of a batch.

    A batch of fewer than two rows, which has no variance, leaves both as they are. A statistic that its running one cannot hold
    is an error where values may be read. Elsewhere the running one becomes NaN, and with it what is computed from it; an infinite
    variance would turn all rows into the same finite one.

    Raises:
        ValueError: a statistic is too large for the dtype of its running one; both are unchanged then.
    """
    mean, var = held(mean, var, running_mean, running_var)
    if isinstance(count, Tensor) and not checks.may_read_values(count):  # decided on the device, which is not waited for
        mean, var = torch.where(count < 2, running_mean, mean), torch.where(count < 2, running_var, var)
    elif count < 2:
        return
    running_mean.lerp_(mean, share)
    running_var.lerp_(var, share)


def held(mean: Tensor, var: Tensor, running_mean: Tensor, running_var: Tensor) -> tuple[Tensor, Tensor]:
    """Return the statistics mean and var [K] in the dtypes of the running ones, NaN where these cannot hold them.

    Raises:
        ValueError: one of them cannot be held, where values may be read.
    """
    found = []
    for name, running, statistic in (("running_mean", running_mean, mean), ("running_var", running_var, var)):
        narrow = statistic
        if statistic.dtype != running.dtype:
            narrow = statistic.to(running.dtype).nan_to_num_(nan=torch.nan, posinf=torch.nan, neginf=torch.nan)
        if checks.may_read_values(narrow) and not bool(narrow.isfinite().all()):
            _require_held(name, mean, narrow)
        found.append(narrow)
    return found[0], found[1]


def _require_held(name: str, mean: Tensor, narrow: Tensor) -> None:
    """Raise ValueError if a statistic [K] is not finite in the dtype of its running one although the mean of the rows is."""
    lost = mean.isfinite() & ~narrow.isfinite()
    if bool(lost.any()):
        raise ValueError(
            f"batch norm: the values of channel {int(lost.int().argmax())} are so large that {name} in "
            f"{checks.dtype_name(narrow.dtype)} cannot hold their statistics; their mean is {float(mean[lost][0]):.3g}. "
            "The training has diverged, or the dtype is too narrow: lower the learning rate, or normalise in float32"
        )


def require_two(count: Tensor) -> None:
    """Raise ValueError, as torch does for one process, if `count` says that all processes hold one row together.

    All processes raise it, because all know the same count. On a GPU, and in a compiled graph, where reading it would wait for
    the device, nothing is raised: the row is normalised with a variance of 0, and the running statistics do not change.
    """
    if checks.may_read_values(count) and count == 1:
        raise ValueError(f"{_ONE_ROW}, got one row in all processes together")


def unbiased(var: Tensor, count: Tensor) -> Tensor:
    """Return the unbiased variance of `count` rows from the biased one `var` [K]; `var` itself for fewer than two rows."""
    return var * (count / (count - 1).clamp(min=1))


class Statistics(NamedTuple):
    """Statistics of the rows of all processes together."""

    mean: Tensor  # [K]
    var: Tensor  # biased, float64 [K]
    count: Any  # number of rows: an int, or a scalar tensor if it is the sum over processes


class Found(NamedTuple):
    """Statistics that normalise a batch and update the running statistics."""

    mean: Tensor  # [K]
    rstd: Tensor  # 1 / deviation, [K]
    unbiased: Tensor  # variance [K]; NaN where its dtype cannot hold it
    count: Any  # as in `Statistics`


def _wide(latent: Tensor) -> torch.dtype:
    return torch.float64 if latent.dtype == torch.float64 else torch.float32


def over_processes(mine: Statistics, group: str) -> Statistics:
    """Return mean, variance and number of the rows of all processes together, float64, by the formula of Chan et al.

    All are 0 if no process has a row.
    """
    bits = len(mine.mean)
    numbers = torch.cat((mine.mean.double(), mine.var.double(), mine.var.new_full((1,), mine.count, dtype=torch.float64)))
    table = _from_every_process(numbers, group)  # [processes, 2K + 1]
    means, variances, counts = table[:, :bits], table[:, bits:-1], table[:, -1:]
    count = counts.sum()
    share = counts / count.clamp(min=1)
    mean = (share * means).sum(0)
    return Statistics(mean, (share * (variances + (means - mean).square())).sum(0), count)


def backward(
    ctx: Any,  # context of the op whose backward calls this
    rows: Tensor,
    upstream: Tensor | None,
    latent: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    training: bool,
    group: str,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of latent [N, K], weight [K] and bias [K].

    The gradient of the normalised latent is `rows` [N, K] times `upstream`, a scalar or [N]; None for 1.
    """
    weight_grad, bias_grad = _sums.in_backward(ctx, rows, upstream, latent, mean, rstd, impl)
    # In eval mode the statistics do not depend on the latent, so no gradient flows through them.
    along, plain, count = weight_grad, bias_grad, len(latent) if training else 0
    if group:
        together = torch.cat((along, plain, along.new_full((1,), count)))
        together = _from_every_process.in_backward(ctx, together, group).sum(0)
        along, plain = (together[:-1] / together[-1:].clamp(min=1)).view(2, -1).unbind()
        count = 1
    latent_grad = _input_gradient.in_backward(ctx, rows, upstream, latent, mean, rstd, weight, along, plain, count, impl)
    return latent_grad, weight_grad, bias_grad


def _statistics_forward(latent: Tensor, correction: int, eps: float, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance with `correction` as in torch.var, and 1 / sqrt(biased variance + eps) of every column.  [K] each

    With a correction of 0 the variance is float64, because processes merge it and squares of float32 numbers leave the range of
    float32. Otherwise it has the dtype of the mean, and is NaN where that cannot hold it.
    """
    if not len(latent):  # zeros instead of NaN, which would spread to the processes that have rows
        mean = latent.new_zeros(latent.shape[1], dtype=_wide(latent))
        return mean, torch.zeros_like(mean, dtype=_variance_dtype(latent, correction)), torch.full_like(mean, eps**-0.5)
    return dispatch.implementation("batch_norm", impl).statistics(latent, correction, eps)


def _sums_forward(
    rows: Tensor, upstream: Tensor | None, latent: Tensor, mean: Tensor, rstd: Tensor, impl: str
) -> tuple[Tensor, Tensor]:
    """Return the sums over the batch of upstream * rows * (normalised latent) and of upstream * rows.  [K], [K]"""
    return dispatch.implementation("batch_norm", impl).sums(rows, upstream, latent, mean, rstd)


def _input_gradient_forward(
    rows: Tensor,
    upstream: Tensor | None,
    latent: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    along: Tensor,
    plain: Tensor,
    count: int,
    impl: str,
) -> Tensor:
    """Return the gradient of the input of batch normalisation, in the dtype of latent.  [N, K]

    It is weight * rstd * (upstream * rows - (plain + normalised latent * along) / count).

    A count of 0 omits the term that it divides.
    """
    run = dispatch.implementation("batch_norm", impl)
    return run.input_gradient(rows, upstream, latent, mean, rstd, weight, along, plain, 1 / count if count else 0.0)


def times(rows: Tensor, upstream: Tensor | None) -> Tensor:
    """Return rows [N, K] times `upstream`: a scalar, one factor per row [N], or None for 1."""
    if upstream is None:
        return rows
    return rows * (upstream[:, None] if upstream.ndim else upstream)


def _group_named(name: str) -> Any:
    from torch.distributed import distributed_c10d  # builds without torch.distributed have no such module

    resolve: Any = distributed_c10d._resolve_process_group
    return resolve(name)


def _from_every_process_forward(numbers: Tensor, group: str) -> Tensor:
    """Gather `numbers` of every process of the group of that name.  [M] -> [processes, M]"""
    processes = _group_named(group)
    table = [torch.empty_like(numbers) for _ in range(processes.size())]
    dist.all_gather(table, numbers, group=processes)
    return torch.stack(table)


def _variance_dtype(latent: Tensor, correction: int) -> torch.dtype:
    """Return the dtype of the variance that `_statistics` returns."""
    return _wide(latent) if correction else torch.float64


def _fake_statistics(latent: Tensor, correction: int, eps: float, impl: str) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = _fake_columns(latent, 2)
    return mean, mean.new_empty(mean.shape, dtype=_variance_dtype(latent, correction)), rstd


def _fake_columns(latent: Tensor, number: int) -> tuple[Tensor, ...]:
    return tuple(latent.new_empty(latent.shape[1], dtype=_wide(latent)) for _ in range(number))


_statistics = registered("batch_norm_statistics", _statistics_forward, fake=_fake_statistics)
_sums = registered("batch_norm_sums", _sums_forward, fake=lambda rows, upstream, latent, *_: _fake_columns(latent, 2))
_input_gradient = registered(
    "batch_norm_backward",
    _input_gradient_forward,
    fake=lambda rows, upstream, latent, *_: torch.empty(latent.shape, dtype=latent.dtype, device=latent.device),
)
# A separate op, so that torch.compile keeps the collective in its graph, where a group can only be passed by its name.
_from_every_process = registered(
    "from_every_process",
    _from_every_process_forward,
    fake=lambda numbers, group: numbers.new_empty(_group_named(group).size(), len(numbers)),
)
