"""The devices of this machine, and whether the implementation for them can run."""

import os
import re
from dataclasses import dataclass
from typing import Literal

import torch

from .._base.environment import cpu_model, cpu_target, gpu_driver, gpu_target, gpu_toolkit
from .._base.quoting import quoted
from ..ops.dispatch import IMPLS, triton_import_error

OLDEST_TRITON = (3, 6)  # must equal pyproject.toml


@dataclass(frozen=True)
class Device:
    """A device that holds tensors.

    Attributes:
        device: "cpu" or "cuda:0".
        name: model name of the processor or GPU.
        target: instruction set, such as "x86-64, AVX2", "sm_90" or "gfx942".
        impl: the implementation that the package uses on this device, "cpu" or "triton".
        why: which implementation impl="auto" selects, and why.
        obstacle: why `impl` cannot run; None if nothing is known to prevent it.
        toolkit: CUDA or ROCm version of torch.
        driver: version of the GPU driver.
        memory_gb: memory of the GPU in GiB.
        multiprocessors: number of multiprocessors of the GPU.
    """

    device: str
    name: str
    target: str
    impl: Literal["cpu", "triton"]
    why: str
    obstacle: str | None = None
    toolkit: str | None = None
    driver: str | None = None
    memory_gb: float | None = None
    multiprocessors: int | None = None


def devices(wanted: str | None = None) -> list[Device]:
    """Return all devices of this machine, or only `wanted`: "cpu", "cuda" (the first GPU) or "cuda:1".

    Raises:
        ValueError: the wanted device does not exist, or its implementation cannot run.
    """
    found = [_cpu(), *(_gpu(index) for index in range(torch.cuda.device_count()))]
    if wanted in (None, "all"):
        return found
    name = "cuda:0" if wanted == "cuda" else wanted
    chosen = [device for device in found if device.device == name]
    if not chosen:
        raise ValueError(f"device must be {' or '.join(d.device for d in found)}, or all; got {quoted(wanted)}{_no_gpu(found)}")
    if chosen[0].obstacle:
        raise ValueError(f"the kernels cannot run on {name}: {chosen[0].obstacle}")
    return chosen


def _no_gpu(found: list[Device]) -> str:
    if len(found) > 1:
        return ""
    build = gpu_toolkit()
    cause = (
        f"torch {torch.__version__} is built without CUDA and ROCm" if build is None else f"torch, built with {build}, finds none"
    )
    return f". torch can use no GPU on this machine: {cause}"


def _cpu() -> Device:
    cause = triton_import_error()
    triton = "Triton, for GPUs, is installed" if cause is None else f"Triton cannot be imported ({cause})"
    why = f'impl="auto" selects "cpu" (Numba and BLAS) for tensors in host memory; {triton}'
    return Device("cpu", cpu_model(), cpu_target(), "cpu", why + _override())


def _gpu(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    obstacle = triton_obstacle()
    why = 'impl="auto" selects "triton" for tensors on a GPU' + ("" if obstacle is None else f", which cannot run: {obstacle}")
    return Device(
        f"cuda:{index}", properties.name, gpu_target(index), "triton", why + _override(), obstacle, gpu_toolkit(), gpu_driver(),
        round(properties.total_memory / 2**30, 1), properties.multi_processor_count,
    )  # fmt: skip


def triton_obstacle() -> str | None:
    """Return why the kernels cannot run and what to do, in one line; None if nothing is known to prevent it."""
    wanted = ".".join(map(str, OLDEST_TRITON))
    cause = triton_import_error()
    if cause is not None:
        return f'Triton cannot be imported ({cause}). Install it: pip install "triton>={wanted}"'
    import triton

    numbers = re.match(r"(\d+)\.(\d+)", triton.__version__)
    if numbers and tuple(map(int, numbers.groups())) < OLDEST_TRITON:
        return f"Triton {triton.__version__} is older than {wanted}, the oldest version that the kernels support. Upgrade torch"
    return None


def _override() -> str:
    value = os.environ.get("ORTHOHASH_IMPL")
    if value is None:
        return ""
    if value not in IMPLS:
        return f". ORTHOHASH_IMPL={value} is not one of {', '.join(IMPLS)}: every call fails until it is corrected"
    return f'. However, ORTHOHASH_IMPL={value} is set, and impl="auto" selects that'
