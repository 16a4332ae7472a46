"""Samples of a source in their order, batch by batch: what encodes a source of any size in little memory."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._base import checks
from . import debian, digits, fashion_mnist, features, folders, wordnet_nouns
from .dataset import UNLABELLED, Dataset
from .images import ON_ERROR, ImageFiles, Skipped, decode_batches, unreadable
from .listing import Listing, joined, unlabelled
from .readers import find_reader

NAMED = ("digits", "fashion-mnist:train", "fashion-mnist:test", "debian-packages", "wordnet-nouns")


class Batch(NamedTuple):
    """inputs: samples as a Dataset keeps them, [M, ...]; skipped: those of the batch that are not among them, by position."""

    inputs: Tensor
    skipped: dict[int, Skipped]


class Source(ABC):
    """Samples in a fixed order.

    name          where they come from, for people
    sample_shape  (C, H, W) of an image, (D,) of a feature vector
    paths         the file of each, where they are image files
    labels        int64 [N] or bool [N, C], where they are known
    class_names   C of them
    skipped       files of the source that are left out from the beginning
    """

    name: str
    sample_shape: tuple[int, ...]
    paths: tuple[Path, ...] | None = None
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, batch_size: int, *, start: int = 0) -> Iterator[Batch]:
        """The samples from position `start` on, `batch_size` at a time; the files of each batch are opened when it is due."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Tells two sources apart, and a source from itself after its files have changed."""

    def _label_with(self, labels: Tensor, class_names: tuple[str, ...]) -> None:
        if class_names != (UNLABELLED,):
            self.labels, self.class_names = labels, class_names


class _Images(Source):
    """Image files."""

    def __init__(self, listing: Listing, *, size: int, grey: bool, on_error: str) -> None:
        listing = _with_plain_names(listing)
        self.name, self.paths, self.skipped = listing.name, listing.paths, listing.skipped
        self.sample_shape = (1 if grey else 3, size, size)
        self._size, self._grey = size, grey
        self._on_error = checks.choice("open_source", "on_error", on_error, ON_ERROR)
        self._files = listing.paths
        self._label_with(listing.labels, listing.class_names)

    def __len__(self) -> int:
        return len(self._files)

    def batches(self, batch_size: int, *, start: int = 0) -> Iterator[Batch]:
        starts = range(start, len(self), batch_size)
        chunks = (self._files[first : first + batch_size] for first in starts)
        for first, (images, files, failures) in zip(
            starts, decode_batches(chunks, size=self._size, grey=self._grey), strict=True
        ):
            if failures and self._on_error == "raise":
                raise unreadable(files[failures[0][0]], failures[0][1])
            bad = {row for row, _ in failures}
            good = torch.tensor([row for row in range(len(files)) if row not in bad], dtype=torch.int64)
            yield Batch(images[good] if bad else images, {first + row: Skipped(files[row], why) for row, why in failures})

    def fingerprint(self) -> str:
        return _digest(*map(_version, self._files))


class _Rows(Source):
    """The rows of a file of features; those of a .npy file stay in it."""

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
    """A Dataset that is in memory."""

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
    on_error: str = "skip",
    **reading: Any,
) -> Source:
    """What `source` names, in the shape that a model takes; image files are listed and not opened.

    source        a data set as `load_splits` takes it, an image, "digits", "fashion-mnist:train", "fashion-mnist:test",
                  "debian-packages", "wordnet-nouns", or a Dataset
    sample_shape  (C, H, W) or (D,): images are resized to W x W pixels, to grey where C is 1
    split         one part of a source that has several: "train", "gallery", "query" or "validation"; all in turn unless given
    on_error      of images that cannot be decoded: "skip" lists them in the batch, "raise" makes them an error
    reading       root, on_missing, path_column, label_column, split_column, as `load_splits`

    Raises:
        FileNotFoundError: there is no such source, or files that it names are missing.
        ValueError: nothing that is understood, or samples of another shape.
    """
    opened = _open(source, sample_shape, split, on_error, {name: value for name, value in reading.items() if value is not None})
    if opened.sample_shape != tuple(sample_shape):
        raise ValueError(
            f"{opened.name} has {_kind(opened.sample_shape)}; the model takes {_kind(sample_shape)}. "
            "Give samples of the kind that it was trained on"
        )
    return opened


def _open(source: Any, sample_shape: tuple[int, ...], split: str | None, on_error: str, reading: dict[str, Any]) -> Source:
    if isinstance(source, Source):
        return source
    if isinstance(source, Dataset) or str(source) in NAMED or str(source).startswith("fashion-mnist:"):
        if split is not None or reading:
            raise ValueError(f"open_source: {', '.join(['split', *reading])} cannot be set for a data set that is loaded")
        return _Samples(source if isinstance(source, Dataset) else _named(str(source)))
    path = Path(source)
    if path.is_file() and path.suffix.lower() in folders.EXTENSIONS:
        parts = {"all": unlabelled(str(path), [path.absolute()])}
    else:
        reader = find_reader(path, reading, NAMED)
        if reader.parts is None:
            return _Rows(_features_file(path, split))
        parts = reader.parts(path, **reading)
    listing = _chosen(parts, split, str(source))
    if len(sample_shape) != 3:
        raise ValueError(f"{source} has images; the model takes {_kind(sample_shape)}. Give a file of features")
    return _Images(listing, size=sample_shape[2], grey=sample_shape[0] == 1, on_error=on_error)


def _chosen(parts: dict[str, Listing], split: str | None, name: str) -> Listing:
    if split is None:
        return joined(list(parts.values()), name)
    if split not in parts:
        raise ValueError(f"{name} has no part {split!r}; it has {', '.join(parts)}")
    return parts[split]


def _features_file(path: Path, split: str | None) -> Path:
    if path.is_dir():
        if split is None:
            raise ValueError(f"{path} has several files of features; name one of them, or a split of train, query and gallery")
        return features.member(path, split)
    if split is not None:
        raise ValueError(f"{path} has no part {split!r}; it is one file of features")
    return path


def _named(name: str) -> Dataset:
    if name == "digits":
        return digits.load()
    if name == "debian-packages":
        return debian.load()
    return wordnet_nouns.load() if name == "wordnet-nouns" else fashion_mnist.load(name.partition(":")[2])


def _with_plain_names(listing: Listing) -> Listing:
    """Without the files that a list of names, one a line, could not hold."""
    plain = torch.tensor([is_plain_name(str(path)) for path in listing.paths], dtype=torch.bool)
    if plain.all():
        return listing
    odd = tuple(
        Skipped(listing.paths[i], "its name holds a line break or is no Unicode") for i in (~plain).nonzero().flatten().tolist()
    )
    return replace(listing.subset(plain.nonzero().flatten()), skipped=(*listing.skipped, *odd))


def is_plain_name(name: str) -> bool:
    return "\n" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _kind(sample_shape: tuple[int, ...]) -> str:
    if len(sample_shape) == 1:
        return f"features of {sample_shape[0]} numbers"
    channels, height, width = sample_shape
    return f"{'grey' if channels == 1 else 'RGB'} images of {height} x {width}"


def _version(path: Path) -> str:
    """A file as it is now; a link that leads nowhere too."""
    try:
        status = path.stat()
    except OSError:
        return f"{path}\0"
    return f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0"


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
    return digest.hexdigest()
