"""Sets of image files, including files that cannot be decoded and sets that do not fit into memory.

`decoding` describes how one image becomes an array.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.files import atomic_write
from .decoding import MAX_PIXELS, decode, pillow, reason

IN_MEMORY_BYTES = 2**30
"""Sets of images whose decoded size is at most this number of bytes are held in memory; larger ones stay in their files."""

OnError = Literal["skip", "raise"]
ON_ERROR = get_args(OnError)

SKIPPED_FILE = "skipped.json"
"""File of an output folder in which commands list the files that they left out; see `write_skipped`."""

_THREADS = min(8, os.cpu_count() or 1)
_AHEAD = 2  # batches that are decoded while the caller works on another one
_CHECKED = 256  # images per batch when all are decoded once
_SHOWN = 3  # skipped files in a message


class Skipped(NamedTuple):
    """A file that was left out, and the reason.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data import Skipped
        >>> Skipped(Path("1.png"), "the file is empty").reason
        'the file is empty'
    """

    path: Path
    reason: str


class ImageFiles:
    """Images that stay in their files and are decoded on access; a substitute for a tensor uint8 [N, H, W] or [N, 3, H, W].

    Args:
        paths: the files.
        size: every image is resized to `size` x `size` pixels.
        grey: decode to [N, size, size] instead of [N, 3, size, size].
        max_pixels: number of pixels above which an image is not decoded.

    Raises:
        ValueError: on access, if a file cannot be decoded.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from PIL import Image
        >>> from orthohash_triton.data import ImageFiles
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for value in (10, 20):
        ...         Image.new("L", (9, 9), value).save(Path(folder) / f"{value}.png")
        ...     images = ImageFiles(sorted(Path(folder).iterdir()), size=2, grey=True)
        ...     print(images, images[torch.tensor([1])].tolist())
        ImageFiles(uint8 [2, 2, 2]) [[[20, 20], [20, 20]]]
    """

    dtype = torch.uint8

    def __init__(self, paths: Sequence[Path], *, size: int, grey: bool = False, max_pixels: int = MAX_PIXELS) -> None:
        self.paths = tuple(paths)
        self.size = checks.integer("ImageFiles", "size", size, minimum=1)
        self.grey = grey
        self.max_pixels = checks.integer("ImageFiles", "max_pixels", max_pixels, minimum=1)

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor that would hold all images."""
        return torch.Size((len(self.paths), *_sample_shape(self.size, self.grey)))

    @property
    def ndim(self) -> int:
        """Number of dimensions of `shape`."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"ImageFiles(uint8 {list(self.shape)})"

    def __getitem__(self, rows: Tensor | slice | list[int] | int) -> Tensor:
        """Return the images at `rows` (int64 [M], bool [N], a list or a slice), uint8 [M, ...]; an integer selects one image."""
        chosen = torch.arange(len(self))[rows]
        images = next(self.batches([chosen.reshape(-1)]))
        return images if chosen.ndim else images[0]

    def subset(self, rows: Tensor) -> "ImageFiles":
        """Return the images at `rows`, int64 [M], in that order, without decoding them."""
        paths = [self.paths[i] for i in rows.tolist()]
        return ImageFiles(paths, size=self.size, grey=self.grey, max_pixels=self.max_pixels)

    def split(self, batch_size: int) -> Iterator[Tensor]:
        """Iterate over all images in batches uint8 [batch_size, ...]. The last batch may be smaller."""
        return self.batches(torch.arange(len(self)).split(batch_size))

    def batches(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """Iterate over the images of each batch of `rows`, int64 [M]. Threads decode the next batches meanwhile."""
        files = ([self.paths[i] for i in batch.tolist()] for batch in rows)
        for images, paths, failures in decode_batches(files, size=self.size, grey=self.grey, max_pixels=self.max_pixels):
            for row, why in failures:
                raise unreadable(paths[row], why)
            yield images


class Decoded(NamedTuple):
    """A batch of images, uint8 [M, ...], their files, and (row, reason) of each that could not be decoded. Its pixels are 0."""

    images: Tensor
    paths: Sequence[Path]
    failures: list[tuple[int, str]]


def decode_batches(
    batches: Iterable[Sequence[Path]], *, size: int, grey: bool, max_pixels: int = MAX_PIXELS
) -> Iterator[Decoded]:
    """Decode each batch of files, in order. Images with more than `max_pixels` are failures.

    Memory holds the batch that the caller works on and the few that threads decode ahead. While images are decoded, they take at
    most `decoding.DECODING_BYTES` together, or what the largest of them needs.

    Raises:
        ImportError: Pillow is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from orthohash_triton.data import images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (9, 9), 10).save(Path(folder) / "good.png")
        ...     (Path(folder) / "bad.png").touch()
        ...     files = [Path(folder) / "good.png", Path(folder) / "bad.png"]
        ...     [batch.failures for batch in images.decode_batches([files], size=2, grey=True)]
        [[(1, 'the file is empty')]]
    """
    pillow()  # one ImportError here instead of one reason for each image
    pool = ThreadPoolExecutor(_THREADS)
    pending: deque[tuple[np.ndarray, Sequence[Path], list[Future]]] = deque()
    try:
        for paths in batches:
            images = np.zeros((len(paths), *_sample_shape(size, grey)), np.uint8)
            decoding = [pool.submit(_decode_into, image, path, max_pixels) for image, path in zip(images, paths, strict=True)]
            pending.append((images, paths, decoding))
            if len(pending) > _AHEAD:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(images: np.ndarray, paths: Sequence[Path], decoding: list[Future]) -> Decoded:
    """Wait until a batch is decoded, and return it."""
    reasons = [future.result() for future in decoding]
    return Decoded(torch.from_numpy(images), paths, [(row, why) for row, why in enumerate(reasons) if why])


def _sample_shape(size: int, grey: bool) -> tuple[int, ...]:
    """Return the shape of a decoded image."""
    return (size, size) if grey else (3, size, size)


def _decode_into(out: np.ndarray, path: Path, max_pixels: int) -> str | None:
    """Decode the file at `path` into `out`, uint8 [size, size] or [3, size, size]. Return the reason if it cannot be decoded."""
    try:
        out[...] = decode(path, out.shape[-1], grey=out.ndim == 2, max_pixels=max_pixels)
        return None
    except Exception as error:  # Pillow documents no common base of the errors of its decoders
        return reason(path, error)


class Opened(NamedTuple):
    """The images that can be decoded, the positions of their files, int64 [M], and the files that were left out."""

    inputs: "Tensor | ImageFiles"
    rows: Tensor
    skipped: tuple[Skipped, ...]


def open_images(
    paths: Sequence[Path],
    *,
    size: int,
    grey: bool = False,
    on_error: OnError = "skip",
    in_memory: int = IN_MEMORY_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> Opened:
    """Decode every image at `paths` once, and return those that can be decoded.

    The result holds a tensor if that takes at most `in_memory` bytes, else `ImageFiles`.

    Args:
        paths: the files.
        size: side length in pixels to which images are resized.
        grey: convert images to grey instead of RGB.
        on_error: "skip" leaves out images that cannot be decoded, "raise" raises ValueError for the first of them.
        in_memory: number of bytes up to which the decoded images are held in memory.
        max_pixels: number of pixels above which an image counts as one that cannot be decoded.

    Raises:
        ValueError: with on_error="raise", an image cannot be decoded; or none of the images can be decoded.
        ImportError: Pillow is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from orthohash_triton.data import images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (9, 9), 10).save(Path(folder) / "good.png")
        ...     (Path(folder) / "bad.png").touch()
        ...     opened = images.open_images([Path(folder) / "bad.png", Path(folder) / "good.png"], size=2)
        >>> opened.inputs.shape, opened.rows, [reason for _, reason in opened.skipped]
        (torch.Size([1, 3, 2, 2]), tensor([1]), ['the file is empty'])
    """
    checks.choice("open_images", "on_error", on_error, ON_ERROR)
    files = ImageFiles(paths, size=size, grey=grey, max_pixels=max_pixels)
    keep = files.shape.numel() <= in_memory
    parts, rows, skipped = [], [], []
    chunks = [paths[start : start + _CHECKED] for start in range(0, len(paths), _CHECKED)]
    for number, (images, chunk, failures) in enumerate(decode_batches(chunks, size=size, grey=grey, max_pixels=max_pixels)):
        for row, why in failures:
            if on_error == "raise":
                raise unreadable(chunk[row], why)
            skipped.append(Skipped(chunk[row], why))
        good = good_rows(len(chunk), failures)
        rows.append(good + number * _CHECKED)
        if keep:
            parts.append(images[good] if failures else images)
    kept = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
    if skipped and not len(kept):
        raise ValueError(f"none of the {len(paths)} images can be read: {listed(skipped)}")
    return Opened(torch.cat(parts) if keep and parts else files.subset(kept), kept, tuple(skipped))


def good_rows(count: int, failures: Sequence[tuple[int, str]]) -> Tensor:
    """Return the rows of a batch of `count` images that are not among its `failures`, int64 [M].

    Example:
        >>> from orthohash_triton.data import images
        >>> images.good_rows(3, [(1, "the file is empty")])
        tensor([0, 2])
    """
    bad = {row for row, _ in failures}
    return torch.tensor([row for row in range(count) if row not in bad], dtype=torch.int64)


def unreadable(path: Path, reason: str) -> ValueError:
    """Return the error of an image that cannot be decoded.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data import images
        >>> str(images.unreadable(Path("1.png"), "the file is empty"))
        '1.png cannot be read as an image (the file is empty); remove or replace it, or let such images be skipped'
    """
    return ValueError(f"{path} cannot be read as an image ({reason}); remove or replace it, or let such images be skipped")


def report_skipped(name: str, skipped: Sequence[Skipped], total: int) -> None:
    """Print one line on standard error that names what was left out of the data set `name`, if there is anything.

    Args:
        name: description of the source.
        skipped: the files that were left out, and folders that were not entered.
        total: number of files and folders, with those that were left out.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data import Skipped, images
        >>> images.report_skipped("photos", [Skipped(Path("1.png"), "the file is empty")], total=20)
    """
    if not skipped:
        return
    folders = sum(os.path.isdir(path) for path, _ in skipped)
    counts = [f"{len(skipped) - folders:,} of {total - folders:,} files"] if len(skipped) > folders else []
    if folders:
        counts.append(f"{folders:,} folder{'s' if folders > 1 else ''}")
    print(f"{name}: {' and '.join(counts)} skipped: {listed(skipped)}", file=sys.stderr)


def write_skipped(path: str | Path, skipped: Sequence[Skipped]) -> None:
    """Write the files that were left out as JSON, in place of an earlier list. Without such files, only remove the earlier list.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data import Skipped, images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / images.SKIPPED_FILE
        ...     images.write_skipped(path, [Skipped(Path("1.png"), "the file is empty")])
        ...     print(path.read_text())
        [
          {
            "path": "1.png",
            "reason": "the file is empty"
          }
        ]
        <BLANKLINE>
    """
    if not skipped:
        Path(path).unlink(missing_ok=True)
        return
    with atomic_write(path) as file:
        file.write(skipped_as_json(skipped))


def skipped_as_json(skipped: Sequence[Skipped]) -> bytes:
    """Return the JSON that `write_skipped` writes.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data import Skipped, images
        >>> images.skipped_as_json([])
        b'[]\\n'
    """
    listed = [{"path": str(file.path), "reason": file.reason} for file in skipped]
    return (json.dumps(listed, indent=2) + "\n").encode()


def listed(skipped: Sequence[Skipped]) -> str:
    """Return the first few files with their reasons, in one line.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data import Skipped, images
        >>> images.listed([Skipped(Path("1.png"), "the file is empty")])
        '1.png (the file is empty)'
    """
    shown = ", ".join(f"{path} ({why})" for path, why in skipped[:_SHOWN])
    return shown + (f" and {len(skipped) - _SHOWN:,} more" if len(skipped) > _SHOWN else "")
