"""What `cosine_codebook_loss` and `orthohash_loss` share: options, checks, choice of implementation, reduction."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from . import _batch_norm, _checks, _dispatch
from ._codebook_loss_op import codebook_loss
from ._derived import derived

LATENT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
REDUCTIONS = ("none", "mean", "sum")
PARTS = {"highest": 2, "high": 1}


class Options(NamedTuple):
    """The keywords as the implementations take them, in the order of the registered op."""

    scale: float
    margin: float
    angular: bool
    label_smoothing: float
    ignore_index: int
    parts: int  # fp16 parts that carry a float32 through the tensor cores; 0 to follow torch's setting when the op runs


def check_options(
    op: str,
    bits: int,
    *,
    scale: float | None,
    margin: float,
    margin_type: str,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
    precision: str | None,
) -> Options:
    scale = math.sqrt(bits) if scale is None else float(scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"{op}: scale must be positive and finite; got {scale}. None takes sqrt(bits) = {math.sqrt(bits):.4g}")
    if not 0 <= margin <= 2:
        raise ValueError(
            f"{op}: margin must be between 0 and 2; got {margin}. It is subtracted from a cosine, or added to its angle"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{op}: label_smoothing must be in [0, 1); got {label_smoothing}")
    _checks.choice(op, "margin_type", margin_type, ("cosine", "angular"))
    _checks.choice(op, "reduction", reduction, REDUCTIONS)
    if precision is not None:
        _checks.choice(op, "precision", precision, tuple(PARTS))
    parts = 0 if precision is None else PARTS[precision]
    return Options(scale, float(margin), margin_type == "angular", float(label_smoothing), int(ignore_index), parts)


def check_inputs(op: str, name: str, v: Any, target: Any, codebook: Any, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """v [N, K] (called `name` by the caller), target int64 [N] or floating [N, C], codebook int8 +-1 [C, K]."""
    v = _checks.tensor(op, name, v, dtypes=LATENT_DTYPES, ndim=2, shape="[N, K]")
    codebook = _checks.tensor(op, "codebook", codebook, dtypes=(torch.int8,), ndim=2, shape="[C, K] of +-1")
    if codebook.shape[1] != v.shape[1] or codebook.numel() == 0:
        raise ValueError(
            f"{op}: {name} has {v.shape[1]} bits, the codebook is {list(codebook.shape)}; expected [C, {v.shape[1]}] with C > 0. "
            f"make_codebook(num_classes, {v.shape[1]}) makes one"
        )
    target = _check_target(op, target, len(v), len(codebook), ignore_index)
    _checks.same_device(op, "target", target, name, v)
    _checks.same_device(op, "codebook", codebook, name, v)
    if _checks.may_read_values(codebook):
        derived(codebook, "checked", lambda: _require_signs(op, codebook))
    return v, target, codebook


def _check_target(op: str, target: Any, rows: int, classes: int, ignore_index: int) -> Tensor:
    if not isinstance(target, Tensor) or tuple(target.shape) not in ((rows,), (rows, classes)) or _wrong_ids(target):
        expected = f"int64 class ids [{rows}], or multi-hot or soft targets [{rows}, {classes}]"
        error = ValueError if isinstance(target, Tensor) and not _wrong_ids(target) else TypeError
        hint = ". Convert class ids with .long()" if error is TypeError and isinstance(target, Tensor) else ""
        raise error(f"{op}: target must be {expected}; got {_checks.describe(target)}{hint}")
    if target.ndim == 2:
        return _check_dense_target(op, target)
    if rows and _checks.may_read_values(target):
        low, high = map(int, torch.aminmax(target))
        if low < 0 or high >= classes:  # or is it only ignore_index?
            low, high = map(int, torch.aminmax(torch.where(target == ignore_index, 0, target)))
        if low < 0 or high >= classes:
            bad = low if low < 0 else high
            raise ValueError(
                f"{op}: target has class {bad}; expected ids from 0 to {classes - 1} (the codebook has {classes} rows) "
                f"or ignore_index = {ignore_index}"
            )
    return target


def _wrong_ids(target: Tensor) -> bool:
    return target.ndim == 1 and target.dtype != torch.int64


def _check_dense_target(op: str, target: Tensor) -> Tensor:
    if target.is_complex():
        raise TypeError(f"{op}: target must be real; got {_checks.describe(target)}")
    if not target.is_floating_point():
        target = target.float()
    if target.numel() and _checks.may_read_values(target) and bool(target.amin() < 0):
        raise ValueError(f"{op}: target has negative entries (smallest {float(target.amin()):.4g}); soft targets are at least 0")
    return target


def _require_signs(op: str, codebook: Tensor) -> bool:
    if not bool((codebook.abs() == 1).all()):
        values = codebook.unique().tolist()
        raise ValueError(f"{op}: codebook must hold +1 and -1 only; got values {values[:6]}. From 0/1 bits: 2 * bits - 1")
    return True


def evaluate(
    op: str,
    name: str,  # what the caller calls v
    v: Any,
    target: Any,
    codebook: Any,
    batch_norm: _batch_norm.BatchNorm | None,
    impl: str,
    return_lse: bool,
    precision: str | None,
    **keywords: Any,
) -> Any:
    """The loss behind both public functions: v is normalised over the batch first where `batch_norm` says how."""
    bits = v.shape[-1] if isinstance(v, Tensor) and v.ndim else 1
    options = check_options(op, bits, precision=precision, **keywords)
    v, target, codebook = check_inputs(op, name, v, target, codebook, options.ignore_index)
    if batch_norm is not None:
        batch_norm.check(op, v)
    chosen = _dispatch.choose(op, impl, v)
    if chosen == "reference":
        return _evaluate_reference(op, v, target, codebook, batch_norm, return_lse=return_lse, **keywords)
    if chosen == "triton" and v.dtype == torch.float64:
        raise TypeError(
            f'{op}: {name} is float64, which the Triton kernels do not take. Convert it with .float(), or use impl="reference"'
        )

    wanted = [v] if batch_norm is None else [v, batch_norm.weight, batch_norm.bias]
    need_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in wanted)
    norm = _batch_norm.NO_NORM if batch_norm is None else batch_norm.fix_statistics(v, chosen)
    needs = need_grad, need_grad and return_lse
    loss, lse, *_ = codebook_loss(v, *norm, target, codebook, *options, chosen, keywords["reduction"], *needs)
    return (loss, lse) if return_lse else loss


def _evaluate_reference(
    op: str, v: Tensor, target: Tensor, codebook: Tensor, batch_norm: _batch_norm.BatchNorm | None, **keywords: Any
) -> Any:
    v = v.float() if v.dtype.itemsize < 4 else v
    if batch_norm is None:
        return reference.cosine_codebook_loss(v, target, codebook, **keywords)
    if batch_norm.process_group is not None:
        raise ValueError(f'{op}: impl="reference" knows no process_group; use impl="auto"')
    return reference.orthohash_loss(
        v, target, codebook, batch_norm.running_mean, batch_norm.running_var, batch_norm.weight, batch_norm.bias,
        training=batch_norm.training, momentum=batch_norm.momentum, eps=batch_norm.eps, **keywords,
    )  # fmt: skip
