"""Description of the GPU for which a launch is planned."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch

Family = Literal["sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "cdna", "rdna"]


class Device(NamedTuple):
    """Properties of a GPU on which tile sizes, register limits and numbers of programs depend."""

    architecture: str  # target of Triton's compiler, such as "sm_90" or "gfx942"
    multiprocessors: int  # streaming multiprocessors, or compute units of an AMD GPU
    warp_size: int = 32  # threads of a warp

    @property
    def backend(self) -> Literal["cuda", "hip"]:
        """The compiler backend: "cuda" for NVIDIA GPUs, "hip" for AMD GPUs."""
        return "cuda" if self.architecture.startswith("sm_") else "hip"

    @property
    def family(self) -> Family:
        """The group of architectures that share tile choices."""
        return _family(self.architecture)


@functools.cache
def _family(architecture: str) -> Family:
    """Return the family of `architecture`, also for architectures that are newer than this code.

    The members of a family have the same matrix instructions and about the same registers and shared memory. An NVIDIA
    architecture after sm_12x counts as sm_120, which has the least shared memory of the recent ones.
    """
    if not architecture.startswith("sm_"):
        return "rdna" if architecture.startswith(("gfx10", "gfx11", "gfx12")) else "cdna"
    number = int("".join(character for character in architecture[3:] if character.isdigit()))  # "sm_90a" is 90
    major, minor = divmod(number, 10)
    if major < 8 or (major == 8 and minor not in (0, 7)):
        return "sm_86"  # 8.6, 8.8, 8.9 and older GPUs: 100 KB of shared memory or less
    if major == 8:
        return "sm_80"  # 8.0 and 8.7: 164 KB
    if major == 9:
        return "sm_90"
    return "sm_100" if major in (10, 11) else "sm_120"


A100 = Device("sm_80", multiprocessors=108)

_assumed: Device | None = None


def device_of(device: torch.device) -> Device:
    """Return the GPU for which launches on tensors of `device` are planned.

    This is the device that `assume_device` names, otherwise the GPU itself, and an A100 for tensors that are not on a GPU.
    """
    return _assumed or _physical(device)


@contextmanager
def assume_device(device: Device) -> Iterator[None]:
    """Plan every launch inside the block for `device`, whatever device the tensors are on."""
    global _assumed
    previous, _assumed = _assumed, device
    try:
        yield
    finally:
        _assumed = previous


@functools.cache
def _physical(device: torch.device) -> Device:
    """Return the properties of a GPU, which are read once because torch takes microseconds to return them."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return A100
    known = torch.cuda.get_device_properties(device)
    architecture = known.gcnArchName.split(":")[0] if torch.version.hip else f"sm_{known.major}{known.minor}"
    return Device(architecture, known.multi_processor_count, known.warp_size)
