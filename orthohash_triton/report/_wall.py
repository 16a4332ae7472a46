"""The retrieval wall: queries and their nearest images, right ones and wrong ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..runs.samples import Pictures, Samples, encode_picture, relevant
from ..search import HammingIndex
from ._charts import data_uri

NEIGHBOURS = 10
_SIDE = 112  # pixels of a picture on the wall
_SPRITE_SIDE = 32
_SHOWN_CLASSES = 2


@dataclass(frozen=True)
class Tile:
    """A sample on the wall: its picture as a data URI, "" where it has none, and what stands under it."""

    picture: str
    classes: str
    verdict: str  # "query", "right", "wrong" or, where nobody can tell, ""
    distance: int | None = None

    @property
    def words(self) -> str:
        """What the tile says, for those who do not see it."""
        distance = "" if self.distance is None else f"distance {self.distance}, "
        known = {"right": "same class", "wrong": "another class", "query": "query", "": "neighbour"}[self.verdict]
        return f"{distance}{known}: {self.classes}"


@dataclass(frozen=True)
class Row:
    query: Tile
    neighbours: tuple[Tile, ...]
    right: int  # of the neighbours


def hang(index: HammingIndex, gallery: Samples, query: Samples, rows: Sequence[int]) -> list[Row]:
    """The queries `rows` with their nearest images; where queries come from the gallery they do not find themselves."""
    if not rows:
        return []
    own = query is gallery
    distances, ids = index.search(query.codes[list(rows)].to(index.device), min(NEIGHBOURS + own, len(gallery)))
    hung = []
    for position, *answers in zip(rows, distances.tolist(), ids.tolist(), strict=True):
        found = [(distance, i) for distance, i in zip(*answers, strict=True) if not (own and i == position)]
        hung.append(_row(gallery, query, position, found[:NEIGHBOURS]))
    return hung


def _row(gallery: Samples, query: Samples, position: int, found: Sequence[tuple[int, int]]) -> Row:
    """`found` are (distance, position in the gallery)."""
    verdicts = [""] * len(found)
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
    """The first few classes; the file where there are no classes."""
    if not samples.is_labelled:
        return samples.file_name(position) or f"no. {position}"
    names = samples.classes(position)
    more = len(names) - _SHOWN_CLASSES
    return ", ".join(names[:_SHOWN_CLASSES]) + (f" +{more}" if more > 0 else "") if names else "no class"


@dataclass(frozen=True)
class Sprite:
    """Small pictures side by side in one: picture i stands in column i % columns."""

    picture: str
    side: int
    columns: int


def sprite(pictures: Pictures, positions: Sequence[int]) -> Sprite | None:
    """The pictures at `positions` in one; None where there are none."""
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
