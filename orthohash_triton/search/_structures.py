"""The structures over the first codes of a gallery with which a search meets only what can be near a query."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..kernels.filing import Filing
from . import _filing
from ._lookup import Lookup
from ._plan import Sizes


@dataclass(frozen=True, eq=False)
class Structures:
    """The structures over the first `count` codes of a gallery. Later codes are the tail, which is scanned.

    They are immutable, and galleries share them. Each structure is optional and exact by itself.
    """

    count: int
    filing: Filing | None = None
    lookup: Lookup | None = None
    radius: int | None = None  # bits (inclusive) for which the lookup was built

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
        filing = self.filing
        if filing is not None and filing.entries.device != codes.device:
            filing = Filing(*(part.to(codes.device) for part in filing))
        lookup = None
        if self.lookup is not None and codes.device.type == "cpu":
            lookup = Lookup.of(codes[: self.count], self.lookup.tables)
        if filing is None and lookup is None:
            return None
        return replace(self, filing=filing, lookup=lookup, radius=None if lookup is None else self.radius)

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
    lookup = None if radius is None or codes.device.type != "cpu" else Lookup.build(codes, radius)
    return Structures(len(codes), filing, lookup, None if lookup is None else radius)
