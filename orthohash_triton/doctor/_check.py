"""The check of one case on one device: two runs must be equal bit by bit, and about as accurate as the reference."""

import re
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.dispatch import Impl
from .cases import Case, Inputs, Outputs

INCOMPARABLE = "the result has another shape than the reference, or NaN or infinity in other places"


@dataclass(frozen=True)
class Check:
    """The result of running one case of the self-test on one device.

    Attributes:
        op: name of the public function.
        case: label of the case.
        device: "cpu" or "cuda:0".
        impl: the implementation that was checked, or "torch" for ops without implementations.
        error: largest difference from the exact result over the largest number, of the output with the largest error relative to
            what is allowed; None if nothing could be compared.
        allowed: the tolerance of the case plus the error of the reference in the same dtype; 0 if numbers must be equal.
        repeatable: whether two runs were equal bit by bit.
        cause: why nothing could be compared.
    """

    op: str
    case: str
    device: str
    impl: str
    error: float | None
    allowed: float | None
    repeatable: bool | None
    cause: str | None = None

    @property
    def ok(self) -> bool:
        """Return whether the case ran, is accurate enough and repeatable."""
        return self.error is not None and self.allowed is not None and self.error <= self.allowed and bool(self.repeatable)


def check(case: Case, device: str, impl: Impl) -> Check:
    """Run `case` and compare it with its reference. Exceptions are caught and reported in the result."""
    name = "torch" if case.is_plain else impl
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that sparse tensors are in beta
            given = {name: tensor.to(device) for name, tensor in case.inputs().items()}
            first, second = case.run(given, impl), case.run(given, impl)
            error, allowed = _worst(case, given, first)
        if error == float("inf"):
            return Check(case.op, case.label, device, name, None, None, None, INCOMPARABLE)
        return Check(case.op, case.label, device, name, error, allowed, same_bits(first, second))
    except Exception as error:
        return Check(case.op, case.label, device, name, None, None, None, cause_of(error))


def _worst(case: Case, given: Inputs, found: Outputs) -> tuple[float, float]:
    """Return error and allowed error of the output with the largest ratio of the two."""
    reference = case.run(given, "reference")
    if case.tolerance is None:
        return max(difference(*pair) for pair in zip(found, reference, strict=True)), 0.0
    truth = case.run({name: x.double() if x.is_floating_point() else x for name, x in given.items()}, "reference")
    pairs = []
    for ours, theirs, exact in zip(found, reference, truth, strict=True):
        rounding = torch.finfo(ours.dtype).eps if ours.dtype.itemsize < 4 else 0.0
        alternative = difference(theirs, exact)
        pairs.append((difference(ours, exact), case.tolerance + rounding + (alternative if alternative < 1 else 0.0)))
    return max(pairs, key=lambda pair: pair[0] / pair[1])


def difference(ours: Tensor, exact: Tensor) -> float:
    """Return the largest difference over the largest finite number.

    The result is infinite if the shapes differ, or if NaN or infinity are in different places.
    """
    if ours.shape != exact.shape:  # also if a search found more or fewer results
        return float("inf")
    if ours.numel() == 0:
        return 0.0
    ours, exact = ours.detach().double(), exact.detach().to(ours.device).double()
    same = (ours == exact) | (ours.isnan() & exact.isnan())
    scale = exact.nan_to_num(0, 0, 0).abs().max().clamp(min=1e-30)
    return float(((ours - exact).abs() / scale).masked_fill(same, 0).nan_to_num(float("inf"), float("inf")).max())


def same_bits(first: Outputs, second: Outputs) -> bool:
    """Return whether all outputs have equal shapes, dtypes and bits."""
    return all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bytes(a), _bytes(b))
        for a, b in zip(first, second, strict=True)
    )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def cause_of(error: Exception) -> str:
    """Return the error in one line that can be published: folders, which may contain a user name, are removed from paths."""
    line = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {without_folders(line):.300}"


def without_folders(text: str) -> str:
    """Return `text` with every absolute path shortened to its file name."""
    return re.sub(r"(?:[A-Za-z]:)?(?:[/\\][\w.+@~-]+)+[/\\](?=[\w.+@~-])", "", text)
