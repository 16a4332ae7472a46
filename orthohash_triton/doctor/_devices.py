"""The devices of this machine, and whether the implementation that ops take there can run."""

import os
import re
from dataclasses import dataclass

import torch

from .._base.environment import cpu_model, cpu_target, gpu_driver, gpu_target, gpu_toolkit
from ..ops.dispatch import IMPLS, triton_import_error

OLDEST_TRITON = (3, 6)  # as pyproject.toml


@dataclass(frozen=True)
class Device:
    """A place for tensors."""

    device: str  # "cpu", "cuda:0"
    name: str
    target: str  # "x86-64, AVX2", "sm_90", "gfx942"
    impl: str  # the package's implementation for tensors there
    why: str  # which implementation impl="auto" takes, and why
    obstacle: str | None = None  # why `impl` cannot run
    toolkit: str | None = None
    driver: str | None = None
    memory_gb: float | None = None
    multiprocessors: int | None = None


def devices(wanted: str | None = None) -> list[Device]:
    """All devices of this machine, or the one that is wanted: "cpu", "cuda" (the first GPU), "cuda:1".

    Raises ValueError for a device that is not there, or whose implementation cannot run.
    """
    found = [_cpu(), *(_gpu(index) for index in range(torch.cuda.device_count()))]
    if wanted in (None, "all"):
        return found
    name = "cuda:0" if wanted == "cuda" else wanted
    chosen = [device for device in found if device.device == name]
    if not chosen:
        raise ValueError(f"device must be {' or '.join(d.device for d in found)}, or all; got {wanted!r}{_no_gpu(found)}")
    if chosen[0].obstacle:
        raise ValueError(f"the kernels cannot run on {name}: {chosen[0].obstacle}")
    return chosen


def _no_gpu(found: list[Device]) -> str:
    if len(found) > 1:
        return ""
    build = gpu_toolkit()
    cause = (
        f"torch {torch.__version__} is built without CUDA and ROCm" if build is None else f"torch, built with {build}, sees none"
    )
    return f". There is no GPU here that torch can use: {cause}"


def _cpu() -> Device:
    cause = triton_import_error()
    triton = "Triton, for GPUs, is installed" if cause is None else f"Triton cannot be imported ({cause})"
    why = f'tensors in host memory take impl="cpu" (Numba and BLAS); {triton}'
    return Device("cpu", cpu_model(), cpu_target(), "cpu", why + _override())


def _gpu(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    obstacle = triton_obstacle()
    why = 'tensors on a GPU take impl="triton"' + ("" if obstacle is None else f", which cannot run: {obstacle}")
    return Device(
        f"cuda:{index}", properties.name, gpu_target(index), "triton", why + _override(), obstacle, gpu_toolkit(), gpu_driver(),
        round(properties.total_memory / 2**30, 1), properties.multi_processor_count,
    )  # fmt: skip


def triton_obstacle() -> str | None:
    """Why the kernels cannot run, in one line with what to do; None where nothing is known to be in the way."""
    wanted = ".".join(map(str, OLDEST_TRITON))
    cause = triton_import_error()
    if cause is not None:
        return f'Triton cannot be imported ({cause}). Install it: pip install "triton>={wanted}"'
    import triton

    numbers = re.match(r"(\d+)\.(\d+)", triton.__version__)
    if numbers and tuple(map(int, numbers.groups())) < OLDEST_TRITON:
        return f"Triton {triton.__version__} is older than {wanted}, the oldest that the kernels are written for. Upgrade torch"
    return None


def _override() -> str:
    value = os.environ.get("ORTHOHASH_IMPL")
    if value is None:
        return ""
    if value not in IMPLS:
        return f". ORTHOHASH_IMPL={value} is none of {', '.join(IMPLS)}: every call fails until it is"
    return f'. But ORTHOHASH_IMPL={value} is set: impl="auto" takes that instead'
