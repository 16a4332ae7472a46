"""The function `launch`, which starts every Triton kernel of the package.

By default a launch is `kernel[grid](...)`. Tests install an executor, which compiles for a GPU that is not present or runs
compiled code elsewhere; kernels then take CPU or meta tensors.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch

from ._device import Device, assume_device, device_of

__all__ = ["Device", "Executor", "accepts_any_device", "assume_device", "executor", "launch"]

REGISTERS = 65_536  # 32-bit registers of a multiprocessor of an NVIDIA GPU
MOST_REGISTERS = 255  # registers of a thread


class Executor(Protocol):
    """Function that is called instead of `kernel[grid](*args, num_warps=..., num_stages=..., **constexprs)`.

    `maxnreg` is passed only where a launch limits the registers per thread.
    """

    def __call__(
        self, kernel: Any, grid: tuple[int, ...], /, *args: Any, num_warps: int, num_stages: int, **keywords: Any
    ) -> Any: ...


_executor: Executor | None = None


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int = 4,
    num_stages: int = 2,
    min_blocks_per_sm: int | None = None,
    **keywords: Any,
) -> None:
    """Run `kernel` over `grid` on the device of its first tensor argument.

    min_blocks_per_sm: how many programs a multiprocessor of an NVIDIA GPU must hold at once. It limits the registers per thread
    to that share; without it the compiler aims at a number of its own, and sometimes spills a few bytes to reach it.
    """
    device = next((value.device for value in args if isinstance(value, torch.Tensor)), None)
    options = {"num_warps": num_warps, "num_stages": num_stages}
    if min_blocks_per_sm is not None and (device is None or device_of(device).backend == "cuda"):
        options["maxnreg"] = min(MOST_REGISTERS, REGISTERS // (min_blocks_per_sm * 32 * num_warps))
    if _executor is not None:
        _executor(kernel, grid, *args, **options, **keywords)
        return
    # Triton launches on the current device. It is switched only if the tensors are on another one, because switching takes time.
    elsewhere = device is not None and device.type == "cuda" and device.index != torch.cuda.current_device()
    # Triton up to 3.9 fuses multiply-adds by default; 3.9 announces that 3.10 will not.
    with torch.cuda.device(device) if elsewhere else nullcontext():
        kernel[grid](*args, **options, enable_fp_fusion=True, **keywords)


@contextmanager
def executor(run: Executor, device: Device | None = None) -> Iterator[None]:
    """Send every launch inside the block to `run`, planned for `device`.

    With `device=None`, launches are planned for the same device as outside of the block.
    """
    global _executor
    previous, _executor = _executor, run
    try:
        with nullcontext() if device is None else assume_device(device):
            yield
    finally:
        _executor = previous


def accepts_any_device() -> bool:
    """Return whether launches take tensors that are not on a GPU: with an executor, or where Triton interprets kernels."""
    return _executor is not None or os.environ.get("TRITON_INTERPRET") == "1"
