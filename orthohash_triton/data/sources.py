"""Sources of samples in a fixed order, batch by batch, so that a source of any size can be encoded in little memory."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._base import checks
from .._base.file_names import FileFinder
from .._base.quoting import quoted
from . import decoding, features, folders
from .dataset import UNLABELLED, Dataset
from .decoding import MAX_PIXELS
from .images import ON_ERROR, ImageFiles, OnError, Skipped, decode_batches, good_rows, unreadable
from .listing import Listing, joined, unlabelled
from .named import find_samples, sample_names
from .readers import READERS, Reader, find_reader


class Batch(NamedTuple):
    """Consecutive samples of a source.

    Attributes:
        inputs: the samples that could be read, [M, ...], as in `Dataset`.
        skipped: samples that could not be read, by their position in the source.

    Example:
        >>> from orthohash_triton import data
        >>> batch = next(data.open_source("digits", sample_shape=(1, 8, 8)).batches(100))
        >>> batch.inputs.shape, batch.skipped
        (torch.Size([100, 8, 8]), {})
    """

    inputs: Tensor
    skipped: dict[int, Skipped]


class Source(ABC):
    """Samples in a fixed order. `open_source` returns one; a subclass can feed other samples to `encode_to`.

    Attributes:
        name: description of the source, for messages.
        sample_shape: (C, H, W) of an image, (D,) of a feature vector.
        paths: file of each sample, or None if the samples are not image files.
        labels: int64 [N] or bool [N, C], or None if they are unknown.
        class_names: C names.
        skipped: files of the source that were left out when it was opened.

    Example:
        >>> import torch
        >>> from orthohash_triton import data
        >>> dataset = data.Dataset(torch.zeros(5, 2), torch.tensor([0, 1, 1, 0, 1]), ("cat", "dog"), "toy")
        >>> source = data.open_source(dataset, sample_shape=(2,))
        >>> [len(batch.inputs) for batch in source.batches(2, start=1)]
        [2, 2]
    """

    name: str
    sample_shape: tuple[int, ...]
    paths: tuple[Path, ...] | None = None
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples, including those that cannot be read."""

    @abstractmethod
    def batches(self, batch_size: int, *, start: int = 0) -> Iterator[Batch]:
        """Iterate over the samples from position `start`, `batch_size` at a time. Each batch opens its files when it is due."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a checksum that differs between sources, and changes when the files of a source change."""

    def _label_with(self, labels: Tensor, class_names: tuple[str, ...]) -> None:
        """Set labels and class names, unless the samples are unlabelled."""
        if class_names != (UNLABELLED,):
            self.labels, self.class_names = labels, class_names


class _Images(Source):
    """Image files, decoded batch by batch."""

    def __init__(self, listing: Listing, *, size: int, grey: bool, on_error: OnError, max_pixels: int) -> None:
        listing = _with_plain_names(listing)
        self.name, self.paths, self.skipped = listing.name, listing.paths, listing.skipped
        self.sample_shape = (1 if grey else 3, size, size)
        self._size, self._grey = size, grey
        self._max_pixels = checks.integer("open_source", "max_pixels", max_pixels, minimum=1)
        self._on_error = checks.choice("open_source", "on_error", on_error, ON_ERROR)
        self._files = listing.paths
        self._label_with(listing.labels, listing.class_names)

    def __len__(self) -> int:
        return len(self._files)

    def batches(self, batch_size: int, *, start: int = 0) -> Iterator[Batch]:
        starts = range(start, len(self), batch_size)
        chunks = (self._files[first : first + batch_size] for first in starts)
        decoded = decode_batches(chunks, size=self._size, grey=self._grey, max_pixels=self._max_pixels)
        for first, (images, files, failures) in zip(starts, decoded, strict=True):
            if failures and self._on_error == "raise":
                raise unreadable(files[failures[0][0]], failures[0][1])
            inputs = images[good_rows(len(files), failures)] if failures else images
            yield Batch(inputs, {first + row: Skipped(files[row], reason) for row, reason in failures})

    def fingerprint(self) -> str:
        return _digest(*map(_version, self._files))


class _Rows(Source):
    """The rows of a file of features. A .npy file is mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows = path, features.open_rows(path)
        self.name, self.sample_shape = str(path), tuple(self._rows.shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, batch_size: int, *, start: int = 0) -> Iterator[Batch]:
        for first in range(start, len(self), batch_size):
            yield Batch(features.checked_rows(self._path, self._rows[first : first + batch_size]), {})

    def fingerprint(self) -> str:
        return _digest(_version(self._path))


class _Samples(Source):
    """The samples of a Dataset."""

    def __init__(self, dataset: Dataset) -> None:
        self.name, self.sample_shape, self._dataset = dataset.name, dataset.sample_shape, dataset
        self.paths, self.skipped = dataset.paths, dataset.skipped
        self._label_with(dataset.labels, dataset.class_names)

    def __len__(self) -> int:
        return len(self._dataset)

    def batches(self, batch_size: int, *, start: int = 0) -> Iterator[Batch]:
        chunks = torch.arange(start, len(self)).split(batch_size) if start < len(self) else ()
        for inputs in self._dataset.batches(chunks):
            yield Batch(inputs, {})

    def fingerprint(self) -> str:
        inputs = self._dataset.inputs
        if isinstance(inputs, ImageFiles):
            return _digest(*map(_version, inputs.paths))
        return _digest(self.name, str(list(inputs.shape)), inputs.contiguous().numpy().tobytes())


def open_source(
    source: str | Path | Dataset | Source,
    sample_shape: tuple[int, ...],
    *,
    split: str | None = None,
    on_error: OnError = "skip",
    max_pixels: int = MAX_PIXELS,
    **reading: Any,
) -> Source:
    """Open a source of samples in the shape that a model expects. Image files are listed, but not opened.

    Every image of a folder is taken, at any depth, whether it is in a class folder or not (see `folders.list_everything`).

    Args:
        source: a path as in `load_splits`, an image file, a name of `sample_names()`, a `Dataset`, or a `Source`.
        sample_shape: (C, H, W) or (D,). Images are resized to W x W pixels, and converted to grey if C is 1.
        split: one part of a source that has several, "train", "gallery", "query" or "validation". Default: all, one after the
            other.
        on_error: treatment of images that cannot be decoded. "skip" lists them in their batch, "raise" raises ValueError.
        max_pixels: number of pixels above which an image counts as one that cannot be decoded.
        **reading: root, on_missing, path_column, label_column and split_column; see `LoadOptions`.

    Raises:
        FileNotFoundError: the source, or a file that it names, does not exist.
        ValueError: the source is of no known kind, does not accept an option, or has samples of another shape.

    Example:
        >>> from orthohash_triton import data
        >>> source = data.open_source("digits", sample_shape=(1, 8, 8))
        >>> len(source), source.name
        (1797, 'scikit-learn digits')
    """
    given = {name: value for name, value in reading.items() if value is not None}
    opened = _open(source, sample_shape, split, on_error, max_pixels, given)
    if opened.sample_shape != tuple(sample_shape):
        raise ValueError(
            f"{opened.name} has {_kind(opened.sample_shape)}; the model takes {_kind(sample_shape)}. "
            "Give samples of the kind that it was trained on"
        )
    return opened


def _open(
    source: str | Path | Dataset | Source,
    sample_shape: tuple[int, ...],
    split: str | None,
    on_error: OnError,
    max_pixels: int,
    reading: dict[str, Any],
) -> Source:
    """Open `source`, whose samples may have another shape than `sample_shape`."""
    if isinstance(source, Source):
        return source
    load = None if isinstance(source, Dataset) else find_samples(str(source))
    if isinstance(source, Dataset) or load is not None:
        if split is not None or reading:
            given = [*(["split"] if split is not None else []), *reading]
            raise ValueError(f"open_source: {', '.join(given)} cannot be set for a data set that is loaded")
        return _Samples(source if isinstance(source, Dataset) else load())  # type: ignore[misc]
    path = FileFinder().find(Path(source))
    if _is_single_image(path):
        listing = _chosen({"all": unlabelled(str(path), [path.absolute()])}, split, str(source))
    else:
        reader = find_reader(path, reading, sample_names())
        if reader.parts is None:
            return _Rows(_features_file(path, split))
        listing = _listed(reader, path, split, str(source), reading)
    if len(sample_shape) != 3:
        raise ValueError(f"{source} has images; the model takes {_kind(sample_shape)}. Give a file of features")
    return _Images(listing, size=sample_shape[2], grey=sample_shape[0] == 1, on_error=on_error, max_pixels=max_pixels)


def _is_single_image(path: Path) -> bool:
    """Return whether `path` is an image file: because of its suffix or, if no data set has such a suffix, of its content.

    Raises:
        ValueError: the suffix is that of a picture in a format that is not decoded.
    """
    if not path.is_file():
        return False
    suffix = path.suffix.lower()
    if suffix in decoding.OTHER_SUFFIXES:
        known = ", ".join(sorted(decoding.SUFFIXES))
        raise ValueError(
            f"{path} cannot be read: {suffix} files are not decoded. Convert it to JPEG or PNG; expected one of {known}"
        )
    if suffix in decoding.SUFFIXES:
        return True
    return not any(reader.recognises(path) for reader in READERS) and decoding.is_image(path)


def _listed(reader: Reader, path: Path, split: str | None, name: str, reading: dict[str, Any]) -> Listing:
    """List the images of the part `split` of the data set at `path`, or of all parts and every image in none of them."""
    if not reader.searches:
        return _chosen(reader.parts(path, **reading), split, name)  # type: ignore[misc]
    if split is None:
        return replace(folders.list_everything(path), name=name)
    return _chosen(folders.list_parts(path, every_image=True), split, name)


def _chosen(parts: dict[str, Listing], split: str | None, name: str) -> Listing:
    """Return the part `split`, or all parts one after the other."""
    if split is None:
        return joined(list(parts.values()), name)
    if split not in parts:
        raise ValueError(f"{name} has no part {quoted(split)}; it has {', '.join(parts)}")
    return parts[split]


def _features_file(path: Path, split: str | None) -> Path:
    """Return the file of features at `path`, or that of the part `split` in the folder `path`."""
    if path.is_dir():
        if split is None:
            raise ValueError(f"{path} has several files of features; name one of them, or a split of train, query and gallery")
        return features.member(path, split)
    if split is not None:
        raise ValueError(f"{path} has no part {quoted(split)}; it is one file of features")
    return path


def _with_plain_names(listing: Listing) -> Listing:
    """Return `listing` without the files whose names cannot be written into a text file with one name per line."""
    plain = torch.tensor([is_plain_name(str(path)) for path in listing.paths], dtype=torch.bool)
    if plain.all():
        return listing
    odd = tuple(Skipped(listing.paths[i], "its name holds a line break") for i in (~plain).nonzero().flatten().tolist())
    return replace(listing.subset(plain.nonzero().flatten()), skipped=(*listing.skipped, *odd))


def is_plain_name(name: str) -> bool:
    """Return True if `name` has no line break and is the name of a file that can exist. It need not be UTF-8, see `os.fsencode`.

    Example:
        >>> from orthohash_triton.data import sources
        >>> sources.is_plain_name("a b.jpg"), sources.is_plain_name("two\\nlines.jpg")
        (True, False)
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return "\n" not in name


def _kind(sample_shape: tuple[int, ...]) -> str:
    """Return a shape in words, for messages."""
    if len(sample_shape) == 1:
        return f"features of {sample_shape[0]} numbers"
    channels, height, width = sample_shape
    return f"{'grey' if channels == 1 else 'RGB'} images of {height} x {width}"


def _version(path: Path) -> str:
    """Return the absolute path, size and time of a file, or only the path of a broken link."""
    place = path.absolute()  # an encoding can be resumed from another working folder
    try:
        status = path.stat()
    except OSError:
        return f"{place}\0"
    return f"{place}\0{status.st_size}\0{status.st_mtime_ns}\0"


def _digest(*parts: str | bytes) -> str:
    """Return a checksum of `parts`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else os.fsencode(part))  # names of files need not be Unicode
    return digest.hexdigest()
