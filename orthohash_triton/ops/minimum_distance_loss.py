"""The loss of MDS: softmax over the cosines to the centres, pairs of one class, and a quantisation term."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._base import checks
from .._base.labels import flatten_column
from .._base.modes import without_autocast
from .._base.rows import unit_rows
from . import _plain
from .quantization_loss import KINDS, Kind, row_penalty


def minimum_distance_loss(
    u: Tensor,
    target: Tensor,
    codebook: Tensor,
    bank: Tensor | None = None,
    bank_target: Tensor | None = None,
    *,
    scale: float | None = None,
    pair_weight: float = 1.0,
    quantization_weight: float = 1e-4,
    quantization: Kind = "l2",
    ignore_index: int = -100,
) -> Tensor:
    """Return L_C + pair_weight * L_P + quantization_weight * L_Q, the loss of MDS (Wang et al., CVPR 2023).

    - L_C: with p = softmax_c(scale * cos(u, h_c)) and y the classes of the row, the mean over rows and classes of
      `-[y log p + (1 - y) log(1 - p)]`: a binary cross entropy on the output of a softmax.
    - L_P: the mean over pairs of a row and a bank row of the same class of `log(1 + exp((1 - cos)/2))`; 0 where there is no such
      pair. The released code adds it from the tenth epoch on (omit `bank` until then), with the outputs of a momentum
      encoder for the training set as bank.
    - L_Q: `quantization_loss(u, quantization)`, the mean of (|u| - 1)^2 in the released code.

    log(1 - p) of the most probable class is computed from the other classes, so that it remains exact as p approaches 1, where
    the released code returns -inf.

    Args:
        u: latents, float32, float16, bfloat16 or float64 [N, K].
        target: int64 class ids [N], or multi-hot [N, C] of any real dtype (entries above 0 are classes of the row; the
            released code supports one class per row).
        codebook: int8 +-1 [C, K], C at least 2, one centre per class, as from `make_codebook(method="minimum_distance")`.
        bank: codes to pair with, floating [M, K]; None omits L_P. It gets a gradient if it requires one. Rows of zeros are
            samples that were not seen yet, and are ignored. The cosines are a matrix [N, M].
        bank_target: its classes, of the same kind as target: [M] or [M, C]. Two rows of several classes match if they share one.
        scale: factor of the cosine; None is sqrt(K), as in the released code.
        pair_weight: weight of L_P (beta of the released code, 1).
        quantization_weight: weight of L_Q (1e-4 in the released code).
        quantization: a kind of `quantization_loss`: "log_cosh", "l1", "l2", "cosine".
        ignore_index: rows with this class id, and rows of a [N, C] target without a class, are ignored.

    Returns:
        The loss, a float32 scalar (float64 for float64); NaN if no row is labelled, as in torch, or if a labelled row of u, or a
        row of the bank that is paired with one, has an entry that is NaN or infinite.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device, option, class id or codebook, or one of bank and bank_target
            without the other. On a GPU, where reading values would stall the stream, a class id of target outside [0, C) makes
            the loss NaN instead.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> codebook = oht.make_codebook(10, 16, seed=0)
        >>> u, target = codebook[:3].float(), torch.tensor([0, 1, 2])  # codes on the centres of their classes
        >>> oht.minimum_distance_loss(u, target, codebook) < oht.minimum_distance_loss(u, target + 1, codebook)
        tensor(True)
        >>> bank, bank_target = codebook[[0, 5]].float(), torch.tensor([0, 5])  # one pair of one class, with cosine 1
        >>> with_pairs = oht.minimum_distance_loss(u, target, codebook, bank, bank_target)
        >>> (with_pairs - oht.minimum_distance_loss(u, target, codebook)).item()  # doctest: +ELLIPSIS
        0.693...
    """
    op = "minimum_distance_loss"
    options = check_options(
        op, scale=scale, pair_weight=pair_weight, quantization_weight=quantization_weight, quantization=quantization,
        ignore_index=ignore_index,
    )  # fmt: skip
    scale, pair_weight, quantization_weight, quantization, ignore_index = options.values()
    u, target, codebook = _plain.labels(op, "u", u, target, codebook, ignore_index)
    require_two_classes(op, codebook)
    scale = math.sqrt(u.shape[1]) if scale is None else scale
    if (bank is None) != (bank_target is None):
        given, missing = ("bank", "bank_target") if bank_target is None else ("bank_target", "bank")
        raise ValueError(f"{op}: {missing} is missing; give {given} and {missing} together, or neither")
    if bank is not None:
        bank, bank_target = _check_bank(op, u, target, codebook, bank, bank_target, ignore_index)

    labelled = _plain.labelled_rows(target, ignore_index)
    u = _plain.or_nan(torch.where(labelled[:, None], _plain.widened(u), 0))
    with without_autocast(u):
        direction = unit_rows(u)
        loss = _plain.reduce(_centre_term(direction, target, codebook, labelled, scale, ignore_index), labelled, "mean")
        if bank is not None and bank_target is not None and pair_weight:
            loss = loss + pair_weight * _pair_term(direction, target, bank, bank_target, labelled, ignore_index)
        if quantization_weight:
            penalty = torch.where(labelled, row_penalty(u, quantization), 0)
            loss = loss + quantization_weight * _plain.reduce(penalty, labelled, "mean")
    return loss


def check_options(
    op: str, *, scale: float | None, pair_weight: float, quantization_weight: float, quantization: Kind, ignore_index: int
) -> dict[str, Any]:
    """Check the options, and return them by name, with numbers of NumPy and PyTorch as those of Python.

    Raises TypeError or ValueError for an invalid value.
    """
    checks.choice(op, "quantization", quantization, KINDS)
    return dict(
        scale=None if scale is None else checks.factor(op, "scale", scale, hint="None takes sqrt(bits)"),
        pair_weight=checks.factor(op, "pair_weight", pair_weight, zero=True),
        quantization_weight=checks.factor(op, "quantization_weight", quantization_weight, zero=True),
        quantization=quantization,
        ignore_index=checks.class_id(op, "ignore_index", ignore_index),
    )


def require_two_classes(op: str, codebook: Tensor) -> None:
    """Raise ValueError unless `codebook` [C, K] has at least two classes."""
    if len(codebook) < 2:
        raise ValueError(f"{op}: codebook must have at least two rows, because the loss compares classes; got one")


def _check_bank(
    op: str, u: Tensor, target: Tensor, codebook: Tensor, bank: Any, bank_target: Any, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return the bank and its labels after checking that they match u, target and codebook."""
    bank = _plain.latents(op, "bank", bank)
    if bank.shape[1] != u.shape[1]:
        raise ValueError(f"{op}: bank has {bank.shape[1]} bits, u has {u.shape[1]}; both must be codes of one length")
    checks.same_device(op, "bank", bank, "u", u)
    bank_target = flatten_column(op, "bank_target", bank_target) if isinstance(bank_target, Tensor) else bank_target
    if not isinstance(bank_target, Tensor) or bank_target.ndim != target.ndim or len(bank_target) != len(bank):
        shape = f"[{len(bank)}]" if target.ndim == 1 else f"[{len(bank)}, {len(codebook)}]"
        raise (ValueError if isinstance(bank_target, Tensor) else TypeError)(
            f"{op}: bank_target must be of the same kind as target, {shape}; got {checks.describe(bank_target)}"
        )
    return bank, _plain.labels(op, "bank", bank, bank_target, codebook, ignore_index)[1]


def _centre_term(
    direction: Tensor, target: Tensor, codebook: Tensor, labelled: Tensor, scale: float, ignore_index: int
) -> Tensor:
    """Return the centre term L_C of every row [N], 0 for rows without a class."""
    classes, bits = codebook.shape
    logits = direction @ codebook.to(direction.dtype).T * (scale / math.sqrt(bits))  # [N, C]
    column = torch.arange(classes, device=logits.device)
    positive = target[:, None] == column if target.ndim == 1 else target > 0
    log_p = F.log_softmax(logits, 1)
    first = logits.argmax(1, keepdim=True) == column  # the most probable class, whose p may be near 1
    others = torch.logsumexp(log_p.masked_fill(first, -torch.inf), 1, keepdim=True)
    log_not_p = torch.where(first, others, torch.log1p(-log_p.exp().masked_fill(first, 0)))
    loss = -torch.where(positive, log_p, log_not_p).mean(1)
    if target.ndim == 1:
        loss = loss.masked_fill(_plain.unknown_class(target, classes, ignore_index), float("nan"))
    return torch.where(labelled, loss, 0)


def _pair_term(
    direction: Tensor, target: Tensor, bank: Tensor, bank_target: Tensor, labelled: Tensor, ignore_index: int
) -> Tensor:
    """Return the pair term L_P, a scalar."""
    if target.ndim == 1:
        same = target[:, None] == bank_target  # [N, M]
    else:
        same = (target > 0).to(direction.dtype) @ (bank_target > 0).to(direction.dtype).T > 0
    same = same & labelled[:, None] & bank.any(1)
    bank = torch.where(same.any(0)[:, None], bank.to(direction.dtype), 0)  # NaN in other rows would reach every gradient
    cosine = direction @ unit_rows(bank).T
    loss = torch.where(same, F.softplus((1 - cosine) / 2), 0)
    return loss.sum() / same.sum().clamp(min=1)
