"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 70,000 grey images of clothing, 28 x 28, ten balanced classes.

Debian ships the files as `dataset-fashion-mnist`; tools/fetch_fashion_mnist.sh installs or unpacks that package. Where it is
missing, `digits` offers a small stand-in.
"""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from .dataset import Dataset, Splits
from .wordnet import fashion_mnist_distance

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
UNPACKED = Path(".data/fashion-mnist")

_FILES = {"train": "train", "test": "t10k"}
_IMAGES, _LABELS = 2051, 2049  # the IDX magic numbers: unsigned bytes in three dimensions, in one


def find_folder(folder: str | Path | None = None) -> Path:
    """The folder holding the four .gz files.

    Looked for, in order: `folder`, the environment variable ORTHOHASH_DATA, Debian's place, ./.data/fashion-mnist. The first
    two are taken at their word: a folder named there that lacks the files is an error.
    """
    named = folder or os.environ.get("ORTHOHASH_DATA")
    candidates = [Path(named)] if named else [INSTALLED, UNPACKED]
    for candidate in candidates:
        if (candidate / "train-images-idx3-ubyte.gz").is_file():
            return candidate
    raise FileNotFoundError(
        f"Fashion-MNIST was not found in {' or '.join(map(str, candidates))}: train-images-idx3-ubyte.gz is missing there. "
        "Run tools/fetch_fashion_mnist.sh (or apt-get install dataset-fashion-mnist), or set ORTHOHASH_DATA to the folder"
    )


def load(split: str, folder: str | Path | None = None) -> Dataset:
    """The "train" (60,000) or "test" (10,000) images: uint8 [N, 28, 28], labels int64 [N]."""
    if split not in _FILES:
        raise ValueError(f'fashion_mnist.load: split must be "train" or "test"; got {split!r}')
    place = find_folder(folder)
    images = _read_idx(place / f"{_FILES[split]}-images-idx3-ubyte.gz", _IMAGES)
    labels = _read_idx(place / f"{_FILES[split]}-labels-idx1-ubyte.gz", _LABELS)
    if len(images) != len(labels):
        raise ValueError(f"{place}: {len(images)} {split} images but {len(labels)} labels; the two files do not belong together")
    name, distance = f"Fashion-MNIST {split}", fashion_mnist_distance()
    return Dataset(
        torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), CLASS_NAMES, name, class_distance=distance
    )


def load_splits(folder: str | Path | None = None) -> Splits:
    """The training images as training set and gallery, the test images as queries."""
    train = load("train", folder)
    return Splits(train, train, load("test", folder))


def _read_idx(path: Path, magic: int) -> np.ndarray:
    """An IDX file of unsigned bytes: magic number and dimensions, big-endian int32 each, then the values."""
    try:
        with gzip.open(path) as file:
            raw = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing. Run tools/fetch_fashion_mnist.sh to get all four files") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a readable gzip file ({error}); fetch it again") from error
    ndim = magic & 0xFF
    header = np.frombuffer(raw[: 4 + 4 * ndim], ">i4") if len(raw) >= 4 + 4 * ndim else np.zeros(1, ">i4")
    if header[0] != magic:
        raise ValueError(f"{path} is not an IDX file of the expected kind: magic number {header[0]}, expected {magic}")
    shape = tuple(int(n) for n in header[1:])
    values = len(raw) - 4 - 4 * ndim
    if values != math.prod(shape):
        raise ValueError(f"{path} holds {values} values, its header {list(shape)} promises {math.prod(shape)}; fetch it again")
    return np.frombuffer(bytearray(raw), np.uint8, offset=4 + 4 * ndim).reshape(shape)
