"""The structures over the first codes of a gallery with which a search meets only what can be near a query."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..kernels.filing import Filing
from . import _filing
from ._plan import Sizes


@dataclass(frozen=True, eq=False)
class Structures:
    """The structures over the first `count` codes of a gallery. Later codes are the tail, which is scanned.

    They are immutable, and galleries share them. Each structure is optional and exact by itself.
    """

    count: int
    filing: Filing | None = None

    @property
    def bytes(self) -> int:
        """The memory that the structures take, or the part of a file that they map."""
        return 0 if self.filing is None else sum(part.nbytes for part in self.filing)

    @property
    def sizes(self) -> Sizes:
        """The sizes of the filing."""
        if self.filing is None:
            return Sizes(0, 0, 0)
        return Sizes(len(self.filing.entries), len(self.filing.centres), len(self.filing.ring_distances))

    def kept(self, keep: np.ndarray) -> "Structures | None":
        """Return the structures of the codes that stay where `keep`, bool [N], is True; None if none are left."""
        keep = keep[: self.count]
        count = int(np.count_nonzero(keep))
        if count == self.count:
            return self
        if count == 0 or self.filing is None:
            return None
        return Structures(count, _filing.kept(self.filing, torch.from_numpy(keep).to(self.filing.entries.device)))

    def to(self, device: torch.device) -> "Structures":
        """Return the structures in the memory of `device`, which are these if they are there already."""
        if self.filing is None or self.filing.entries.device == device:
            return self
        return replace(self, filing=Filing(*(part.to(device) for part in self.filing)))

    def describe(self) -> list[str]:
        """Return a line about each structure."""
        lines = []
        if self.filing is not None:
            entries, centres, rings = self.sizes
            lines.append(
                f"filing of {self.count:,} codes: {entries:,} distinct ones in {rings:,} rings around {centres:,} centres"
            )
        return lines


def built(codes: Tensor, centres: Tensor | None) -> Structures:
    """Return the structures of all `codes`, uint8 [N, B], filed under `centres`, uint8 [C, B], or under centres of a sample."""
    return Structures(len(codes), filing=_filing.build(codes.cpu(), centres)).to(codes.device)
