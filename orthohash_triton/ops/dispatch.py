"""Which implementation runs: one rule for every op."""

import functools
import os
from typing import Literal, get_args

import torch

Impl = Literal["triton", "cpu", "reference"]
IMPLS: tuple[str, ...] = ("auto", *get_args(Impl))


@functools.cache
def triton_import_error() -> str | None:
    """None when Triton can be imported, otherwise the cause."""
    try:
        import triton  # noqa: F401
    except Exception as error:  # a broken installation raises all sorts of things
        return f"{type(error).__name__}: {error}"
    return None


def choose(op: str, impl: str, tensor: torch.Tensor) -> Impl:
    """The implementation that `op` takes for `tensor`.

    "auto" (or what ORTHOHASH_IMPL says instead) is Triton for tensors on a GPU and the CPU implementation for tensors in host
    memory. An explicit choice that cannot run raises with the cause.
    """
    if impl not in IMPLS:
        raise ValueError(f"{op}: impl must be one of {', '.join(IMPLS)}; got {impl!r}")
    if impl == "auto":
        impl = os.environ.get("ORTHOHASH_IMPL", "auto")
        if impl not in IMPLS:
            raise ValueError(f"{op}: the environment variable ORTHOHASH_IMPL must be one of {', '.join(IMPLS)}; got {impl!r}")
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


def _require_triton(op: str, tensor: torch.Tensor) -> None:
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
