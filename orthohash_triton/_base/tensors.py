"""The contents of safetensors files."""

from typing import Any

from torch import Tensor

from .extras import install


def safetensors() -> Any:
    """Return the module safetensors; raise ImportError with the command that installs it if it is missing."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(f"runs and pretrained models need safetensors: {install('safetensors', extra='train')}") from error
    return safetensors


def pack_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Return the bytes of a safetensors file with `tensors` by name."""
    save = safetensors().torch.save  # cloned because safetensors refuses tensors that share memory (tied weights)
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
