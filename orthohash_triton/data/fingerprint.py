"""The fingerprint of a data set, by which a training that is resumed and a run that is evaluated recognise their data."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .dataset import Dataset


def fingerprint(data: Dataset) -> dict[str, Any]:
    """Return plain values that differ between data sets, and stay equal when a data set moves to another folder.

    Of images in files that are decoded on access, the names below their common folder and the sizes are compared, not the pixels.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.data.fingerprint import fingerprint
        >>> data = Dataset(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]), ("cat", "dog"), "toy")
        >>> fingerprint(data)["number of samples"], fingerprint(data) == fingerprint(data.subset(torch.tensor([1, 0, 2, 3])))
        (4, False)
    """
    inputs = data.inputs
    return {
        "number of samples": len(data),
        "shape of a sample": list(data.sample_shape),
        "class names": list(data.class_names),
        "labels": _checksum(data.labels),
        "samples": _checksum(inputs) if isinstance(inputs, Tensor) else _checksum_of_files(inputs.paths),
        "validation set": None if data.validation is None else fingerprint(data.validation),
    }


def below_their_folder(paths: Sequence[str | Path]) -> list[str]:
    """Return `paths` relative to their common folder, because the folder may have been moved.

    Example:
        >>> from orthohash_triton.data.fingerprint import below_their_folder
        >>> below_their_folder(["/a/cat/1.jpg", "/a/dog/1.jpg"])
        ['cat/1.jpg', 'dog/1.jpg']
    """
    places = [os.path.abspath(path) for path in paths]
    common = os.path.commonpath(places) if places else ""
    return [os.path.relpath(place, common).replace(os.sep, "/") for place in places]


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().numpy().data)


def _checksum_of_files(paths: Sequence[Path]) -> int:
    lines = (f"{name}\0{path.stat().st_size}\n" for name, path in zip(below_their_folder(paths), paths, strict=True))
    return zlib.crc32("".join(lines).encode(errors="surrogateescape"))
