"""The wall of a report: queries with the images of their nearest neighbours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..runs.samples import Pictures, Samples, encode_picture, relevant
from ..search import HammingIndex
from ._charts import data_uri

NEIGHBOURS = 10
_SIDE = 112  # largest side of an image, in pixels
_SPRITE_SIDE = 32
_SHOWN_CLASSES = 2

Verdict = Literal["query", "right", "wrong", ""]  # "" without classes


@dataclass(frozen=True)
class Tile:
    """A sample on the wall: its image as a data URI ("" if it has none), and its caption."""

    picture: str
    classes: str
    verdict: Verdict
    distance: int | None = None

    @property
    def words(self) -> str:
        """Return the description of the tile for screen readers."""
        distance = "" if self.distance is None else f"distance {self.distance}, "
        known = {"right": "same class", "wrong": "another class", "query": "query", "": "neighbour"}[self.verdict]
        return f"{distance}{known}: {self.classes}"


@dataclass(frozen=True)
class Row:
    """A query with its nearest neighbours, of which `right` are relevant."""

    query: Tile
    neighbours: tuple[Tile, ...]
    right: int


def find_neighbours(index: HammingIndex, gallery: Samples, query: Samples, rows: Sequence[int]) -> list[Row]:
    """Return the queries at positions `rows` with their nearest gallery items. Gallery items do not find themselves."""
    if not rows:
        return []
    own = query is gallery
    distances, ids = index.search(query.codes[list(rows)].to(index.device), min(NEIGHBOURS + own, len(gallery)))
    found_rows = []
    for position, *answers in zip(rows, distances.tolist(), ids.tolist(), strict=True):
        found = [(distance, i) for distance, i in zip(*answers, strict=True) if not (own and i == position)]
        found_rows.append(_row(gallery, query, position, found[:NEIGHBOURS]))
    return found_rows


def _row(gallery: Samples, query: Samples, position: int, found: Sequence[tuple[int, int]]) -> Row:
    """Return the row of one query. `found` are pairs of distance and gallery position."""
    verdicts: list[Verdict] = [""] * len(found)
    if gallery.is_labelled:
        same = relevant(query.labels[position], gallery.labels[[i for _, i in found]])
        verdicts = ["right" if right else "wrong" for right in same.tolist()]
    tiles = tuple(
        Tile(_picture(gallery, i), _classes(gallery, i), verdict, distance)
        for (distance, i), verdict in zip(found, verdicts, strict=True)
    )
    return Row(Tile(_picture(query, position), _classes(query, position), "query"), tiles, verdicts.count("right"))


def _picture(samples: Samples, position: int) -> str:
    found = samples.pictures.thumbnail(position, _SIDE)
    return "" if found is None else data_uri(found.media_type, found.bytes)


def _classes(samples: Samples, position: int) -> str:
    """Return the names of the first classes, or the file name if there are no classes."""
    if not samples.is_labelled:
        return samples.file_name(position) or f"no. {position}"
    names = samples.classes(position)
    more = len(names) - _SHOWN_CLASSES
    return ", ".join(names[:_SHOWN_CLASSES]) + (f" +{more}" if more > 0 else "") if names else "no class"


@dataclass(frozen=True)
class Sprite:
    """Small images in the cells of one image: number i is in column i % columns and row i // columns."""

    picture: str
    side: int
    columns: int


def sprite(pictures: Pictures, positions: Sequence[int]) -> Sprite | None:
    """Return the images at `positions` in one sprite; None if the samples have no images."""
    if not pictures or not positions:
        return None
    from PIL import Image

    columns = math.ceil(math.sqrt(len(positions)))
    images = [pictures.image(position) for position in positions]
    mode = "L" if all(image is None or image.mode == "L" for image in images) else "RGB"
    sheet = Image.new(mode, (columns * _SPRITE_SIDE, math.ceil(len(positions) / columns) * _SPRITE_SIDE))
    for i, image in enumerate(images):
        if image is not None:
            sheet.paste(image.resize((_SPRITE_SIDE, _SPRITE_SIDE)), (i % columns * _SPRITE_SIDE, i // columns * _SPRITE_SIDE))
    found = encode_picture(sheet, max(sheet.size))
    return Sprite(data_uri(found.media_type, found.bytes), _SPRITE_SIDE, columns)
