"""Samples in the forms that users have them, converted to what a model takes: images of any size, files, arrays and lists."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import as_tensor
from .._base.file_names import FileFinder
from ..data import decoding
from ..data.images import ImageFiles, unreadable

_CHANNELS = (1, 3, 4)  # of the last dimension of an array that holds one image
_FORMS = (
    "Pass samples as a data set stores them, or images as PIL images, paths, arrays uint8 [height, width] or "
    "[height, width, channels], or a list of these"
)


class ImageList:
    """Images of any form and size, which are converted to the samples of a model batch by batch.

    Args:
        images: PIL images, paths, arrays and tensors.
        sample_shape: (C, H, W).
    """

    def __init__(self, images: Sequence[Any], sample_shape: tuple[int, ...]) -> None:
        self._images = images
        self._channels, *size = sample_shape
        self._size = (size[0], size[1])
        self.shape = torch.Size((len(images), *(size if self._channels == 1 else sample_shape)))
        self.ndim = len(self.shape)

    def split(self, batch_size: int) -> Iterator[Tensor]:
        """Iterate over the images in batches, uint8 [M, H, W] if the samples are grey, else [M, 3, H, W]."""
        for start in range(0, len(self._images), batch_size):
            rows = range(start, min(start + batch_size, len(self._images)))
            yield torch.from_numpy(np.stack([self._decoded(row) for row in rows]))

    def _decoded(self, row: int) -> np.ndarray:
        """Return the image at position `row` as a sample."""
        image, grey = self._images[row], self._channels == 1
        if not isinstance(image, Path):
            return decoding.image_array(_as_pillow(image, f"inputs[{row}]"), self._size, grey=grey)
        try:
            return decoding.decode(image, self._size, grey=grey)
        except Exception as error:  # Pillow documents no common base of the errors of its decoders
            raise unreadable(image, decoding.reason(image, error)) from error


def as_samples(inputs: Any, sample_shape: tuple[int, ...]) -> "Tensor | ImageFiles | ImageList":
    """Convert `inputs` to samples of `sample_shape`, in the order in which they are given.

    Args:
        inputs: see `HashModel`.
        sample_shape: (C, H, W) of images, or (D,) of features.

    Raises:
        TypeError: `inputs`, or one of a list, is no sample.
        ValueError: they do not fit the model.
        FileNotFoundError: an image file does not exist.
    """
    if isinstance(inputs, Tensor | ImageFiles):
        return inputs
    if len(sample_shape) != 3:
        return _features(inputs, sample_shape[0])
    if sample_shape[0] not in (1, 3):
        raise ValueError(f"the model takes samples of shape {list(sample_shape)}, which are not images; pass them as a tensor")
    if isinstance(inputs, np.ndarray):
        inputs = _image_arrays(inputs, sample_shape)
        if isinstance(inputs, Tensor):
            return inputs
    images = inputs if isinstance(inputs, list | tuple) else [inputs]
    if not images:
        return torch.empty(0, *sample_shape, dtype=torch.uint8)
    return _images(images, sample_shape)


def _features(inputs: Any, width: int) -> Tensor:
    """Convert an array [N, D] or a list of vectors [D] to float32 [N, D]."""
    rows = inputs
    if isinstance(inputs, list | tuple):
        rows = np.stack([_vector(row, i, width) for i, row in enumerate(inputs)]) if inputs else np.empty((0, width))
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu":
        raise TypeError(
            f"the model takes features, float32 [N, {width}] as a tensor, an array or a list of vectors; "
            f"got {checks.describe(inputs)}"
        )
    return as_tensor(rows.astype(np.float32))


def _vector(row: Any, position: int, width: int) -> np.ndarray:
    """Return one vector of a list, float [D]."""
    try:
        vector = np.asarray(row, np.float32)
    except (TypeError, ValueError):
        vector = None
    if vector is None or vector.shape != (width,):
        raise ValueError(f"inputs[{position}] must be a vector of {width} numbers; got {checks.describe(row)}")
    return vector


def _image_arrays(array: np.ndarray, sample_shape: tuple[int, ...]) -> Any:
    """Return an array of stored samples as a tensor, and one of images of any size as a list."""
    stored = sample_shape[1:] if sample_shape[0] == 1 and array.ndim == 3 else sample_shape
    if array.shape[1:] == tuple(stored) and array.dtype == np.uint8:
        return as_tensor(array)
    if array.ndim == 4 and array.shape[-1] in _CHANNELS:
        return list(array)
    return [array]


def _images(images: Sequence[Any], sample_shape: tuple[int, ...]) -> "ImageFiles | ImageList":
    """Return images of any form, of which there is at least one, without decoding them."""
    finder = FileFinder()
    found = [_existing(finder, image) if isinstance(image, str | Path) else image for image in images]
    for position, image in enumerate(found):
        _require_image(image, f"inputs[{position}]")
    channels, height, width = sample_shape
    if height == width and all(isinstance(image, Path) for image in found):
        return ImageFiles(found, size=width, grey=channels == 1)
    return ImageList(found, sample_shape)


def _existing(finder: FileFinder, path: str | Path) -> Path:
    """Return the path of an image file that exists."""
    found = finder.find(Path(path))
    if found.is_dir():
        raise ValueError(f"{path} is a folder; pass its files, or encode it with orthohash_triton.runs.encode_to")
    if not found.exists():
        raise FileNotFoundError(f"{path} does not exist; expected an image file")
    return found


def _require_image(image: Any, name: str) -> None:
    """Raise an error if `image`, which messages call `name`, cannot be an image."""
    if isinstance(image, Path) or _is_pillow(image):
        return
    if isinstance(image, Tensor):
        fits = image.dtype == torch.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[0] in _CHANNELS))
        expected = "a tensor of one image must be uint8 [H, W] or [channels, H, W]"
    elif isinstance(image, np.ndarray):
        fits = image.dtype == np.uint8 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in _CHANNELS))
        expected = "an array of one image must be uint8 [height, width] or [height, width, channels]"
    else:
        raise TypeError(f"{name} is not an image; got {checks.describe(image)}. {_FORMS}")
    if not fits:
        raise ValueError(f"{name}: {expected}, with 1, 3 or 4 channels; got {checks.describe(image)}. {_FORMS}")
    if 0 in image.shape:
        raise ValueError(f"{name} has no pixels; got {checks.describe(image)}")


def _is_pillow(image: Any) -> bool:
    """Return whether `image` is a PIL image, without importing Pillow."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(image, module.Image)


def _as_pillow(image: Any, name: str) -> Any:
    """Return an image that `_require_image` accepts as a PIL image."""
    _require_image(image, name)
    if _is_pillow(image):
        return image
    if isinstance(image, Tensor):
        image = image.cpu().numpy()
        image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    array = np.ascontiguousarray(image)
    return decoding.pillow().fromarray(array[..., 0] if array.shape[2:] == (1,) else array)
