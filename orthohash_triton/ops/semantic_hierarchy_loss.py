"""The loss of SHREWD: distances of codes follow distances of classes, and codes are distributed like random binary ones."""

import math
from typing import Any

import torch
from torch import Tensor

from .._base import checks
from .._base.labels import flatten_column, is_integer
from . import _plain
from ._derived import derived, shown

_OP = "semantic_hierarchy_loss"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_CHUNK = 2**25  # elements of the largest intermediate
_LEAST_FLOOR = 1e-15  # its square is a normal float32
_LARGE = 1e15  # squares of smaller differences, and their sums, stay within float32


def semantic_hierarchy_loss(
    z: Tensor,
    target: Tensor | None = None,
    class_distance: Tensor | None = None,
    *,
    pair_distance: Tensor | None = None,
    relational_weight: float = 1.0,
    kl_weight: float = 0.01,
    scale: float | None = None,
    pair_decay: float = 2.0,
    binary_target: Tensor | None = None,
    draws: int | None = None,
    distance_floor: float = 1e-3,
    generator: torch.Generator | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Return `relational_weight * R + kl_weight * D / K`: R fits distances of codes to those of classes, D makes codes binary.

    SHREWD (Arponen and Bishop, 2019, arXiv 1908.05602; with the estimator named in their arXiv 2005.04917). No code was released
    and the constants of the papers could not be confirmed: the two terms are theirs, while scale, weights and floor as described
    below are derived here. Their optional classification loss is not included.

    The relational term compares scaled Manhattan distances with semantic distances d of the pairs of the batch:

        R = (1/N^2) sum_{b,b'} w_bb' | scale * |z_b - z_b'|_1 - d_bb' |,

    with w_bb' proportional to exp(-pair_decay * d_bb') and of mean 1: a weighted mean over the pairs b != b'. Weights decrease
    with d because near pairs are rare: in a batch of C balanced classes only one pair in C has the same class. Two independent
    uniform codes of +-1 differ in K/2 bits on average, each by 2, so E|z - z'|_1 = K. With scale = (mean semantic distance of
    two independent samples) / K such codes are, on average, as far apart as their classes, and R and D do not conflict.

    The divergence term is the nearest-neighbour estimate (Kozachenko and Leonenko, 1987; Wang, Kulkarni and Verdú, 2009) of the
    Kullback-Leibler divergence D(p || q), in nats, of the codes' density p from the target's q. Let c_K be the volume of the unit
    ball, rho_b the Euclidean distance from z_b to the nearest of the N - 1 other codes, nu_b that to the nearest of M draws from
    q. The densities at z_b are about p = 1 / ((N - 1) c_K rho_b^K) and q = 1 / (M c_K nu_b^K), and the mean of log p/q is

        D = (K/N) sum_b [ log nu_b - log rho_b ] + log(M / (N - 1)).

    It moves every code towards the nearest of some random binary codes and away from its nearest neighbour. With M far below 2^K
    even the nearest draw is far away, so the term balances and spreads the bits more than it makes them binary. In high
    dimensions the estimate is biased, and the true divergence from a discrete target is infinite: use the value to compare steps
    of a training, not as a measurement.

    Args:
        z: codes, float32, float16, bfloat16 or float64 [N, K] in (-1, 1), such as `torch.tanh(latent)`. (The papers' outputs u in
            (0, 1) are z = 2u - 1.) Computed in float32, or float64 for float64.
        target: int64 class ids [N], or multi-hot rows [N, C] of 0 and 1 in any real or bool dtype. The distance of two sets
            of classes is the mean, over both sets, of the distance from a class to the nearest class of the other set: 0 for
            equal sets alone, and the class distance for sets of one class. A row without a class is omitted from R.
        class_distance: floating [C, C], symmetric, at least 0, zero diagonal, as from `class_distance(hierarchy, classes)`.
        pair_distance: floating [N, N], at least 0, in place of target and class_distance: semantic distances of the samples
            themselves, for weak supervision (as 1 - cosine of text embeddings). Its diagonal is not used.
        relational_weight, kl_weight: at least 0; a term of weight 0 is not computed. D is divided by K, so that one weight
            suits all K. D does not depend on classes: a weight above about 0.03 harms retrieval.
        scale: positive. None is a mean distance divided by K: for class ids, which are assumed to be equally frequent, the mean
            of class_distance over all C^2 pairs; for multi-hot targets and pair_distance, the mean over the pairs b != b'.
        pair_decay: at least 0; 0 gives all pairs the same weight.
        binary_target: floating [M, K], M at least 1: draws from q, without gradient. None draws fair coin flips of +-1 in every
            call. Another suitable q is `2 * torch.distributions.Beta(0.1, 0.1).sample((M, K)) - 1`, which has a density.
        draws: M, the number of draws without a binary_target; None is N.
        distance_floor: at least 1e-15; nearest-neighbour distances below it are replaced by it and have no gradient, so that
            equal codes, and codes equal to a draw, give a finite loss.
        generator: generator of the draws, on the device of z; None is the global one of torch.
        ignore_index: rows with this class id take no part in either term, whatever numbers they hold.

    Returns:
        The loss, a float32 scalar (float64 for float64 z). Memory grows with N^2, not N^2 K. A class id outside [0, C) makes it
        NaN on a GPU (ORTHOHASH_VALIDATE=1 makes it an error there too), and so does an entry of z that is NaN or infinite. If no
        pair has a distance, R is 0. Fewer than two rows that take part have neither term: the loss and its gradient are 0, so
        that a process of a group whose batch is empty takes part in the backward of the others.

    Raises:
        TypeError, ValueError: for a wrong dtype, shape, device or option, a class id outside [0, C), or distances that are
            negative, not finite, not symmetric or not zero on the diagonal.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> distance = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> z = torch.tensor([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])  # Manhattan distances 0 and 4
        >>> oht.semantic_hierarchy_loss(z, torch.tensor([0, 0, 1]), distance, kl_weight=0.0, scale=0.25)
        tensor(0.)
    """
    options = check_options(
        _OP, relational_weight=relational_weight, kl_weight=kl_weight, scale=scale, pair_decay=pair_decay, draws=draws,
        distance_floor=distance_floor, ignore_index=ignore_index,
    )  # fmt: skip
    relational_weight, kl_weight, scale, pair_decay, draws, distance_floor, ignore_index = options.values()
    z = checks.tensor(_OP, "z", z, dtypes=_FLOATS, ndim=2, shape="[N, K]")
    if z.shape[1] == 0:
        raise ValueError(f"{_OP}: z must have at least one bit; got {checks.describe(z)}")
    binary_target = check_draws(_OP, binary_target, z.shape[1])
    if binary_target is not None:
        checks.same_device(_OP, "binary_target", binary_target, "z", z)
    known = _check_supervision(z, target, class_distance, pair_distance, ignore_index)
    with torch.autocast(z.device.type, enabled=False):
        z = z if z.dtype == torch.float64 else z.float()
        if len(z) < 2:
            return z[:0].sum()
        kept = known[0] != ignore_index if known[0] is not None and known[0].ndim == 1 else None  # bool [N], or None for all
        z = _plain.or_nan(z if kept is None else torch.where(kept[:, None], z, 0))
        loss = z[:0].sum()  # 0, with a gradient
        if relational_weight:
            loss = loss + relational_weight * _relational(z, *_semantic(z, *known, kept), scale, pair_decay)
        if kl_weight:
            if binary_target is None:
                binary_target = _coin_flips(len(z) if draws is None else draws, z, generator)
            loss = loss + kl_weight / z.shape[1] * _divergence(z, binary_target.to(z.dtype), distance_floor, kept)
        return loss


def check_options(
    op: str,
    *,
    relational_weight: float,
    kl_weight: float,
    scale: float | None,
    pair_decay: float,
    draws: int | None,
    distance_floor: float,
    ignore_index: int,
) -> dict[str, Any]:
    """Check the options, and return them by name, with numbers of NumPy and PyTorch as those of Python.

    Raises TypeError or ValueError for an invalid value.
    """
    floor = checks.number(op, "distance_floor", distance_floor)
    if not _LEAST_FLOOR <= floor < math.inf:
        raise ValueError(f"{op}: distance_floor must be at least {_LEAST_FLOOR} and finite; got {floor}")
    return dict(
        relational_weight=checks.factor(op, "relational_weight", relational_weight, zero=True),
        kl_weight=checks.factor(op, "kl_weight", kl_weight, zero=True),
        scale=None if scale is None else checks.factor(op, "scale", scale),
        pair_decay=checks.factor(op, "pair_decay", pair_decay, zero=True),
        draws=None if draws is None else checks.integer(op, "draws", draws, minimum=1),
        distance_floor=floor,
        ignore_index=checks.class_id(op, "ignore_index", ignore_index),
    )


def check_class_distance(op: str, distance: Any) -> Tensor:
    """Return distances of classes [C, C] for a module to keep, after checking their values too, on whatever device they are.

    Raises:
        TypeError: `distance` is no floating tensor.
        ValueError: it is not square, or not symmetric with a zero diagonal and entries that are at least 0 and finite.
    """
    distance = checks.tensor(op, "class_distance", distance, dtypes=_FLOATS, ndim=2, shape="[C, C]")
    if distance.shape[0] != distance.shape[1] or not len(distance):
        raise ValueError(f"{op}: class_distance must be [C, C] with at least one class; got {checks.describe(distance)}")
    if checks.has_values(distance):
        _require_distances(op, "class_distance", distance, between_classes=True)
    return distance


def check_draws(op: str, binary_target: Any, bits: int | None = None) -> Tensor | None:
    """Return the draws [M, K] of the target distribution, or None, after checking them; `bits` is K if it is known."""
    if binary_target is None:
        return None
    checked = checks.tensor(op, "binary_target", binary_target, dtypes=_FLOATS, ndim=2, shape="[M, K]")
    if 0 in checked.shape or bits not in (None, checked.shape[1]):
        width = "K] with M > 0 and K > 0" if bits is None else f"{bits}] with M > 0, as z has bits"
        raise ValueError(f"{op}: binary_target must be [M, {width}; got {checks.describe(checked)}")
    return checked.detach()


Supervision = tuple[Tensor | None, Tensor | None, Tensor | None]  # target, class_distance, pair_distance


def _check_supervision(z: Tensor, target: Any, class_distance: Any, pair_distance: Any, ignore_index: int) -> Supervision:
    by_class = target is not None or class_distance is not None
    if by_class == (pair_distance is not None) or (by_class and (target is None or class_distance is None)):
        given = {"target": target, "class_distance": class_distance, "pair_distance": pair_distance}
        names = ", ".join(name for name, value in given.items() if value is not None) or "none of them"
        raise ValueError(f"{_OP}: give either target and class_distance, or pair_distance; got {names}")
    if pair_distance is not None:
        return None, None, _check_distance("pair_distance", pair_distance, z, len(z))
    distance = _check_distance("class_distance", class_distance, z, None)
    return _check_target(target, z, len(distance), ignore_index), distance, None


def _check_distance(name: str, distance: Any, z: Tensor, rows: int | None) -> Tensor:
    """Check and return a matrix of distances between `rows` samples, or between any number of classes if `rows` is None."""
    shape = "[C, C]" if rows is None else f"[{rows}, {rows}]"
    distance = checks.tensor(_OP, name, distance, dtypes=_FLOATS, ndim=2, shape=shape)
    if distance.shape[0] != distance.shape[1] or distance.shape[0] != (max(1, distance.shape[0]) if rows is None else rows):
        raise ValueError(f"{_OP}: {name} must be {shape}; got {checks.describe(distance)}")
    checks.same_device(_OP, name, distance, "z", z)
    if checks.may_read_values(distance):
        shown(distance)
        derived(distance, f"checked {name}", lambda: _require_distances(_OP, name, distance, between_classes=rows is None))
    return distance.detach()


def _require_distances(op: str, name: str, distance: Tensor, between_classes: bool) -> bool:
    """Raise ValueError unless the distances are valid; those between classes must also be symmetric with a zero diagonal."""
    if not distance.numel():
        return True
    low, high = map(float, torch.aminmax(distance.detach()))
    if not (low >= 0 and high < math.inf):
        found = f"negative entries (smallest {low:.4g})" if low < 0 else "entries that are NaN or infinite"
        raise ValueError(f"{op}: {name} has {found}; distances are at least 0 and finite")
    if between_classes and bool(distance.diagonal().any()):
        raise ValueError(
            f"{op}: {name} must have a zero diagonal: a class has distance 0 from itself. Is it a similarity? Pass 1 - it"
        )
    if between_classes and not torch.allclose(distance, distance.T):
        raise ValueError(f"{op}: {name} must be symmetric; it is not. Pass (d + d.T) / 2")
    return True


def _check_target(target: Any, z: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Return the target after checking that it fits z and the number of classes."""
    rows = len(z)
    if isinstance(target, Tensor) and is_integer(target):
        target = flatten_column(_OP, "target", target)
    expected = f"int64 class ids [{rows}], or multi-hot rows [{rows}, {classes}] of 0 and 1"
    if not isinstance(target, Tensor) or (target.ndim == 1 and target.dtype != torch.int64) or target.is_complex():
        hint = ". Convert class ids with .long()" if isinstance(target, Tensor) else ""
        raise TypeError(f"{_OP}: target must be {expected}; got {checks.describe(target)}{hint}")
    if target.shape not in ((rows,), (rows, classes)):
        raise ValueError(
            f"{_OP}: target must be {expected}, as class_distance is [{classes}, {classes}]; got {checks.describe(target)}"
        )
    checks.same_device(_OP, "target", target, "z", z)
    if checks.may_read_values(target):
        if target.ndim == 2 and not bool(((target == 0) | (target == 1)).all()):
            raise ValueError(f"{_OP}: a multi-hot target must hold only 0 and 1; got other values in {checks.describe(target)}")
        outside = ((target < 0) | (target >= classes)) & (target != ignore_index) if target.ndim == 1 else None
        if outside is not None and bool(outside.any()):
            raise ValueError(
                f"{_OP}: target has class {int(target[outside][0])}; expected ids from 0 to {classes - 1} "
                f"or ignore_index = {ignore_index}"
            )
    return target


def _semantic(
    z: Tensor, target: Tensor | None, class_distance: Tensor | None, pair_distance: Tensor | None, kept: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the samples' distances [N, N], a mask of the pairs that have one, and the mean distance of independent samples.

    `kept` is a mask of the rows with class ids that take part, bool [N].
    """
    pairs = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    if target is None or class_distance is None:
        assert pair_distance is not None
        distance = pair_distance.to(z.dtype)
        return distance, pairs, distance.where(pairs, 0).sum() / pairs.sum()
    class_distance = class_distance.to(z.dtype)
    if target.ndim == 1 and kept is not None:
        pairs = pairs & kept[:, None] & kept
        inside = (target >= 0) & (target < len(class_distance)) | ~kept
        ids = torch.where(inside & kept, target, 0)
        distance = class_distance[ids[:, None], ids].where(inside[:, None] & inside, torch.nan)
        return distance, pairs, class_distance.mean()
    members = target.to(torch.bool)
    labelled = members.any(dim=1)
    pairs = pairs & labelled[:, None] & labelled
    distance = _label_set_distance(members, class_distance)
    return distance, pairs, distance.where(pairs, 0).sum() / pairs.sum().clamp(min=1)


def _label_set_distance(members: Tensor, class_distance: Tensor) -> Tensor:
    """Return the distances of sets of classes, bool [N, C] -> [N, N]; a finite number for an empty set."""
    classes = len(class_distance)
    step = max(1, _CHUNK // classes**2)
    farthest = class_distance.max()
    nearest = torch.cat(  # [N, C]: from a set to a class
        [torch.where(rows[:, :, None], class_distance, farthest).amin(dim=1) for rows in members.split(step)]
    )
    share = members.to(nearest.dtype) / members.sum(dim=1, keepdim=True).clamp(min=1)
    one_way = nearest @ share.T  # [N, N]: the mean over the column's classes of their distance to the row's set
    return (one_way + one_way.T) / 2


def _relational(z: Tensor, distance: Tensor, pairs: Tensor, mean: Tensor, scale: float | None, pair_decay: float) -> Tensor:
    """Return the relational term R, a scalar."""
    factor = mean / z.shape[1] if scale is None else scale
    # Subtracting the smallest distance keeps the proportions of the weights, and avoids underflow.
    smallest = distance.where(pairs, torch.inf).amin().nan_to_num(posinf=0.0)
    weights = torch.exp(-pair_decay * (distance - smallest)).where(pairs, 0)
    error = (factor * _manhattan(z) - distance).abs()
    return (weights * error.where(pairs, 0)).sum() / torch.where(weights.sum() == 0, 1, weights.sum())


def _manhattan(z: Tensor) -> Tensor:
    """Return |z_b - z_b'|_1 [N, N], in chunks: the gradient of cdist on a GPU needs memory for all differences of a chunk."""
    step = max(1, _CHUNK // z.numel())
    return torch.cat([torch.cdist(rows, z, p=1) for rows in z.split(step)])


def _divergence(z: Tensor, draws: Tensor, floor: float, kept: Tensor | None) -> Tensor:
    """Return the divergence term D of the rows where bool `kept` [N] is true (None for all), a scalar; 0 for fewer than two."""
    rows, bits = z.shape
    with torch.no_grad():
        unit = _unit(torch.maximum(z.abs().amax(), draws.abs().amax()))
        near = z / unit
        to_draw = _distances(near, draws / unit).argmin(dim=1)
        between = _distances(near, near).fill_diagonal_(torch.inf)
        to_other = (between if kept is None else between.masked_fill_(~kept, torch.inf)).argmin(dim=1)
    logs = _log_distance(z, draws[to_draw], floor) - _log_distance(z, z[to_other], floor)
    if kept is None:
        return bits * logs.mean() + math.log(len(draws) / (rows - 1))
    count = kept.sum().to(z.dtype)
    mean = torch.where(kept, logs, 0).sum() / count.clamp(min=1)
    return torch.where(count < 2, 0, bits * mean + torch.log(len(draws) / (count - 1).clamp(min=1)))


def _unit(largest: Tensor) -> Tensor:
    """Return what to divide by so that squares of numbers up to `largest` do not overflow: 1, except for very large ones."""
    return torch.where(largest.abs() > _LARGE, largest, 1)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances [N, M], from differences: inner products would cancel for near points."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _log_distance(a: Tensor, b: Tensor, floor: float) -> Tensor:
    """Return log |a - b| of pairs of rows; it is at least log(floor), and has no gradient there.  [N]"""
    difference = a - b
    unit = _unit(difference.detach().abs().amax(dim=1))
    square = (difference / unit[:, None]).square().sum(dim=1)
    return square.clamp(min=(floor / unit).square()).log() / 2 + unit.log()


def _coin_flips(count: int, z: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw random codes of +-1 [M, K]."""
    flips = torch.randint(0, 2, (count, z.shape[1]), generator=generator, device=z.device)
    return 2 * flips.to(z.dtype) - 1
