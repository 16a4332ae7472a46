"""Weighted pairwise logistic likelihood of a batch with itself or with a bank, without storing the matrix of pairs."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .._base import checks
from .._base.labels import flatten_column
from . import dispatch
from ._codebook_loss import LATENT_DTYPES, REDUCTIONS, Reduction
from ._pairwise_op import OP, pairwise_likelihood, wide_dtype

Similarity = Literal["any", "jaccard", "squared_cosine"]
SIMILARITIES = get_args(Similarity)


def pairwise_likelihood_loss(
    z: Tensor,
    target: Tensor,
    bank: Tensor | None = None,
    bank_target: Tensor | None = None,
    *,
    alpha: float,
    positive_weight: float | Literal["balanced"] | None = None,
    similarity: Similarity = "any",
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    impl: dispatch.ImplChoice = "auto",
) -> Tensor:
    """Return the weighted logistic loss of whether two codes share a class, over all pairs of z with the bank.

        L = sum_ij w_ij [log(1 + exp(theta_ij)) - s_ij theta_ij] / normaliser,  theta_ij = alpha <z_i, b_j>

    with s_ij = 1 if the two rows share a class, else 0. These settings give the losses of the literature:

    | system | alpha | positive_weight | similarity |
    | --- | --- | --- | --- |
    | DHN (Zhu et al., AAAI 2016) | 1 | None | "any" |
    | DPSH (Li et al., IJCAI 2016) | 1/2 | None | "any" |
    | HashNet, the paper (Cao et al., ICCV 2017, equation 2) | 10 / K | "balanced" | "jaccard" |
    | HashNet, the released PyTorch code | 10 / K | its class_num: 100, 5 or 1 | "any" |
    | HashNet, the released Caffe code | 10 / K | its class_num | "squared_cosine" |

    Args:
        z: continuous codes, float32, float16, bfloat16 (float64 on a CPU) [N, K].
        target: int64 class ids [N] (or a column [N, 1] of them); or multi-hot [N, C] of zeros and ones, of any real dtype or
            bool. A row of zeros is similar to nothing, itself included, and dissimilar to everything, as in the released codes.
        bank: codes to pair z with [M, K], such as a memory bank or another batch. None pairs z with itself: all N^2 ordered
            pairs, including the diagonal, as in the released code of DHN; z then gets the gradient of both its roles.
        bank_target: the labels of the bank, of the same kind as target: int64 [M], or multi-hot [M, C].
        alpha: positive and finite factor of the inner products.
        positive_weight: factor of similar pairs in w. None is 1. A number p is the class_num of HashNet's released code, which
            also changes the normaliser. "balanced" is HashNet's paper: similar pairs weigh |S| / |S1|, dissimilar ones |S| /
            |S0|, from the pairs of this call; a kind without pairs contributes 0.
        similarity: a further factor c_ij of similar pairs in w, computed from the sets of classes y:
            "any": 1;
            "jaccard": |y_i & y_j| / |y_i | y_j|, HashNet's paper;
            "squared_cosine": 4 |y_i & y_j|^2 / (|y_i| |y_j|), HashNet's Caffe code. That code applies it to the gradient only;
            here it is part of the loss, which has the same gradient. It is 4 for one class per row.
        ignore_index: rows with this class id, in target or bank_target, are unknown: all their pairs are omitted.
        reduction: "mean": divide by the number of pairs, or for a positive_weight p by
            p * (similar pairs) + (dissimilar pairs), as in the code of HashNet; NaN if no pair is left, as in torch.
            "sum": no normaliser. "none": the sum of each row [N].
            z or bank without rows: 0 for all of them, with a gradient of 0, so that a process of a group whose batch is empty
            takes part in the backward of the others.
        impl: "auto" | "triton" | "cpu" | "reference".

    Returns:
        The loss, float32 whatever the dtype of z (float64 if z or the bank is float64): a scalar, or [N] for reduction="none".
        z gets a gradient, and so does the bank if it requires one.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device or option, and, in host memory, a
            multi-hot entry that is neither 0 nor 1; elsewhere any entry but 0 counts as 1 (ORTHOHASH_VALIDATE=1 checks it too).

    Memory beyond inputs and gradients is O((N + M) K). theta may have any size. Results are bitwise repeatable. A NaN or infinity
    in z affects only the rows that it is paired with. There is no second derivative except with impl="reference". On a GPU
    nothing is read back.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> z = torch.tensor([[2.0, 2.0], [2.0, 2.0], [-2.0, -2.0]], requires_grad=True)
        >>> target = torch.tensor([0, 0, 1])
        >>> oht.pairwise_likelihood_loss(z, target, alpha=0.5)  # doctest: +ELLIPSIS
        tensor(0.0181, grad_fn=...)
        >>> bank, bank_target = torch.tensor([[1.0, 1.0]]), torch.tensor([1])
        >>> oht.pairwise_likelihood_loss(z, target, bank, bank_target, alpha=0.5, reduction="none").detach()
        tensor([2.1269, 2.1269, 2.1269])
    """
    options = check_options(
        OP, alpha=alpha, positive_weight=positive_weight, similarity=similarity, ignore_index=ignore_index, reduction=reduction,
        impl=impl,
    )  # fmt: skip
    alpha, positive_weight, similarity, ignore_index, reduction, impl = options.values()
    z, target, bank, bank_target = _check_inputs(z, target, bank, bank_target)
    chosen = dispatch.choose(OP, impl, z)
    if len(z) == 0 or (bank is not None and len(bank) == 0):
        return _without_pairs(z, bank, reduction)

    wide = wide_dtype(z, bank)
    if chosen == "reference":
        with torch.autocast(z.device.type, enabled=False):
            return dispatch.implementation(OP, chosen).pairwise_likelihood_loss(
                z.to(wide), target, None if bank is None else bank.to(wide), bank_target, alpha=alpha,
                positive_weight=positive_weight, similarity=similarity, ignore_index=ignore_index, reduction=reduction,
            )  # fmt: skip
    dispatch.refuse_float64(OP, chosen, z=z, bank=bank)
    balanced = positive_weight == "balanced"
    weight = None if isinstance(positive_weight, str) else positive_weight
    need_grad = torch.is_grad_enabled() and z.requires_grad
    arguments = (alpha, weight, balanced, similarity, ignore_index, chosen, reduction, need_grad)
    return pairwise_likelihood(z, bank, target, bank_target, *arguments)[0]


def check_options(
    op: str,
    *,
    alpha: float,
    positive_weight: float | Literal["balanced"] | None,
    similarity: Similarity,
    ignore_index: int,
    reduction: Reduction,
    impl: dispatch.ImplChoice,
) -> dict[str, Any]:
    """Check the options, and return them by name, with numbers of NumPy and PyTorch as those of Python.

    Raises TypeError or ValueError for an invalid value.
    """
    if positive_weight is not None and not (isinstance(positive_weight, str) and positive_weight == "balanced"):
        positive_weight = checks.factor(op, "positive_weight", positive_weight, alternatives='None, "balanced" or ')
    checks.choice(op, "similarity", similarity, SIMILARITIES)
    checks.choice(op, "reduction", reduction, REDUCTIONS)
    dispatch.check_choice(op, impl)
    return dict(
        alpha=checks.factor(op, "alpha", alpha),
        positive_weight=positive_weight,
        similarity=similarity,
        ignore_index=checks.class_id(op, "ignore_index", ignore_index),
        reduction=reduction,
        impl=impl,
    )


def _without_pairs(z: Tensor, bank: Tensor | None, reduction: Reduction) -> Tensor:
    """Return the loss 0, which passes gradients of 0 to z and the bank, so that processes with and without rows stay in step."""
    rows = z[:, :0].sum(1, dtype=wide_dtype(z, bank))  # [N], whatever the numbers are
    if bank is not None:
        rows = rows + bank[:0].sum()
    return rows if reduction == "none" else rows.sum()


def _check_inputs(z: Any, target: Any, bank: Any, bank_target: Any) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return z, target, bank and bank_target after checking that they match."""
    z = _check_codes("z", z, "[N, K]")
    target = _check_labels("target", target, "z", z)
    if bank is None and bank_target is None:
        return z, target, None, None
    if bank is None or bank_target is None:
        given, missing = ("bank_target", "bank") if bank is None else ("bank", "bank_target")
        raise ValueError(
            f"{OP}: bank and bank_target must be given together; got {given} without {missing}. Pass both, or neither"
        )
    bank = _check_codes("bank", bank, "[M, K]")
    if bank.shape[1] != z.shape[1]:
        raise ValueError(
            f"{OP}: bank must have the {z.shape[1]} dimensions of z; got {checks.describe(bank)}. Use codes of one model for both"
        )
    checks.same_device(OP, "bank", bank, "z", z)
    bank_target = _check_labels("bank_target", bank_target, "bank", bank)
    if target.shape[1:] != bank_target.shape[1:]:
        raise ValueError(
            f"{OP}: bank_target must be of the kind of target, class ids or multi-hot over the same classes; "
            f"got {checks.describe(bank_target)} for target {checks.describe(target)}. Use one kind for both"
        )
    return z, target, bank, bank_target


def _check_codes(name: str, value: Any, shape: str) -> Tensor:
    checked = checks.tensor(OP, name, value, dtypes=LATENT_DTYPES, ndim=2, shape=shape)
    if checked.shape[1] == 0:
        raise ValueError(f"{OP}: {name} must have at least one dimension; got {checks.describe(checked)}")
    return checked


def _check_labels(name: str, value: Any, owner: str, codes: Tensor) -> Tensor:
    """Return the labels `value` after checking that they fit the rows of `codes`, the argument `owner`."""
    rows = len(codes)
    value = flatten_column(OP, name, value) if isinstance(value, Tensor) else value
    multi_hot = isinstance(value, Tensor) and value.ndim == 2
    right_kind = isinstance(value, Tensor) and (multi_hot or value.dtype == torch.int64) and not value.is_complex()
    if not right_kind or value.ndim not in (1, 2) or len(value) != rows or value.shape[1:] == (0,):
        expected = f"int64 class ids [{rows}], or multi-hot [{rows}, C], one row for each of {owner}"
        hint = ". Convert class ids with .long()" if isinstance(value, Tensor) and value.ndim == 1 and not right_kind else ""
        error = ValueError if right_kind else TypeError
        raise error(f"{OP}: {name} must be {expected}; got {checks.describe(value)}{hint}")
    checks.same_device(OP, name, value, owner, codes)
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{OP}: {name} gets no gradient, but it requires one. Pass {name}.detach()")
    if multi_hot and value.dtype != torch.bool and checks.may_read_values(value):
        _require_zeros_and_ones(name, value)
    return value


def _require_zeros_and_ones(name: str, value: Tensor) -> None:
    other = (value != 0) & (value != 1)
    if bool(other.any()):
        row, column = other.nonzero()[0].tolist()
        found = value[row, column].item()
        raise ValueError(f"{OP}: {name} must hold 0 and 1 only; got {found} at [{row}, {column}]. Use ({name} > 0)")
