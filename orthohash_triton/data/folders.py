"""A folder of images, one sub-folder per class.

photos/cat/*.jpg  photos/dog/*.png                      split by a seed
photos/train/cat/... photos/query/cat/... photos/gallery/...   split by hand; without gallery/, train/ is the gallery
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, Splits, split_stratified

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def load(folder: str | Path, *, size: int = 64, grey: bool = False, class_names: tuple[str, ...] | None = None) -> Dataset:
    """Every image of `folder`, resized to `size` x `size`.

    Answers uint8 [N, 3, size, size], or [N, size, size] with `grey`. Classes are the sub-folders in alphabetical order, unless
    `class_names` fixes them (a folder that is none of them is then an error). Files are read in alphabetical order.
    """
    folder = Path(folder)
    names = class_names or _class_folders(folder)
    unknown = set(_class_folders(folder)) - set(names)
    if unknown:
        raise ValueError(
            f"{folder} has classes that the training set lacks: {', '.join(sorted(unknown))}; it has {', '.join(names)}"
        )
    paths, labels = [], []
    for label, name in enumerate(names):
        members = image_files(folder / name) if (folder / name).is_dir() else []
        paths += members
        labels += [label] * len(members)
    if not paths:
        raise ValueError(f"{folder} has no images: expected {folder}/CLASS/*.jpg (or any of {', '.join(sorted(EXTENSIONS))})")
    return Dataset(read_images(paths, size=size, grey=grey), torch.tensor(labels), names, str(folder), tuple(paths))


def load_splits(folder: str | Path, *, size: int = 64, grey: bool = False, query_fraction: float = 0.1, seed: int = 0) -> Splits:
    """The three sets of `folder`: by its sub-folders train/, query/ and gallery/, or else by `seed`."""
    folder = Path(folder)
    if not (folder / "train").is_dir() or not (folder / "query").is_dir():
        return split_stratified(load(folder, size=size, grey=grey), query_fraction, seed)
    train = load(folder / "train", size=size, grey=grey)
    query = load(folder / "query", size=size, grey=grey, class_names=train.class_names)
    if not (folder / "gallery").is_dir():
        return Splits(train, train, query)
    return Splits(train, load(folder / "gallery", size=size, grey=grey, class_names=train.class_names), query)


def image_files(folder: Path) -> list[Path]:
    """The image files under `folder`, at any depth, in alphabetical order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())


def read_images(paths: Iterable[Path], *, size: int, grey: bool) -> Tensor:
    """The images at `paths`, resized: uint8 [N, size, size] when `grey`, else [N, 3, size, size]."""
    pillow = _pillow()
    arrays = [_read_image(pillow, path, size, "L" if grey else "RGB") for path in paths]
    batch = torch.from_numpy(np.stack(arrays))
    return batch if grey else batch.permute(0, 3, 1, 2).contiguous()


def _read_image(pillow: Any, path: Path, size: int, mode: str) -> np.ndarray:
    try:
        with pillow.open(path) as image:
            return np.asarray(image.convert(mode).resize((size, size), pillow.Resampling.BILINEAR))
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their format makes them
        raise ValueError(f"{path} cannot be read as an image ({error}); remove or replace it") from error


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected a folder with one sub-folder of images per class")
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise ValueError(f"{folder} has no sub-folders; expected one per class, as {folder}/cat/1.jpg")
    return names


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "orthohash-triton[train]"') from error
    return Image
