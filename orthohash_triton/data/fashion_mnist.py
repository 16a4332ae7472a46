"""The data set fashion-mnist (Xiao, Rasul and Vollgraf, 2017): 70,000 grey images of clothing, 28 x 28, ten equal classes.

Debian packages the files as `dataset-fashion-mnist`; tools/fetch_fashion_mnist.sh installs or unpacks that package. The data set
`digits` is a small substitute without files.
"""

import gzip
import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from .._base.quoting import quoted
from .._base.reading import reader
from . import _installed
from .dataset import Dataset, Splits
from .named import NamedDataset
from .wordnet import fashion_mnist_distance

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
UNPACKED = Path(".data/fashion-mnist")

_FILES = {"train": "train", "test": "t10k"}
_LARGEST = 16 + 60_000 * 28 * 28  # bytes of the largest file after decompression
_IMAGES, _LABELS = 2051, 2049  # IDX magic numbers of unsigned bytes in three dimensions and in one


def find_folder(folder: str | Path | None = None) -> Path:
    """Return the folder that holds the four .gz files.

    If `folder` or else the environment variable ORTHOHASH_DATA names a folder, only that folder is tried. Otherwise Debian's
    folder and then ./.data/fashion-mnist are tried.

    Raises:
        FileNotFoundError: the files are in none of them.

    Example:
        >>> from orthohash_triton.data import fashion_mnist
        >>> fashion_mnist.find_folder()  # doctest: +SKIP
        PosixPath('/usr/share/datasets/fashion-mnist')
    """
    return _installed.find_folder(
        "Fashion-MNIST was not found in", ["train-images-idx3-ubyte.gz"],
        folder=folder, variable="ORTHOHASH_DATA", places=(INSTALLED, UNPACKED),
        advice="Run tools/fetch_fashion_mnist.sh (or apt-get install dataset-fashion-mnist)",
    )  # fmt: skip


def load(split: Literal["train", "test"], folder: str | Path | None = None) -> Dataset:
    """Load the 60,000 "train" or the 10,000 "test" images: uint8 [N, 28, 28], labels int64 [N].

    Args:
        split: "train" or "test".
        folder: see `find_folder`.

    Raises:
        FileNotFoundError: the files are not installed.
        ValueError: an unknown split, or damaged files.

    Example:
        >>> from orthohash_triton.data import fashion_mnist
        >>> fashion_mnist.load("test").inputs.shape  # doctest: +SKIP
        torch.Size([10000, 28, 28])
    """
    if split not in _FILES:
        raise ValueError(f'fashion_mnist.load: split must be "train" or "test"; got {quoted(split)}')
    place = find_folder(folder)
    images = _read_idx(place / f"{_FILES[split]}-images-idx3-ubyte.gz", _IMAGES)
    labels_file = place / f"{_FILES[split]}-labels-idx1-ubyte.gz"
    labels = _read_idx(labels_file, _LABELS)
    if labels.max(initial=0) >= len(CLASS_NAMES):
        raise ValueError(f"{labels_file} has labels from {labels.min()} to {labels.max()}; expected 0 to 9. Fetch it again")
    if len(images) != len(labels):
        raise ValueError(f"{place}: {len(images)} {split} images but {len(labels)} labels; the two files do not belong together")
    name, distance = f"Fashion-MNIST {split}", fashion_mnist_distance()
    return Dataset(
        torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)), CLASS_NAMES, name, class_distance=distance
    )


def load_splits(folder: str | Path | None = None) -> Splits:
    """Return the training images as training set and gallery, and the test images as queries.

    Example:
        >>> from orthohash_triton.data import fashion_mnist
        >>> train, gallery, query = fashion_mnist.load_splits()  # doctest: +SKIP
    """
    train = load("train", folder)
    return Splits(train, train, load("test", folder))


@reader("gzip file of IDX data", advice="Fetch it again")
def _read_idx(path: Path, magic: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes: magic number and dimensions, each a big-endian int32, then the values.

    The lower byte of `magic` is the number of dimensions.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Run tools/fetch_fashion_mnist.sh to get all four files")
    with gzip.open(path) as file:
        raw = file.read(_LARGEST + 1)
    if len(raw) > _LARGEST:
        raise ValueError(f"{path} holds more than {_LARGEST:,} bytes, which no file of the data set has; fetch it again")
    ndim = magic & 0xFF
    header = np.frombuffer(raw[: 4 + 4 * ndim], ">i4") if len(raw) >= 4 + 4 * ndim else np.zeros(1, ">i4")
    if header[0] != magic:
        raise ValueError(f"{path} is not an IDX file of the expected kind: magic number {header[0]}, expected {magic}")
    shape = tuple(int(n) for n in header[1:])
    values = len(raw) - 4 - 4 * ndim
    if values != math.prod(shape):
        raise ValueError(f"{path} holds {values} values, its header {list(shape)} promises {math.prod(shape)}; fetch it again")
    return np.frombuffer(bytearray(raw), np.uint8, offset=4 + 4 * ndim).reshape(shape)


DATASET = NamedDataset(
    name="fashion-mnist",
    summary="70,000 grey images of ten classes of clothing, with their own split",
    splits=lambda options: load_splits(),
    samples={"train": lambda: load("train"), "test": lambda: load("test")},
)
