"""Perceptual hashes of images: codes that differ in few bits for copies that were scaled, compressed or retouched."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.extras import install
from .._base.progress import progress_bar
from .decoding import MAX_PIXELS, pillow
from .images import Skipped, listed
from .named import find_samples
from .sources import open_source

_BATCH = 64  # images that are decoded together


class Hash(NamedTuple):
    """A perceptual hash: the library that computes it, and the images that it is computed from."""

    bits: int
    package: str
    side: int  # images are resized to this width and height
    grey: bool
    load: Callable[[], Callable[[np.ndarray], np.ndarray]]  # import the library; return the function from an image to bits
    install: Callable[[], str]  # return the command that installs the package


def _load_phash() -> Callable[[np.ndarray], np.ndarray]:
    import imagehash

    image = pillow()
    return lambda pixels: imagehash.phash(image.fromarray(pixels)).hash.ravel()


def _load_pdq() -> Callable[[np.ndarray], np.ndarray]:
    import pdqhash

    return lambda pixels: pdqhash.compute(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))[0].astype(bool)


def _install_phash() -> str:
    return install("imagehash", extra="duplicates")


def _install_pdq() -> str:
    return "pip install pdqhash"  # it has to be compiled on some machines, so that no extra has it


HASHES = {
    "phash": Hash(bits=64, package="imagehash", side=128, grey=True, load=_load_phash, install=_install_phash),
    "pdq": Hash(bits=256, package="pdqhash", side=512, grey=False, load=_load_pdq, install=_install_pdq),
}
"""The hashes by name: "phash" of the package imagehash, 64 bits, and "pdq" of the package pdqhash, 256 bits."""


class HashedImages(NamedTuple):
    """The images of a source with their hashes: absolute paths, codes uint8 [N, bits/8], and the files that were left out."""

    paths: tuple[str, ...]
    codes: Tensor
    skipped: tuple[Skipped, ...]


def hash_images(
    source: str | Path,
    *,
    hash: str = "phash",
    root: str | Path | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: bool = False,
) -> HashedImages:
    """Compute a perceptual hash of every image of a source.

    Args:
        source: an image, a folder, manifest or list of images, as in `open_source`.
        hash: a name of HASHES.
        root: the folder that the paths in a manifest or list are relative to.
        max_pixels: number of pixels above which an image is left out.
        progress: show a progress bar on standard error.

    Raises:
        ImportError: Pillow or the library of the hash is not installed.
        FileNotFoundError: the source, or a file that it names, does not exist.
        ValueError: the source has no image files, or none of them can be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from orthohash_triton.data import perceptual
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, size in {"a.png": 90, "b.png": 60}.items():
        ...         Image.radial_gradient("L").resize((size, size)).save(Path(folder) / name)
        ...     found = perceptual.hash_images(folder)
        >>> found.codes.shape, [Path(path).name for path in found.paths]
        (torch.Size([2, 8]), ['a.png', 'b.png'])
    """
    checks.choice("hash_images", "hash", hash, tuple(HASHES))
    kind = HASHES[hash]
    try:
        compute = kind.load()
    except ImportError as error:
        raise ImportError(f"the hash {hash} needs {kind.package}: {kind.install()}") from error
    _require_images(source)
    images = open_source(source, (1 if kind.grey else 3, kind.side, kind.side), root=root, max_pixels=max_pixels)
    files = images.paths or ()
    skipped, rows, bits = [*images.skipped], [], []
    with ExitStack() as stack:
        advance = stack.enter_context(progress_bar("hashing", -(-len(images) // _BATCH), enabled=progress))
        first = 0
        for batch in images.batches(_BATCH):
            count = len(batch.inputs) + len(batch.skipped)
            rows += [row for row in range(first, first + count) if row not in batch.skipped]
            skipped += batch.skipped.values()
            bits += [compute(pixels) for pixels in batch.inputs.numpy()]
            first += count
            advance()
    if not rows:
        raise ValueError(f"none of the {len(images)} images of {source} can be read: {listed(skipped)}")
    codes = torch.from_numpy(np.packbits(np.stack(bits), axis=1, bitorder="little"))
    return HashedImages(tuple(str(files[row]) for row in rows), codes, tuple(skipped))


def _require_images(source: str | Path) -> None:
    """Raise ValueError for a data set that is known by name, and for a file of features."""
    if find_samples(str(source)) is not None or Path(source).suffix in (".npy", ".npz", ".safetensors"):
        raise ValueError(
            f"{source} has no image files. Name a folder, manifest or list of images, or a file of codes; "
            "`orthohash encode` computes the codes of features"
        )
