"""Random augmentation of a batch of images, with random numbers from torch's generator on the CPU.

Every process draws the numbers of the whole batch and uses those of its own samples. The augmentation is therefore independent of
the number of processes, and a resumed training repeats it.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._base.extras import install

AugmentationKind = Literal["none", "light", "strong"]

Augmentation = Callable[[Tensor, int, slice], Tensor]
"""(float images [n, C, H, W] in [0, 1], size N of the whole batch, their positions in it) -> images of the same shape"""

_WHOLE = slice(None)
_OF_THE_BATCH = ("order", "forward_input_shape")  # parameters of kornia that do not have one value per sample


def make_augmentation(kind: AugmentationKind, *, flip: bool, crop_padding: int, sample_shape: tuple[int, ...]) -> Augmentation:
    """Return the augmentation called `kind`.

    none    returns images unchanged
    light   mirrors images if `flip`, and shifts them by up to `crop_padding` pixels
    strong  mirrors images if `flip`, enlarges a random crop of 30 to 100 % of the area to the whole image, and changes brightness
            and contrast; saturation and hue of colour images too

    Raises:
        ImportError: kornia, which "strong" needs, is not installed.
    """
    if kind == "none":
        return lambda images, count, mine: images
    if kind == "light":
        return lambda images, count, mine: augment(images, flip=flip, crop_padding=crop_padding, count=count, mine=mine)
    changes = _strong_changes(sample_shape)

    def strong(images: Tensor, count: int, mine: slice) -> Tensor:
        images = augment(images, flip=flip, crop_padding=0, count=count, mine=mine)
        for change in changes:
            images = _apply(change, images, count, mine)
        return images.clamp(0, 1)

    return strong


def augment(images: Tensor, *, flip: bool, crop_padding: int, count: int | None = None, mine: slice = _WHOLE) -> Tensor:
    """Mirror each image with probability 1/2 if `flip`, and shift it by up to `crop_padding` pixels.

    Args:
        images: float [N, C, H, W].
        count: size of the whole batch, if `images` is a part of it.
        mine: positions of `images` in the whole batch.
    """
    n, _, height, width = images.shape
    count = n if count is None else count
    if flip:
        mirrored = torch.rand(count, 1, 1, 1)[mine].to(images.device) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    if crop_padding:
        padded = F.pad(images, (crop_padding,) * 4)
        top, left = torch.randint(0, 2 * crop_padding + 1, (2, count, 1))[:, mine].to(images.device)
        rows = top + torch.arange(height, device=images.device)
        columns = left + torch.arange(width, device=images.device)
        sample = torch.arange(n, device=images.device)[:, None, None]
        images = padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images


def _strong_changes(sample_shape: tuple[int, ...]) -> list[Any]:
    """Return kornia's augmentation modules. Each is applied to every image, with random strength."""
    try:
        import kornia.augmentation as K
    except ImportError as error:
        raise ImportError(f'augment "strong" needs kornia: {install("kornia", extra="train")}') from error
    channels, height, width = sample_shape
    crop = K.RandomResizedCrop((height, width), scale=(0.3, 1.0), ratio=(3 / 4, 4 / 3), p=1.0)
    if channels == 3:
        return [crop, K.ColorJiggle(0.4, 0.4, 0.4, 0.1, p=1.0)]
    return [crop, K.RandomBrightness((0.6, 1.4), p=1.0), K.RandomContrast((0.6, 1.4), p=1.0)]


def _apply(change: Any, images: Tensor, count: int, mine: slice) -> Tensor:
    """Apply a module of kornia to `images`, with random numbers drawn for a batch of `count`."""
    drawn = change.forward_parameters(torch.Size((count, *images.shape[1:])))
    drawn = {name: value if name in _OF_THE_BATCH else value[mine] for name, value in drawn.items()}
    drawn["forward_input_shape"] = torch.tensor(images.shape)
    return change(images, params=drawn)
