"""Small data sets on which a training takes less than a second."""

import torch
from torch import Tensor

from orthohash_triton.data import Dataset
from orthohash_triton.train import HashModel


def blobs(n: int = 300, classes: int = 3, width: int = 20) -> Dataset:
    """Return features of well separated Gaussian classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    centres = 3 * torch.randn(classes, width, generator=generator)
    return Dataset(centres[labels] + torch.randn(n, width, generator=generator), labels, tuple("abc"), "blobs")


def pictures(n: int = 160, channels: int = 1, size: int = 8) -> Dataset:
    """Return images with noise around one image per class: uint8 [N, size, size], or [N, 3, size, size]."""
    generator = torch.Generator().manual_seed(0)
    shape = (size, size) if channels == 1 else (channels, size, size)
    labels = torch.arange(n) % 4
    templates = 255 * torch.rand(4, *shape, generator=generator)
    noisy = templates[labels] + 25 * torch.randn(n, *shape, generator=generator)
    return Dataset(noisy.clamp(0, 255).byte(), labels, tuple("abcd"), "pictures")


def weights(model: HashModel) -> list[Tensor]:
    return list(model.state_dict().values())
