"""Context managers for the modes of PyTorch: evaluation mode of modules, automatic mixed precision."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def without_autocast(values: Tensor) -> contextlib.AbstractContextManager:
    """Return a context in which products stay in the dtype of their operands."""
    kind = values.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode for the block. Afterwards each layer has its own mode again, as some may be frozen."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
