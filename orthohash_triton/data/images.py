"""Images in files: decoding, those that cannot be decoded, and sets too large for memory.

Whatever a file holds becomes uint8 grey or RGB: turned upright as its EXIF orientation says, transparent pixels over white,
16-bit values by their upper byte, the first picture of an animation. Decoding draws no random numbers.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.files import atomic_write

IN_MEMORY_BYTES = 2**30
"""Sets of images up to this size, decoded, are held in memory; larger ones stay in their files."""

ON_ERROR = ("skip", "raise")

SKIPPED_FILE = "skipped.json"
"""Where a command that writes a folder lists the files that it left out; see `write_skipped`."""

_THREADS = min(8, os.cpu_count() or 1)
_AHEAD = 2  # batches that are decoded while the reader works on another
_CHECKED = 256  # images decoded at a time to see which can be
_SHOWN = 3


class Skipped(NamedTuple):
    """A file that was left out, and why."""

    path: Path
    reason: str


class ImageFiles:
    """Images that stay in their files: stands where a tensor uint8 [N, H, W] or [N, 3, H, W] stands, decoded when asked for.

    paths  the files
    size   every image is resized to `size` x `size` pixels
    grey   [N, size, size] instead of [N, 3, size, size]

    Raises:
        ValueError: when rows are asked for and a file of theirs cannot be read (any more).
    """

    dtype = torch.uint8

    def __init__(self, paths: Sequence[Path], *, size: int, grey: bool = False) -> None:
        self.paths = tuple(paths)
        self.size = checks.integer("ImageFiles", "size", size, minimum=1)
        self.grey = grey

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.paths), *_sample_shape(self.size, self.grey)))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"ImageFiles(uint8 {list(self.shape)})"

    def __getitem__(self, rows: Tensor | slice | list[int] | int) -> Tensor:
        """The images of `rows`, int64 [M], bool [N], a list or a slice, as uint8 [M, ...]; of an integer that one image."""
        chosen = torch.arange(len(self))[rows]
        images = next(self.batches([chosen.reshape(-1)]))
        return images if chosen.ndim else images[0]

    def subset(self, rows: Tensor) -> "ImageFiles":
        """The images of `rows`, int64 [M], in that order, still in their files."""
        return ImageFiles([self.paths[i] for i in rows.tolist()], size=self.size, grey=self.grey)

    def split(self, batch_size: int) -> Iterator[Tensor]:
        """All images in order, in batches uint8 [batch_size, ...] of which the last may be smaller; see `batches`."""
        return self.batches(torch.arange(len(self)).split(batch_size))

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images of each of `rows`, int64 [M], in turn; threads decode the next batches while one is worked on."""
        for images, paths, failures in decode_batches(
            ([self.paths[i] for i in some.tolist()] for some in rows), size=self.size, grey=self.grey
        ):
            for row, reason in failures:
                raise unreadable(paths[row], reason)
            yield images


class Decoded(NamedTuple):
    """A batch: images uint8 [M, ...], their files, and (row, reason) of those that could not be read, whose pixels are 0."""

    images: Tensor
    paths: Sequence[Path]
    failures: list[tuple[int, str]]


def decode_batches(batches: Iterable[Sequence[Path]], *, size: int, grey: bool) -> Iterator[Decoded]:
    """Each batch of files decoded, in order; memory holds the batch that is worked on and the few that threads decode ahead."""
    pillow()  # its absence is told here, once, and not for each image
    pool = ThreadPoolExecutor(_THREADS)
    pending: deque[tuple[np.ndarray, Sequence[Path], list[Future]]] = deque()
    try:
        for paths in batches:
            images = np.zeros((len(paths), *_sample_shape(size, grey)), np.uint8)
            pending.append(
                (images, paths, [pool.submit(_decode_into, image, path) for image, path in zip(images, paths, strict=True)])
            )
            if len(pending) > _AHEAD:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(images: np.ndarray, paths: Sequence[Path], decoding: list[Future]) -> Decoded:
    reasons = [future.result() for future in decoding]
    return Decoded(torch.from_numpy(images), paths, [(row, reason) for row, reason in enumerate(reasons) if reason])


def _sample_shape(size: int, grey: bool) -> tuple[int, ...]:
    return (size, size) if grey else (3, size, size)


def _decode_into(out: np.ndarray, path: Path) -> str | None:
    """Decode the file at `path` into `out`, uint8 [size, size] or [3, size, size]; the reason why it cannot be, if so."""
    try:
        out[...] = decode(path, out.shape[-1], grey=out.ndim == 2)
        return None
    except Exception as error:  # Pillow's decoders raise whatever their format makes them
        return _reason(path, error)


def decode(file: Path | BinaryIO, size: int, *, grey: bool) -> np.ndarray:
    """One image, resized: uint8 [size, size] when `grey`, else [3, size, size]. Raises whatever Pillow's decoders make of it."""
    from PIL import ImageOps

    mode = "L" if grey else "RGB"
    Image = pillow()
    with Image.open(file) as image:
        image.draft(mode, (2 * size, 2 * size))  # JPEG decodes at half, a quarter or an eighth of its size at less cost
        upright = ImageOps.exif_transpose(image)
        array = np.asarray(_eight_bits(Image, upright, mode).resize((size, size), Image.Resampling.BILINEAR))
    return array if grey else array.transpose(2, 0, 1)


def _eight_bits(Image: Any, image: Any, mode: str) -> Any:
    """`image` as `mode`, "L" or "RGB". Pillow itself clips 16-bit values at 255 and shows what lies under transparency."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.size and not 0 <= values.min() <= values.max() < 2**16:
            raise ValueError("its integer pixels are no 16-bit values")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no known range")
    elif "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


def _reason(path: Path, error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format" if path.stat().st_size else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


class Opened(NamedTuple):
    """Images that can be decoded, the rows of the files they came from, int64 [M], and those that cannot be."""

    inputs: "Tensor | ImageFiles"
    rows: Tensor
    skipped: tuple[Skipped, ...]


def open_images(
    paths: Sequence[Path], *, size: int, grey: bool = False, on_error: str = "skip", in_memory: int = IN_MEMORY_BYTES
) -> Opened:
    """The images at `paths`, every one decoded once to see that it can be.

    They are answered as a tensor where that takes up to `in_memory` bytes, else as `ImageFiles`.

    on_error  "skip" leaves out images that cannot be decoded, "raise" makes the first of them an error

    Raises:
        ValueError: an image that cannot be decoded, with on_error="raise"; or none can be.
        ImportError: Pillow is not installed.
    """
    checks.choice("open_images", "on_error", on_error, ON_ERROR)
    keep = ImageFiles(paths, size=size, grey=grey).shape.numel() <= in_memory
    parts, rows, skipped = [], [], []
    chunks = [paths[start : start + _CHECKED] for start in range(0, len(paths), _CHECKED)]
    for number, (images, files, failures) in enumerate(decode_batches(chunks, size=size, grey=grey)):
        for row, reason in failures:
            if on_error == "raise":
                raise unreadable(files[row], reason)
            skipped.append(Skipped(files[row], reason))
        bad = {row for row, _ in failures}
        good = torch.tensor([row for row in range(len(files)) if row not in bad], dtype=torch.int64)
        rows.append(good + number * _CHECKED)
        if keep:
            parts.append(images[good] if bad else images)
    kept = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
    if skipped and not len(kept):
        raise ValueError(f"none of the {len(paths)} images can be read: {listed(skipped)}")
    if keep and parts:
        return Opened(torch.cat(parts), kept, tuple(skipped))
    return Opened(ImageFiles([paths[i] for i in kept.tolist()], size=size, grey=grey), kept, tuple(skipped))


def unreadable(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} cannot be read as an image ({reason}); remove or replace it, or let such images be skipped")


def report_skipped(name: str, skipped: Sequence[Skipped], total: int) -> None:
    """Tell, in one line on standard error, that files were left out."""
    if skipped:
        print(f"{name}: {len(skipped):,} of {total:,} files skipped: {listed(skipped)}", file=sys.stderr)


def write_skipped(path: str | Path, skipped: Sequence[Skipped]) -> None:
    """Write the list of the files that were left out, as JSON, in the place of an earlier one; nothing if there are none."""
    if not skipped:
        Path(path).unlink(missing_ok=True)
        return
    listed = [{"path": str(file.path), "reason": file.reason} for file in skipped]
    with atomic_write(path) as file:
        file.write((json.dumps(listed, indent=2) + "\n").encode())


def listed(skipped: Sequence[Skipped]) -> str:
    """The first few of them with their reasons, in a line."""
    shown = ", ".join(f"{path} ({reason})" for path, reason in skipped[:_SHOWN])
    return shown + (f" and {len(skipped) - _SHOWN:,} more" if len(skipped) > _SHOWN else "")


def pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "orthohash-triton[train]"') from error
    return Image
