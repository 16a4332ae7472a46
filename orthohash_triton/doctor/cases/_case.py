"""The declaration of a self-test case, and functions that make the inputs and outputs of cases."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ...ops.dispatch import Impl

Inputs = dict[str, Tensor]
Outputs = tuple[Tensor, ...]
Targets = Literal["ids", "dense", "sparse"]

FLOAT64 = 1e-9
FLOAT32 = 5e-6  # tensor cores accumulate in float32, but truncate instead of rounding
ONE_PART = 3e-4  # precision "high"
IGNORED = -100  # the class id of a row without a class

TARGET_NAMES: dict[Targets, str] = {"ids": "class ids", "dense": "soft targets", "sparse": "sparse targets"}


@dataclass(frozen=True)
class Case:
    """A case of the self-test: one op on one problem.

    Attributes:
        op: name of the public function.
        label: description of the problem, unique among the cases of the op.
        make_inputs: make the inputs in host memory from a seeded generator.
        run: compute the outputs with an implementation; "reference" is called with inputs in float64 too.
        tolerance: allowed difference in addition to the error of the reference, relative to the largest number of an output; None
            requires equal numbers.
        is_plain: the op is composed of torch ops and has no implementations to choose from.
        only: "cpu" if other cases check the same on a GPU; "gpu" if the case is slow and pointless on a CPU.
    """

    op: str
    label: str
    make_inputs: Callable[[Generator], Inputs]
    run: Callable[[Inputs, Impl], Outputs]
    tolerance: float | None = None
    is_plain: bool = False
    only: Literal["cpu", "gpu"] | None = None

    def runs_on(self, device: str) -> bool:
        """Return whether this case applies to `device`, such as "cpu" or "cuda:0"."""
        return self.only is None or (self.only == "cpu") == (device == "cpu")

    def inputs(self) -> Inputs:
        """Return the inputs, in host memory. They are the same at every call."""
        return self.make_inputs(Generator().manual_seed(zlib.crc32(f"{self.op} {self.label}".encode())))


def on_cpu(*cases: Case) -> list[Case]:
    """Return `cases`, restricted to the CPU."""
    return [replace(case, only="cpu") for case in cases]


def on_gpu(*cases: Case) -> list[Case]:
    """Return `cases`, restricted to GPUs."""
    return [replace(case, only="gpu") for case in cases]


def normal(generator: Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers from a normal distribution."""
    return torch.randn(*shape, generator=generator).to(dtype)


def class_ids(generator: Generator, rows: int, classes: int) -> Tensor:
    """Return class ids int64 [rows]. Row 2, if it exists, is ignored."""
    ids = torch.randint(0, classes, (rows,), generator=generator)
    ids[2:3] = IGNORED
    return ids


def multi_hot(generator: Generator, rows: int, classes: int) -> Tensor:
    """Return multi-hot labels bool [rows, classes] with about three classes per row. Row 2, if it exists, has no class."""
    target = torch.rand(rows, classes, generator=generator) < 3 / classes
    target[:, -1] |= torch.rand(rows, generator=generator) < 0.2
    target[0, 0] = True
    target[2:3] = False
    return target


def random_signs(generator: Generator, rows: int, bits: int) -> Tensor:
    """Return int8 +-1 [rows, bits]."""
    return torch.randint(0, 2, (rows, bits), generator=generator, dtype=torch.int8) * 2 - 1


def random_codes(generator: Generator, rows: int, bits: int, distinct: int = 256) -> Tensor:
    """Return packed codes uint8 [rows, bits / 8]. With few `distinct` byte values many codes and distances are equal."""
    return torch.randint(0, distinct, (rows, bits // 8), generator=generator, dtype=torch.uint8)


def codebook_inputs(
    rows: int, classes: int, bits: int, dtype: torch.dtype = torch.float32, targets: Targets = "ids", name: str = "v"
) -> Callable[[Generator], Inputs]:
    """Return a maker of the inputs of a codebook loss: the continuous codes `name`, the codebook and the target."""

    def make(generator: Generator) -> Inputs:
        """Make the continuous codes, the codebook and the target."""
        codebook, ids = random_signs(generator, classes, bits), class_ids(generator, rows, classes)
        v = normal(generator, rows, bits)
        v[::2] += codebook[ids[::2].clamp(min=0)]  # half of the rows are near the code of their class
        given = {name: v.to(dtype), "codebook": codebook, "target": ids}
        if targets != "ids":
            weights = multi_hot(generator, rows, classes) * torch.rand(rows, classes, generator=generator)
            given["target"] = weights
        if targets == "sparse":
            starts = torch.nn.functional.pad((weights > 0).sum(1).cumsum(0), (1, 0))
            given |= {"target": starts, "columns": weights.nonzero()[:, 1], "values": weights[weights > 0]}
        return given

    return make


def target_of(given: Inputs) -> Any:
    """Return the target of `codebook_inputs` as the losses accept it."""
    return (given["target"], given["columns"], given["values"]) if "columns" in given else given["target"]


def leaf(tensor: Tensor) -> Tensor:
    """Return `tensor` as a leaf that requires a gradient."""
    return tensor.detach().requires_grad_()


def loss_and_gradients(loss: Tensor, *leaves: Tensor) -> Outputs:
    """Return the loss and the gradients of `leaves`. Rows have different weights, so that exchanged rows are detected."""
    weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype, device=loss.device).view(loss.shape)
    return loss.detach(), *torch.autograd.grad((loss * weights).sum(), leaves)


def exact_gradient(result: Tensor) -> Tensor:
    """Return an upstream gradient for `result` that every dtype represents exactly."""
    return (torch.arange(result.numel(), device=result.device) % 5 - 2).to(result.dtype).view(result.shape)


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def joined(parts: list[str], dtype: torch.dtype = torch.float32, options: Mapping[str, Any] | None = None) -> str:
    """Return a label: `parts`, the dtype unless it is float32, and the options as "name=value"."""
    named = [f"{name}={round(value, 2) if isinstance(value, float) else value}" for name, value in (options or {}).items()]
    return ", ".join([*parts, *([] if dtype == torch.float32 else [dtype_name(dtype)]), *named])


def by_size(*size: int) -> str:
    """Return "37 x 1,009 x 64"."""
    return " x ".join(f"{n:,}" for n in size)
