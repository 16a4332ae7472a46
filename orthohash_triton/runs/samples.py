"""The gallery and the queries of a run for display: codes, classes and pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import data
from ..data.decoding import MAX_PIXELS, read_picture
from .data_sets import load_data_set
from .run import Run

_SIDE = 256  # largest side of a picture, in pixels
_LOSSLESS_SIDE = 40  # pixels; smaller pictures are stored as PNG, larger ones as JPEG


class Encoded(NamedTuple):
    """A picture in a format that browsers show."""

    media_type: str
    bytes: bytes


class Pictures:
    """The pictures of a set of samples, by position. This base class has no pictures."""

    def __bool__(self) -> bool:
        return False

    def image(self, position: int) -> Any:
        """Return the PIL image at `position`, or None if there is none."""
        return None

    def thumbnail(self, position: int, side: int) -> Encoded | None:
        """Return the picture at `position` with at most `side` pixels in width and height, or None if there is none."""
        image = self.image(position)
        return None if image is None else encode_picture(image, side)


class PictureFiles(Pictures):
    """Pictures in image files, which may be missing. They have the pixels that a model encodes; see `data.decoding`."""

    def __init__(self, paths: Sequence[str], *, max_pixels: int = MAX_PIXELS) -> None:
        self.paths = paths
        self.max_pixels = max_pixels

    def __bool__(self) -> bool:
        return True

    def image(self, position: int) -> Any:
        try:
            return read_picture(Path(self.paths[position]), _SIDE, max_pixels=self.max_pixels)
        except Exception:  # Pillow's decoders raise many classes of exceptions; callers treat all of them alike
            return None


class PictureArrays(Pictures):
    """Pictures in an array: uint8 [N, H, W] or [N, 3, H, W]."""

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def __bool__(self) -> bool:
        return True

    def image(self, position: int) -> Any:
        from PIL import Image

        array = self.inputs[torch.tensor([position])][0].numpy()
        return Image.fromarray(array if array.ndim == 2 else np.moveaxis(array, 0, -1))


def encode_picture(image: Any, side: int) -> Encoded:
    """Reduce `image` to at most `side` pixels in width and height, and encode it: as PNG if it is tiny, else as JPEG."""
    image = image.copy()
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    if max(image.size) <= _LOSSLESS_SIDE:
        image.save(buffer, "PNG", optimize=True)
        return Encoded("image/png", buffer.getvalue())
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return Encoded("image/jpeg", buffer.getvalue())


@dataclass(frozen=True)
class Samples:
    """Codes with their labels and pictures.

    Attributes:
        codes: uint8 [N, bits/8].
        labels: int64 [N] or bool [N, C].
        class_names: C names.
        pictures: the picture of each sample.
        paths: the image file of each sample, or None.
    """

    codes: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    pictures: Pictures = field(default_factory=Pictures)
    paths: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def is_labelled(self) -> bool:
        """Whether the samples can differ in their classes."""
        return self.labels.ndim == 2 or len(self.class_names) > 1

    def classes(self, position: int) -> list[str]:
        """Return the names of the classes of one sample; there may be none, one or several."""
        return [self.class_names[i] for i in self.class_ids(position)]

    def class_ids(self, position: int) -> list[int]:
        """Return the numbers of the classes of one sample."""
        label = self.labels[position]
        return label.nonzero().flatten().tolist() if label.ndim else [int(label)]

    def members(self, class_id: int) -> Tensor:
        """Return a mask of the samples of a class, bool [N]."""
        return self.labels[:, class_id] if self.labels.ndim == 2 else self.labels == class_id

    def file_name(self, position: int) -> str | None:
        """Return the name of the file of one sample, without its folder."""
        return None if self.paths is None else Path(self.paths[position]).name


def relevant(query: Tensor, gallery: Tensor) -> Tensor:
    """Return a mask bool [M] of the `gallery` labels, [M] or [M, C], that share a class with the label of one query."""
    return (gallery & query).any(-1) if query.ndim else gallery == query


@dataclass(frozen=True)
class RunSamples:
    """The gallery and the queries of a run. `notes` are sentences about everything that is missing."""

    gallery: Samples
    query: Samples | None
    notes: tuple[str, ...]


def open_samples(run: Run) -> RunSamples:
    """Return the gallery and the queries of `run`, from its folder if possible, else from its data set.

    If the data set cannot be read, its pictures are missing, and so are queries that are not in the folder.
    """
    notes: list[str] = []
    splits = _Splits(run, notes)
    gallery = Samples(
        run.index.codes.cpu(), run.gallery_labels, run.class_names, _pictures(run, splits, "gallery", run.gallery_paths),
        run.gallery_paths,
    )  # fmt: skip
    query = _kept_queries(run, splits) or _encoded_queries(run, splits)
    return RunSamples(gallery, query, tuple(notes))


class _Splits:
    """The data set of the run, loaded when a part of it is first requested. If it cannot be read, a note is added."""

    def __init__(self, run: Run, notes: list[str]) -> None:
        self._load = lru_cache(maxsize=1)(lambda: _load_splits(run, notes))

    def part(self, name: str) -> data.Dataset | None:
        """Return the part called `name`, or None if the data set cannot be read."""
        splits = self._load()
        return None if splits is None else getattr(splits, name)


def _load_splits(run: Run, notes: list[str]) -> data.Splits | None:
    """Return the data set of the run, or None with a sentence in `notes` if it cannot be read or has changed."""
    try:
        return load_data_set(run)
    except (OSError, ValueError, ImportError) as error:
        notes.append(f"The data set cannot be read here: {error}. Its pictures and queries are left out.")
        return None


def _pictures(run: Run, splits: _Splits, part: str, paths: tuple[str, ...] | None) -> Pictures:
    if paths is not None:
        return PictureFiles(paths, max_pixels=run.config.max_pixels)
    if len(run.model.sample_shape) != 3:
        return Pictures()
    dataset = splits.part(part)
    return Pictures() if dataset is None else PictureArrays(dataset.inputs)


def _kept_queries(run: Run, splits: _Splits) -> Samples | None:
    """Return the queries that `orthohash evaluate` stored in the run folder, or None."""
    queries = run.queries()
    if queries is None:
        return None
    paths = None if queries.paths is None else tuple(map(str, queries.paths))
    return Samples(queries.codes, queries.labels, run.class_names, _pictures(run, splits, "query", paths), paths)


def _encoded_queries(run: Run, splits: _Splits) -> Samples | None:
    query = splits.part("query")
    if query is None or len(query) == 0:
        return None
    paths = None if query.paths is None else tuple(map(str, query.paths))
    return Samples(
        run.model.encode(query.inputs), query.labels, run.class_names, _pictures(run, splits, "query", paths), paths
    )  # fmt: skip
