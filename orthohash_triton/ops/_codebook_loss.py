"""Parts that `cosine_codebook_loss` and `orthohash_loss` share: options, checks, choice of implementation."""

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .._base import checks
from .._base.labels import flatten_column, is_integer
from .._base.quoting import short_repr
from . import batch_norm, dispatch
from ._codebook_loss_op import OP, codebook_loss
from ._derived import derived, shown

Reduction = Literal["none", "mean", "sum"]
MarginType = Literal["cosine", "angular"]
Precision = Literal["highest", "high"]

LATENT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
REDUCTIONS = get_args(Reduction)
# With larger ones the rounding error of a logit alone overflows in the exponential.
LARGEST_SCALE = 1e6
P_TERMS: dict[Precision, int] = {"highest": 2, "high": 1}


class Options(NamedTuple):
    """Options of the codebook losses in the form that implementations take, in the order of the registered op."""

    scale: float
    margin: float
    angular: bool
    label_smoothing: float
    ignore_index: int
    p_terms: int  # fp16 numbers that carry a probability through the tensor cores; 0 to follow torch's setting

    @classmethod
    def of(cls, bits: int, checked: dict[str, Any]) -> "Options":
        """Convert the options that `check_options` returned."""
        scale, precision = checked["scale"], checked["precision"]
        return cls(
            math.sqrt(bits) if scale is None else scale, checked["margin"], checked["margin_type"] == "angular",
            checked["label_smoothing"], checked["ignore_index"], 0 if precision is None else P_TERMS[precision],
        )  # fmt: skip


def check_options(
    op: str,
    *,
    scale: float | None,
    margin: float,
    margin_type: MarginType,
    label_smoothing: float,
    ignore_index: int,
    reduction: Reduction,
    precision: Precision | None,
    impl: dispatch.ImplChoice,
    return_lse: bool,
) -> dict[str, Any]:
    """Check the options, and return them by name, with numbers of NumPy and PyTorch as those of Python.

    Raises TypeError or ValueError for an unknown option or an invalid value.
    """
    if scale is not None:
        scale = checks.factor(op, "scale", scale, largest=LARGEST_SCALE, hint="None takes sqrt(bits)")
    margin, label_smoothing = (
        checks.number(op, name, value) for name, value in (("margin", margin), ("label_smoothing", label_smoothing))
    )
    if not 0 <= margin <= 2:
        raise ValueError(
            f"{op}: margin must be between 0 and 2; got {margin}. It is subtracted from a cosine, or added to its angle"
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{op}: label_smoothing must be in [0, 1); got {label_smoothing}")
    checks.choice(op, "margin_type", margin_type, get_args(MarginType))
    checks.choice(op, "reduction", reduction, REDUCTIONS)
    if precision is not None:
        checks.choice(op, "precision", precision, tuple(P_TERMS))
    dispatch.check_choice(op, impl)
    return dict(
        scale=scale, margin=margin, margin_type=margin_type, label_smoothing=label_smoothing,
        ignore_index=checks.class_id(op, "ignore_index", ignore_index), reduction=reduction, precision=precision, impl=impl,
        return_lse=return_lse,
    )  # fmt: skip


def check_codebook(op: str, codebook: Any) -> Tensor:
    """Return a codebook int8 [C, K] for a module to keep, after checking its values too, on whatever device they are.

    Raises:
        TypeError: `codebook` is no tensor, or not int8.
        ValueError: it is not [C, K] with at least one class and one bit, or has other values than +1 and -1.
    """
    codebook = checks.tensor(op, "codebook", codebook, dtypes=(torch.int8,), ndim=2, shape="[C, K] of +-1")
    if codebook.numel() == 0:
        raise ValueError(f"{op}: codebook must have at least one class and one bit; got {checks.describe(codebook)}")
    if checks.has_values(codebook):
        _require_signs(op, codebook)
    return codebook


class Target(NamedTuple):
    """Checked target in the form that the registered op takes: class ids, dense or sparse."""

    target: Tensor  # int64 ids [N]; floating [N, C]; or, for a sparse [N, C] target, the row starts int64 [N + 1]
    columns: Tensor | None  # int64 [nnz]
    values: Tensor | None  # float32 [nnz], float64 for float64 latents


def check_inputs(op: str, name: str, v: Any, target: Any, codebook: Any, ignore_index: int) -> tuple[Tensor, Target, Tensor]:
    """Check and return v [N, K], the target, and the codebook int8 +-1 [C, K]; errors call v `name`."""
    v = checks.tensor(op, name, v, dtypes=LATENT_DTYPES, ndim=2, shape="[N, K]")
    codebook = checks.tensor(op, "codebook", codebook, dtypes=(torch.int8,), ndim=2, shape="[C, K] of +-1")
    rows, bits = v.shape
    classes = codebook.shape[0]
    if codebook.shape[1] != bits or classes == 0 or bits == 0:
        raise ValueError(
            f"{op}: {name} has {bits} bits, the codebook is {list(codebook.shape)}; expected [C, {bits}] with C > 0. "
            f"make_codebook(num_classes, {bits}) makes one"
        )
    checked = _check_target(op, target, rows, classes, ignore_index, v.dtype)
    for part in checked:
        if part is not None:
            checks.same_device(op, "target", part, name, v)
            if part.requires_grad and torch.is_grad_enabled():
                raise ValueError(f"{op}: target gets no gradient, but it requires one. Pass target.detach()")
    checks.same_device(op, "codebook", codebook, name, v)
    shown(codebook)
    if checks.may_read_values(codebook):
        derived(codebook, "checked", lambda: _require_signs(op, codebook))
    return v, checked, codebook


def _check_target(op: str, target: Any, rows: int, classes: int, ignore_index: int, latent: torch.dtype) -> Target:
    """Return a checked target of any kind in the form that the registered op takes."""
    if isinstance(target, tuple) or (isinstance(target, Tensor) and target.layout != torch.strided):
        return _check_sparse_target(op, target, rows, classes, latent)
    if isinstance(target, Tensor) and is_integer(target):  # other numbers [N, 1] are the weights of the codebook's only class
        target = flatten_column(op, "target", target)
    if not isinstance(target, Tensor) or target.shape not in ((rows,), (rows, classes)) or _wrong_ids(target):
        expected = f"int64 class ids [{rows}], or multi-hot or soft targets [{rows}, {classes}], dense or sparse"
        error = ValueError if isinstance(target, Tensor) and not _wrong_ids(target) else TypeError
        hint = ". Convert class ids with .long()" if error is TypeError and isinstance(target, Tensor) else ""
        raise error(f"{op}: target must be {expected}; got {checks.describe(target)}{hint}")
    if target.ndim == 2:
        return Target(_check_weights(op, target, latent), None, None)
    if rows and checks.may_read_values(target):
        bad = _class_outside(target, classes, ignore_index)
        if bad is not None:
            raise ValueError(
                f"{op}: target has class {bad}; expected ids from 0 to {classes - 1} (the codebook has {classes} rows) "
                f"or ignore_index = {ignore_index}"
            )
    return Target(target, None, None)


def _wrong_ids(target: Tensor) -> bool:
    return target.ndim == 1 and target.dtype != torch.int64


def _class_outside(target: Tensor, classes: int, ignore_index: int) -> int | None:
    if target.device.type == "cpu":  # compiled, because the check of a small batch must not take as long as its loss
        return dispatch.implementation(OP, "cpu").class_outside(target.contiguous(), classes, ignore_index)
    outside = target[((target < 0) | (target >= classes)) & (target != ignore_index)]
    return int(outside[0]) if len(outside) else None


def _check_weights(op: str, weights: Tensor, latent: torch.dtype) -> Tensor:
    """Check the weights of classes, and return them as floats: a dense [N, C] target, or the values of a sparse one [nnz]."""
    if weights.is_complex():
        raise TypeError(f"{op}: target must be real; got {checks.describe(weights)}")
    if not weights.is_floating_point():
        weights = weights.to(torch.float64 if latent == torch.float64 else torch.float32)
    if weights.numel() and checks.may_read_values(weights):
        low, high = map(float, torch.aminmax(weights.detach()))
        if not (low >= 0 and high < math.inf):
            found = f"negative entries (smallest {low:.4g})" if low < 0 else "entries that are NaN or infinite"
            raise ValueError(f"{op}: target has {found}; soft targets are at least 0 and finite")
    return weights


def _check_sparse_target(op: str, target: Any, rows: int, classes: int, latent: torch.dtype) -> Target:
    """Return a checked sparse target [N, C], given as a sparse tensor or as its three parts."""
    if isinstance(target, Tensor):
        if target.layout == torch.sparse_coo and target.is_coalesced():
            target = target.to_sparse_csr()
        if target.layout != torch.sparse_csr:
            hint = ".coalesce()" if target.layout == torch.sparse_coo else ".to_sparse_csr()"
            raise ValueError(
                f"{op}: a sparse target must be torch.sparse_csr or coalesced torch.sparse_coo; got {target.layout}"
                f"{', not coalesced' if target.layout == torch.sparse_coo else ''}. Convert it with {hint}"
            )
        if target.shape != (rows, classes):
            raise ValueError(f"{op}: a sparse target must be [{rows}, {classes}]; got {list(target.shape)}")
        target = target.crow_indices(), target.col_indices(), target.values()
    if len(target) != 3 or not all(isinstance(part, Tensor) and part.ndim == 1 for part in target):
        raise TypeError(
            f"{op}: a target in parts must be the tensors (crow_indices, col_indices, values); got {short_repr(target)}"
        )
    starts, columns, values = target
    if starts.dtype not in (torch.int32, torch.int64) or columns.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: crow_indices and col_indices of target must be int64; got {starts.dtype} and {columns.dtype}")
    if len(starts) != rows + 1 or len(columns) != len(values):
        raise ValueError(
            f"{op}: target must have crow_indices [{rows + 1}] and as many col_indices as values; "
            f"got [{len(starts)}], [{len(columns)}] and [{len(values)}]"
        )
    values = _check_weights(op, values, latent).to(torch.float64 if latent == torch.float64 else torch.float32)
    checked = Target(starts.long(), columns.long(), values)
    if checks.may_read_values(columns):
        _check_entries(op, starts, columns, classes)
    return checked


def _check_entries(op: str, starts: Tensor, columns: Tensor, classes: int) -> None:
    """Raise ValueError unless a sparse target has valid row starts, and ascending class ids in every row."""
    entries = len(columns)
    if starts[0] != 0 or starts[-1] != entries or bool((starts.diff() < 0).any()):
        raise ValueError(f"{op}: crow_indices of target must rise from 0 to its {entries} entries")
    if not entries:
        return
    low, high = map(int, torch.aminmax(columns))
    if low < 0 or high >= classes:
        bad = low if low < 0 else high
        raise ValueError(
            f"{op}: target has class {bad}; expected columns from 0 to {classes - 1} (the codebook has {classes} rows)"
        )
    ascending = F.pad(columns.diff() > 0, (1, 0), value=True)
    ascending[starts[:-1][starts.diff() > 0]] = True  # first entries of rows
    if not bool(ascending.all()):
        row = int((starts <= int(ascending.long().argmin())).sum()) - 1
        raise ValueError(
            f"{op}: target has columns that repeat or are out of order in row {row}; expected ascending columns. "
            "torch.sparse_coo_tensor(indices, values, size).coalesce() sorts and merges them"
        )


def _require_signs(op: str, codebook: Tensor) -> bool:
    if not bool((codebook.abs() == 1).all()):
        values = codebook.unique().tolist()
        raise ValueError(f"{op}: codebook must hold +1 and -1 only; got values {values[:6]}. From 0/1 bits: 2 * bits - 1")
    return True


def evaluate(
    op: str,
    name: str,  # the name of v in errors
    v: Any,
    target: Any,
    codebook: Any,
    norm: batch_norm.BatchNorm | None,
    *,
    scale: float | None,
    margin: float,
    margin_type: MarginType,
    label_smoothing: float,
    ignore_index: int,
    reduction: Reduction,
    precision: Precision | None,
    impl: dispatch.ImplChoice,
    return_lse: bool,
) -> Any:
    """Compute the loss for `cosine_codebook_loss` and, with batch normalisation by `norm`, for `orthohash_loss`."""
    bits = v.shape[-1] if isinstance(v, Tensor) and v.ndim else 1
    checked = check_options(
        op, scale=scale, margin=margin, margin_type=margin_type, label_smoothing=label_smoothing, ignore_index=ignore_index,
        reduction=reduction, precision=precision, impl=impl, return_lse=return_lse,
    )  # fmt: skip
    options = Options.of(bits, checked)
    v, positives, codebook = check_inputs(op, name, v, target, codebook, options.ignore_index)
    if norm is not None:
        norm = norm.checked(op, v)
    chosen = dispatch.choose(op, impl, v)
    if chosen == "reference":
        with torch.autocast(v.device.type, enabled=False):
            keywords = {key: value for key, value in checked.items() if key not in ("precision", "impl")}
            return _evaluate_reference(op, v, positives, codebook, norm, **keywords)
    dispatch.refuse_float64(op, chosen, **{name: v})
    wanted = [v] if norm is None else [v, norm.weight, norm.bias]
    need_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in wanted)
    arguments = *positives, codebook, *options, chosen, reduction, need_grad, need_grad and return_lse
    if norm is None:
        loss, lse, *_ = codebook_loss(v, *batch_norm.NO_NORM, *arguments)
    else:
        statistics = norm.statistics(v, chosen)
        loss, lse, *_ = codebook_loss(v, *norm.normalisation(statistics), *arguments)
        norm.update_running(statistics)  # done last, so that an error above leaves them unchanged
    return (loss, lse) if return_lse else loss


def _evaluate_reference(
    op: str, v: Tensor, positives: Target, codebook: Tensor, norm: batch_norm.BatchNorm | None, **keywords: Any
) -> Any:
    """Compute the loss with the reference implementation."""
    v = v.float() if v.dtype.itemsize < 4 else v
    target, columns, values = positives
    if columns is not None and values is not None:
        target = torch.sparse_csr_tensor(target, columns, values, (len(v), len(codebook)), check_invariants=False)
    if norm is None:
        return dispatch.implementation(OP, "reference").cosine_codebook_loss(v, target, codebook, **keywords)
    if norm.process_group is not None:
        raise ValueError(f'{op}: impl="reference" does not support process_group; use impl="auto"')
    module = dispatch.implementation("orthohash_loss", "reference")
    running = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    options = dict(training=norm.training, eps=norm.eps, **keywords)
    result = module.orthohash_loss(v, target, codebook, *running, norm.weight, norm.bias, **options)
    if norm.training:
        found = module.statistics(v, norm.eps)
        mean = found.mean.detach() * found.unit
        norm.update_running(batch_norm.Found(mean, found.rstd, found.unbiased, len(v)))
    return result
