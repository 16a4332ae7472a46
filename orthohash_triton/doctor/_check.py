"""One case on one device: two runs that must be alike bit for bit, and no further from the truth than the reference."""

import re
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ._cases import Case, Inputs, Outputs

INCOMPARABLE = "an answer of another shape, or NaN or infinity where the reference has none"


@dataclass(frozen=True)
class Check:
    """What came of it. Errors are the largest difference of an output, over its largest number."""

    op: str
    case: str
    device: str
    impl: str
    error: float | None  # of the output that is worst off; None where there is a cause
    allowed: float | None  # the error of the reference in the same dtype, and the tolerance of the case; 0 for whole numbers
    repeatable: bool | None
    cause: str | None = None  # why nothing could be compared

    @property
    def ok(self) -> bool:
        return self.error is not None and self.allowed is not None and self.error <= self.allowed and bool(self.repeatable)


def check(case: Case, device: str, impl: str) -> Check:
    """Whatever goes wrong is part of the answer."""
    name = "torch" if case.plain else impl
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, that sparse tensors are new
            given = {name: tensor.to(device) for name, tensor in case.inputs().items()}
            first, second = case.run(given, impl), case.run(given, impl)
            error, allowed = _worst(case, given, first)
        if error == float("inf"):
            return Check(case.op, case.label, device, name, None, None, None, INCOMPARABLE)
        return Check(case.op, case.label, device, name, error, allowed, same_bits(first, second))
    except Exception as error:
        return Check(case.op, case.label, device, name, None, None, None, cause_of(error))


def _worst(case: Case, given: Inputs, found: Outputs) -> tuple[float, float]:
    """Error and allowance of the output that is worst off."""
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
    """The largest difference over the largest finite number; infinite for another shape, or NaN or infinity in other places."""
    if ours.shape != exact.shape:  # also where a search found more or fewer
        return float("inf")
    if ours.numel() == 0:
        return 0.0
    ours, exact = ours.detach().double(), exact.detach().to(ours.device).double()
    same = (ours == exact) | (ours.isnan() & exact.isnan())
    scale = exact.nan_to_num(0, 0, 0).abs().max().clamp(min=1e-30)
    return float(((ours - exact).abs() / scale).masked_fill(same, 0).nan_to_num(float("inf"), float("inf")).max())


def same_bits(first: Outputs, second: Outputs) -> bool:
    return all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bytes(a), _bytes(b))
        for a, b in zip(first, second, strict=True)
    )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def cause_of(error: Exception) -> str:
    """In one line that can be published: files lose their folders, which may name a person."""
    line = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {without_folders(line):.300}"


def without_folders(text: str) -> str:
    return re.sub(r"(?:[A-Za-z]:)?(?:[/\\][\w.+@~-]+)+[/\\](?=[\w.+@~-])", "", text)
