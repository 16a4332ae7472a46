"""Writing of safetensors files."""

from pathlib import Path
from typing import Any

from torch import Tensor

from .extras import install
from .files import atomic_write


def safetensors() -> Any:
    """Return the module safetensors; raise ImportError with the command that installs it if it is missing."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(f"runs and pretrained models need safetensors: {install('safetensors', extra='train')}") from error
    return safetensors


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write `tensors` by name to a safetensors file, completely or not at all."""
    save = safetensors().torch.save
    with atomic_write(path) as file:  # cloned because safetensors refuses tensors that share memory (tied weights)
        file.write(save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}))
