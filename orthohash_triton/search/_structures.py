"""The structures over the first codes of a gallery with which a search meets only what can be near a query."""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..kernels.filing import Filing
from . import _filing
from ._plan import Sizes

if TYPE_CHECKING:
    from ._lookup import Lookup


def lookups() -> "type[Lookup]":
    """Return the class `Lookup`, which is imported when it is first used, because it imports Numba."""
    from ._lookup import Lookup

    return Lookup


class Mapping:
    """A file that structures are mapped from. Reading a part that was cut off would kill the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._status = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._status).st_size

    def is_whole(self) -> bool:
        """Return whether the file is as long as it was."""
        return os.fstat(self._status).st_size >= self._size

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._status)


@dataclass(frozen=True, eq=False)
class Structures:
    """The structures over the first `count` codes of a gallery. Later codes are the tail, which is scanned.

    They are immutable, and galleries share them. Each structure is optional and exact by itself.
    """

    count: int
    filing: Filing | None = None
    lookup: "Lookup | None" = None
    radius: int | None = None  # bits (inclusive) for which the lookup was built
    file: Mapping | None = None  # the file that holds the structures

    @property
    def nbytes(self) -> int:
        """The memory that the structures take, or the part of a file that they map."""
        filed = 0 if self.filing is None else sum(part.nbytes for part in self.filing)
        return filed + (0 if self.lookup is None else self.lookup.nbytes)

    @property
    def sizes(self) -> Sizes:
        """The sizes of the filing."""
        if self.filing is None:
            return Sizes(0, 0, 0)
        return Sizes(len(self.filing.entries), len(self.filing.centres), len(self.filing.ring_distances))

    def kept(self, keep: np.ndarray, codes: Tensor) -> "Structures | None":
        """Return the structures of `codes`, those where `keep`, bool [N], is True; None if no covered code is left."""
        flags = torch.from_numpy(keep[: self.count])
        count = int(np.count_nonzero(keep[: self.count]))
        if count == 0:
            return None
        filing = None if self.filing is None else _filing.kept(self.filing, flags.to(self.filing.entries.device))
        lookup = None if self.lookup is None else self.lookup.kept(flags, codes[:count])
        return replace(self, count=count, filing=filing, lookup=lookup)

    def placed(self, codes: Tensor) -> "Structures | None":
        """Return the structures for a copy of their codes, on the device of `codes`. A lookup exists on the CPU only."""
        if self.file is not None and not self.file.is_whole():
            return None
        filing, lookup, is_mapped = self.filing, None, self.file is not None
        if filing is not None and (is_mapped or filing.entries.device != codes.device):
            filing = Filing(*(part.to(codes.device, copy=is_mapped) for part in filing))
        if self.lookup is not None and codes.device.type == "cpu":
            tables = {name: part.clone() if is_mapped else part for name, part in self.lookup.arrays().items()}
            lookup = lookups().of_arrays(codes[: self.count], tables)
        if filing is None and lookup is None:
            return None
        return replace(self, filing=filing, lookup=lookup, radius=None if lookup is None else self.radius, file=None)

    def describe(self) -> tuple[str, ...]:
        """Return a line about each structure."""
        lines = []
        if self.filing is not None:
            entries, centres, rings = self.sizes
            lines.append(
                f"filing of {self.count:,} codes: {entries:,} distinct ones in {rings:,} rings around {centres:,} centres"
            )
        if self.lookup is not None:
            lines.append(f"lookup of {self.count:,} codes: {len(self.lookup.tables.starts)} tables for {self.radius} bits")
        return tuple(lines)


def built(codes: Tensor, centres: Tensor | None, radius: int | None = None, *, filing: Filing | None = None) -> Structures:
    """Return structures of all `codes`, uint8 [N, B].

    centres: uint8 [C, B] to file under; None for centres of a sample. radius: bits (inclusive) for which a lookup is built, too.
    filing: the filing of the same codes, if there is one already.
    """
    if filing is None:
        filing = Filing(*(part.to(codes.device) for part in _filing.build(codes.cpu(), centres)))
    lookup = None if radius is None or codes.device.type != "cpu" else lookups().build(codes, radius)
    return Structures(len(codes), filing, lookup, None if lookup is None else radius)
