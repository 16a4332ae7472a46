"""The choice of the implementation of an op, by one rule for every op."""

import functools
import importlib
import os
from typing import Any, Literal, get_args

import torch

from .._base.quoting import quoted
from ..kernels.forks import limit_torch_after_fork

Impl = Literal["triton", "cpu", "reference"]
ImplChoice = Literal["auto", "triton", "cpu", "reference"]  # the argument `impl` of an op
IMPLS: tuple[str, ...] = get_args(ImplChoice)

# The package that holds one module per op, named after the op, for each implementation.
_PACKAGES: dict[str, str] = {"triton": "..kernels", "cpu": "..kernels.cpu", "reference": "..reference"}


@functools.cache
def implementation(op: str, impl: str) -> Any:
    """Import and return the module that implements `op`, such as `orthohash_triton.kernels.hamming_topk`.

    The modules of "triton" and "cpu" define the same functions with the same signatures. A module is imported when it is first
    asked for, since importing Triton or Numba takes seconds, and cached, since an import statement takes microseconds.
    """
    return importlib.import_module(f"{_PACKAGES[impl]}.{op}", __package__)


@functools.cache
def triton_import_error() -> str | None:
    """Return None if Triton can be imported, otherwise the reason why it cannot."""
    try:
        import triton  # noqa: F401
    except Exception as error:  # a broken installation can raise any exception
        return f"{type(error).__name__}: {error}"
    return None


def check_choice(op: str, impl: Any) -> None:
    """Raise ValueError unless `impl` is "auto" or the name of an implementation, available or not."""
    if impl not in IMPLS:
        raise ValueError(f"{op}: impl must be one of {', '.join(IMPLS)}; got {quoted(impl)}")


def choose(op: str, impl: str, tensor: torch.Tensor) -> Impl:
    """Return the implementation that `op` uses for `tensor`.

    "auto" means the value of the environment variable ORTHOHASH_IMPL if it is set, otherwise Triton for tensors on a GPU and the
    CPU implementation for tensors in host memory.

    Raises:
        ValueError: for an unknown choice, or one that does not take tensors on the device of `tensor`.
        RuntimeError: for "triton" where Triton cannot be imported.
    """
    limit_torch_after_fork()
    check_choice(op, impl)
    if impl == "auto":
        impl = os.environ.get("ORTHOHASH_IMPL", "auto")
        if impl not in IMPLS:
            raise ValueError(
                f"{op}: the environment variable ORTHOHASH_IMPL must be one of {', '.join(IMPLS)}; got {quoted(impl)}"
            )
    if impl == "auto":
        impl = "triton" if tensor.is_cuda else "cpu"
    if impl == "triton":
        _require_triton(op, tensor)
    if impl == "cpu" and tensor.device.type not in ("cpu", "meta"):
        raise ValueError(
            f'{op}: impl="cpu" takes tensors in host memory; got a tensor on {tensor.device}. '
            'Move it with .cpu(), or use impl="auto", "triton" or "reference"'
        )
    return impl  # type: ignore[return-value]


def refuse_float64(op: str, impl: Impl, **tensors: torch.Tensor | None) -> None:
    """Raise TypeError if `impl` is "triton", which computes in float32, and one of the named tensors is float64."""
    for name, tensor in tensors.items():
        if impl == "triton" and tensor is not None and tensor.dtype == torch.float64:
            raise TypeError(
                f"{op}: {name} is float64, which the Triton kernels do not take. "
                'Convert it with .float(), or use impl="reference"'
            )


def _require_triton(op: str, tensor: torch.Tensor) -> None:
    """Raise RuntimeError if Triton cannot be imported, or ValueError if it cannot run on the device of `tensor`."""
    cause = triton_import_error()
    if cause is not None:
        raise RuntimeError(
            f'{op}: impl="triton" needs Triton, which cannot be imported ({cause}). Install it, or use impl="reference"'
        )
    from ..kernels import launch

    if not tensor.is_cuda and not launch.accepts_any_device():
        raise ValueError(
            f'{op}: impl="triton" takes tensors on a GPU; got a tensor on {tensor.device}. '
            'Move it with .cuda(), use impl="auto" or "cpu", or set TRITON_INTERPRET=1 before the start to interpret the kernels'
        )
