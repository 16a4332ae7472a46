"""A description of this machine and installation, for reports that are read elsewhere."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("orthohash-triton", "torch", "triton", "numpy", "numba", "faiss-cpu", "safetensors", "scikit-learn", "pillow")

# The names under which other builds of a package are published.
_OTHER_BUILDS = {
    "triton": ("pytorch-triton", "pytorch-triton-rocm", "triton-rocm", "triton-windows"),
    "faiss-cpu": ("faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12"),
}


def environment() -> dict[str, Any]:
    """Return versions, processor, threads and GPUs as plain values."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution or of one of its other builds; None if it is not installed."""
    for build in (name, *_OTHER_BUILDS.get(name, ())):
        try:
            return version(build)
        except PackageNotFoundError:
            continue
    if name == "orthohash-triton":  # a checkout on the path, not installed
        from .. import __version__

        return __version__
    return None


def cpu_model() -> str:
    """Return the name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cpu_target() -> str:
    """Return the architecture and the vector instructions that bit counting uses, for example "x86-64, AVX2"."""
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        return "Arm, 64 bits"
    if machine not in ("x86_64", "amd64"):
        return machine or "unknown"
    flags = _cpu_flags()
    if "avx512_vpopcntdq" in flags:
        return "x86-64, AVX-512 VPOPCNTDQ"
    return "x86-64, AVX2" if "avx2" in flags or "AVX" in torch.backends.cpu.get_cpu_capability() else "x86-64"


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return set(next(line.partition(":")[2] for line in file if line.startswith("flags")).split())
    except (OSError, StopIteration):
        return set()


def gpu_target(index: int) -> str:
    """Return the architecture that kernels are compiled for on a GPU: "sm_90", "gfx942"."""
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(index).gcnArchName).partition(":")[0]
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"


def gpu_toolkit() -> str | None:
    """Return the toolkit that torch was built with: "CUDA 13.0", "ROCm 6.4"; None for a CPU build."""
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else None


def gpu_driver() -> str | None:
    """Return the version of the GPU driver; None if it cannot be found out."""
    if torch.version.hip:
        return _first_line(Path("/sys/module/amdgpu/version"))
    line = _first_line(Path("/proc/driver/nvidia/version"))
    if line is not None:
        return next((word for word in line.split() if word[0].isdigit() and "." in word), None)
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return told.strip().partition("\n")[0] or None


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return None
