"""The one door to the device: every Triton kernel of the package starts here.

By default a launch is `kernel[grid](...)`. Tests install another executor (one that compiles for a given target, one that
runs compiled code elsewhere) and the kernels then take CPU or meta tensors.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

Executor = Callable[..., Any]

REGISTERS = 65_536  # of a multiprocessor of NVIDIA's
MOST_REGISTERS = 255  # of a thread

_executor: Executor | None = None


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int = 4,
    num_stages: int = 2,
    fits: int | None = None,
    **constexprs: Any,
) -> None:
    """Run `kernel` over `grid` on the device of its first tensor argument.

    fits: as many programs are to fit a multiprocessor, so that each may take its share of the registers. Where it is not given,
    NVIDIA's compiler aims at a number of its own, and sometimes spills a few bytes for it.
    """
    options = {"num_warps": num_warps, "num_stages": num_stages}
    if fits is not None and backend() == "cuda":
        options["maxnreg"] = min(MOST_REGISTERS, REGISTERS // (fits * 32 * num_warps))
    if _executor is not None:
        _executor(kernel, grid, *args, **options, **constexprs)
        return
    device = next((value.device for value in args if isinstance(value, torch.Tensor)), None)
    # Triton launches on the current device, which need not be the tensors' own; going there and back takes a while.
    elsewhere = device is not None and device.type == "cuda" and device.index != torch.cuda.current_device()
    # Fused multiply-adds: Triton up to 3.9 takes them unasked, 3.9 warns that 3.10 will not.
    with torch.cuda.device(device) if elsewhere else nullcontext():
        kernel[grid](*args, **options, enable_fp_fusion=True, **constexprs)


@contextmanager
def executor(fn: Executor) -> Iterator[None]:
    """Send every launch inside the block to `fn(kernel, grid, *args, num_warps=, num_stages=, **constexprs)`, with `maxnreg=` too
    where the launch bounds the registers of a thread."""
    global _executor
    previous, _executor = _executor, fn
    try:
        yield
    finally:
        _executor = previous


def accepts_any_device() -> bool:
    """Whether launches take tensors that are not on a GPU: an executor is installed, or Triton interprets."""
    return _executor is not None or os.environ.get("TRITON_INTERPRET") == "1"


def backend() -> str:
    """ "cuda" or "hip": what the launches compile for. An executor that compiles for one says so in its attribute `backend`."""
    if _executor is not None:
        return getattr(_executor, "backend", "cuda")
    return "hip" if torch.version.hip else "cuda"


@functools.cache
def properties(device: torch.device) -> Any:
    """What torch knows of the GPU `device`, None where there is none; torch takes microseconds to tell again."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device)
    return None


def multiprocessor_count(device: torch.device) -> int:
    """Streaming multiprocessors of `device`; where there is no GPU, those of an A100, so that plans are realistic."""
    known = properties(device)
    return known.multi_processor_count if known else 108


def architecture(device: torch.device) -> str:
    """What code for `device` is compiled for, such as "sm_90" or "gfx942". An executor that compiles for one says so in its
    attribute `architecture`; where there is neither, that of an A100."""
    if _executor is not None:
        return getattr(_executor, "architecture", "sm_80")
    known = properties(device)
    if known is None:
        return "sm_80"
    return known.gcnArchName.split(":")[0] if torch.version.hip else f"sm_{known.major}{known.minor}"
