"""A run's gallery and queries as people look at them: codes, classes, and the pictures they were made of."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import data
from .run import Run

QUERY_CODES = "queries.safetensors"
QUERY_PATHS = "query_paths.json"
_LOSSLESS_SIDE = 40  # pixels: smaller pictures as PNG, others as JPEG


class Encoded(NamedTuple):
    """A picture as browsers take it."""

    media_type: str
    bytes: bytes


class Pictures:
    """The pictures of a set of samples, by position; this one has none."""

    def __bool__(self) -> bool:
        return False

    def image(self, position: int) -> Any:
        """The PIL image at `position`; None where there is none."""
        return None

    def thumbnail(self, position: int, side: int) -> Encoded | None:
        """The picture at `position`, at most `side` pixels wide and high; None where it cannot be had."""
        image = self.image(position)
        return None if image is None else encode_picture(image, side)


class PictureFiles(Pictures):
    """Pictures in files, which may have moved."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __bool__(self) -> bool:
        return True

    def image(self, position: int) -> Any:
        from PIL import Image, ImageOps

        try:
            with Image.open(self.paths[position]) as opened:
                opened.draft("RGB", (256, 256))  # JPEG files decode at a fraction of their size
                return ImageOps.exif_transpose(opened).convert("RGB")
        except Exception:  # Pillow's decoders raise whatever their format makes them; no picture is told apart by the caller
            return None


class PictureArrays(Pictures):
    """Pictures that a data set holds: uint8 [N, H, W] or [N, 3, H, W]."""

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def __bool__(self) -> bool:
        return True

    def image(self, position: int) -> Any:
        from PIL import Image

        array = self.inputs[torch.tensor([position])][0].numpy()
        return Image.fromarray(array if array.ndim == 2 else np.moveaxis(array, 0, -1))


def encode_picture(image: Any, side: int) -> Encoded:
    """`image` made as small as `side`, never larger: PNG where it is tiny, JPEG else."""
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
    """Codes uint8 [N, bits/8] with labels int64 [N] or bool [N, C], their class names and their pictures."""

    codes: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    pictures: Pictures = field(default_factory=Pictures)
    paths: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def is_labelled(self) -> bool:
        """Whether two samples can be of different classes."""
        return self.labels.ndim == 2 or len(self.class_names) > 1

    def classes(self, position: int) -> list[str]:
        """The names of the classes of one sample; none, one or several."""
        return [self.class_names[i] for i in self.class_ids(position)]

    def class_ids(self, position: int) -> list[int]:
        label = self.labels[position]
        return label.nonzero().flatten().tolist() if label.ndim else [int(label)]

    def members(self, class_id: int) -> Tensor:
        """Which samples are of a class: bool [N]."""
        return self.labels[:, class_id] if self.labels.ndim == 2 else self.labels == class_id

    def file_name(self, position: int) -> str | None:
        """The name, without its folder, of the file of one sample."""
        return None if self.paths is None else Path(self.paths[position]).name


def relevant(query: Tensor, gallery: Tensor) -> Tensor:
    """Which of the labels [M] or [M, C] share a class with one label, a class id or a row [C]: bool [M]."""
    return (gallery & query).any(-1) if query.ndim else gallery == query


@dataclass(frozen=True)
class RunSamples:
    """A run's gallery and queries; `notes` say in sentences what could not be had."""

    gallery: Samples
    query: Samples | None
    notes: tuple[str, ...]


def open_samples(run: Run) -> RunSamples:
    """The gallery and the queries of `run`, from its folder where that has them, else from its data set.

    Without the data set, pictures that it alone holds are missing, and so are queries that the folder does not keep.
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
    """The run's data set, loaded when it is first asked for; None, and a note, where it is not to be had."""

    def __init__(self, run: Run, notes: list[str]) -> None:
        self._load = lru_cache(maxsize=1)(lambda: _load_splits(run, notes))

    def part(self, name: str) -> data.Dataset | None:
        splits = self._load()
        return None if splits is None else getattr(splits, name)


def _load_splits(run: Run, notes: list[str]) -> data.Splits | None:
    config = run.config
    try:
        splits = config.load_splits()
    except (OSError, ValueError, ImportError) as error:
        notes.append(f"The data set {config.dataset} cannot be read here: {error}.")
        return None
    if not torch.equal(splits.gallery.labels, run.gallery_labels):
        notes.append(f"The data set {config.dataset} has changed since the run was made; its pictures and queries are left out.")
        return None
    return splits


def _pictures(run: Run, splits: _Splits, part: str, paths: tuple[str, ...] | None) -> Pictures:
    if paths is not None:
        return PictureFiles(paths)
    if len(run.model.sample_shape) != 3:
        return Pictures()
    dataset = splits.part(part)
    return Pictures() if dataset is None else PictureArrays(dataset.inputs)


def _kept_queries(run: Run, splits: _Splits) -> Samples | None:
    """The queries as `orthohash evaluate` kept them in the run folder."""
    file = run.path / QUERY_CODES
    if not file.is_file():
        return None
    from safetensors.torch import load_file

    tensors = load_file(file)
    missing = {"codes", "labels"} - tensors.keys()
    if missing or tensors["codes"].shape[1:] != run.index.codes.shape[1:]:
        raise ValueError(
            f"{file} must hold codes uint8 [Q, {run.index.bits // 8}] and labels; "
            f"make it anew with `orthohash evaluate {run.path}`"
        )
    listed = run.path / QUERY_PATHS
    paths = tuple(json.loads(listed.read_text(encoding="utf-8"))) if listed.is_file() else None
    return Samples(tensors["codes"], tensors["labels"], run.class_names, _pictures(run, splits, "query", paths), paths)


def _encoded_queries(run: Run, splits: _Splits) -> Samples | None:
    query = splits.part("query")
    if query is None or len(query) == 0:
        return None
    paths = None if query.paths is None else tuple(map(str, query.paths))
    return Samples(
        run.model.encode(query.inputs), query.labels, run.class_names, _pictures(run, splits, "query", paths), paths
    )  # fmt: skip
