"""Near-duplicates among the items of a run, of a file of codes, or of a set of images."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._base import checks
from ..data import Skipped
from ..data.decoding import MAX_PIXELS
from ..data.perceptual import HASHES, hash_images
from ..search import near_duplicates
from .code_files import holds_codes, read_codes
from .run import holds_run, load_run
from .samples import PictureFiles, Pictures, open_samples


@dataclass(frozen=True)
class Items:
    """Codes with what they are the codes of.

    Attributes:
        name: where they come from.
        codes: uint8 [N, bits/8].
        ids: the number of each item: its id in an index, or its position.
        paths: the image file of each item, or None.
        pictures: the picture of each item.
        skipped: image files that could not be read.
    """

    name: str
    codes: Tensor
    ids: list[int]
    paths: tuple[str, ...] | None = None
    pictures: Pictures = field(default_factory=Pictures)
    skipped: tuple[Skipped, ...] = ()

    def name_of(self, position: int) -> str:
        """Return the file of an item, or its number."""
        return str(self.ids[position]) if self.paths is None else self.paths[position]


@dataclass(frozen=True)
class Group:
    """Near-duplicates: positions in ascending order, and the distance of each to the first one."""

    positions: list[int]
    distances: list[int]


@dataclass(frozen=True)
class Duplicates:
    """The groups of near-duplicates among items, in the order of their first members."""

    items: Items
    radius: int
    groups: list[Group]

    def extra(self) -> Iterator[int]:
        """Iterate over the positions of all members but the first of each group, group by group."""
        for group in self.groups:
            yield from group.positions[1:]

    def as_plain(self) -> dict[str, Any]:
        """Return the groups as plain values that `json` can write."""
        items = self.items
        return {
            "source": items.name,
            "count": len(items.codes),
            "bits": 8 * items.codes.shape[1],
            "radius": self.radius,
            "extra": sum(len(group.positions) - 1 for group in self.groups),
            "groups": [
                [self._member(*pair) for pair in zip(group.positions, group.distances, strict=True)] for group in self.groups
            ],
            "skipped": [{"path": str(file.path), "reason": file.reason} for file in items.skipped],
        }

    def _member(self, position: int, distance: int) -> dict[str, Any]:
        named = {} if self.items.paths is None else {"path": self.items.paths[position]}
        return {"id": self.items.ids[position], "distance": distance, **named}


def open_items(
    source: str | Path, *, radius: int = 0, hash: str | None = None, root: str | Path | None = None, max_pixels: int = MAX_PIXELS,
    progress: bool = False,
) -> Items:  # fmt: skip
    """Return the items of a run (its gallery), of a file of codes, or of a set of images, whose perceptual hashes are computed.

    Args:
        source: a run folder, a file of codes (see `read_codes`), or images (see `hash_images`).
        radius: the radius that is meant, which is compared with the number of bits before images are hashed.
        hash, root, max_pixels: for images, see `hash_images`; by default the hash is "phash".
        progress: show a progress bar while images are hashed.

    Raises:
        ValueError: `hash` is given for codes, or `radius` is no distance of the codes. See also `load_run`, `read_codes` and
            `hash_images`.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton.runs.duplicates import open_items
        >>> np.save("codes.npy", np.zeros((5, 8), np.uint8))
        >>> open_items("codes.npy").ids
        [0, 1, 2, 3, 4]
    """
    path = Path(source)
    has_run = path.is_dir() and holds_run(path)
    if hash is not None and (has_run or holds_codes(path)):
        raise ValueError(f"hash is for images; {source} has codes already. Leave it out")
    if has_run:
        run = load_run(path)
        gallery = open_samples(run).gallery
        return Items(str(source), gallery.codes, _ids(run.index), gallery.paths, gallery.pictures)
    if holds_codes(path):
        found = read_codes(path)
        names = None if found.paths is None else tuple(found.paths)
        pictures = Pictures() if names is None else PictureFiles(names, max_pixels=max_pixels)
        return Items(str(source), found.index.codes.cpu(), _ids(found.index), names, pictures)
    hash = hash or "phash"
    if hash in HASHES:
        checks.integer("open_items", "radius", radius, minimum=0, maximum=HASHES[hash].bits)
    images = hash_images(source, hash=hash, root=root, max_pixels=max_pixels, progress=progress)
    pictures = PictureFiles(images.paths, max_pixels=max_pixels)
    return Items(str(source), images.codes, list(range(len(images.paths))), images.paths, pictures, images.skipped)


def _ids(index: Any) -> list[int]:
    return list(range(len(index))) if index.ids is None else [int(i) for i in index.ids]


def find_duplicates(items: Items, radius: int, *, progress: bool = False) -> Duplicates:
    """Return the groups of items that chains of codes within `radius` bits of each other link; see `search.near_duplicates`.

    Raises:
        ValueError: `radius` is negative or larger than the number of bits.

    Example:
        >>> import torch
        >>> from orthohash_triton.runs.duplicates import Items, find_duplicates
        >>> codes = torch.tensor([[0b0011], [0b1111_0000], [0b0111]], dtype=torch.uint8)
        >>> found = find_duplicates(Items("toy", codes, ids=[0, 1, 2]), radius=1)
        >>> found.groups, list(found.extra())
        ([Group(positions=[0, 2], distances=[0, 1])], [2])
    """
    bits = 8 * items.codes.shape[1]
    checks.integer("find_duplicates", "radius", radius, minimum=0, maximum=bits)
    labels = near_duplicates(items.codes, radius, progress=progress)
    order = torch.argsort(labels, stable=True)
    ordered = labels[order]
    distances = (items.codes[order] ^ items.codes[ordered]).to(torch.uint8)
    _, counts = torch.unique_consecutive(ordered, return_counts=True)
    groups, first = [], 0
    for count in counts.tolist():
        if count > 1:
            rows = slice(first, first + count)
            groups.append(Group(order[rows].tolist(), _set_bits(distances[rows]).tolist()))
        first += count
    return Duplicates(items, radius, groups)


def _set_bits(codes: Tensor) -> Tensor:
    """Return the number of set bits of each code uint8 [M, B], int64 [M]."""
    shifts = torch.arange(8, dtype=torch.uint8)
    return (codes[:, :, None] >> shifts & 1).sum((1, 2))
