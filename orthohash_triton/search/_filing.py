"""Filed codes: how a `Filing` is built, reduced and searched. Every search gives the same answer as a scan of the gallery."""

import numpy as np
import torch
from torch import Tensor

from ..kernels.filing import Filing
from ..kernels.missing import MISSING_DISTANCE, MISSING_ID
from ..ops import hamming_topk
from ..ops.dispatch import choose, implementation
from ..ops.hamming_range import hamming_range

UNLIMITED = 2**40  # a budget that no query exceeds


def build(codes: Tensor, centres: Tensor | None = None) -> Filing:
    """Return a filing of `codes`, uint8 [N, B] in host memory, under `centres`, uint8 [C, B].

    Without centres, they are found in the codes.

    Any centres give exact answers; good ones are near to most codes, such as the codebook that the codes were trained for.
    """
    return implementation("filing", "cpu").filed(codes, centres)


def unfiled(filing: Filing) -> Tensor:
    """Return the codes of a filing in the order of their positions, uint8 [N, B]."""
    codes = torch.empty(len(filing.positions), filing.entries.shape[1], dtype=torch.uint8, device=filing.entries.device)
    codes[filing.positions.long()] = filing.entries.repeat_interleave(filing.entry_starts.diff(), 0)
    return codes


def kept(filing: Filing, keep: np.ndarray | Tensor) -> Filing:
    """Return the filing of the gallery that is left when only the codes at `keep`, bool [N], are kept, in their order."""
    keep = torch.as_tensor(keep, device=filing.positions.device)
    renumbered = keep.cumsum(0) - 1
    positions = filing.positions.long()
    is_kept = keep[positions]
    left = torch.zeros(len(positions) + 1, dtype=torch.int64, device=keep.device)
    torch.cumsum(is_kept, 0, out=left[1:])
    starts = left[filing.entry_starts]
    has_positions = starts.diff() > 0
    entries_left = torch.zeros(len(has_positions) + 1, dtype=torch.int64, device=keep.device)
    torch.cumsum(has_positions, 0, out=entries_left[1:])
    return filing._replace(
        entries=filing.entries[has_positions],
        entry_starts=torch.cat([starts[:-1][has_positions], starts[-1:]]),
        positions=renumbered[positions[is_kept]].to(filing.positions.dtype if int(left[-1]) >= 2**31 else torch.int32),
        ring_starts=entries_left[filing.ring_starts],
    )


def nearest(
    queries: Tensor,
    filing: Filing,
    k: int,
    *,
    mask: Tensor | None = None,
    limits: Tensor | None = None,
    budget: int = UNLIMITED,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (distances int32 [Q, k], positions int64 [Q, k], met int64 [Q]) of the k nearest filed codes of each query.

    The answer equals that of `ops.hamming_topk.nearest` on the gallery, where `met` is not -1; otherwise the query gave up, since
    it would have compared more than `budget` entries, and its rows are undefined. mask: bool [N]; limits: int32 [Q].
    """
    chosen = choose("filed_topk", impl, queries)
    if chosen == "reference":
        found = hamming_topk.nearest(queries, unfiled(filing), k, mask=mask, limits=limits, impl="reference")
        return *found, queries.new_full((len(queries),), len(filing.entries), dtype=torch.int64)
    shape = (len(queries), k)
    distances, positions = queries.new_empty(shape, dtype=torch.int32), queries.new_empty(shape, dtype=torch.int64)
    met = queries.new_zeros(len(queries), dtype=torch.int64)
    if len(queries) == 0 or len(filing.entries) == 0:
        return distances.fill_(MISSING_DISTANCE), positions.fill_(MISSING_ID), met
    implementation("filed_topk", chosen).filed_topk(queries, filing, mask, limits, budget, distances, positions, met)
    return distances, positions, met


def within(
    queries: Tensor,
    filing: Filing,
    limits: Tensor,
    *,
    mask: Tensor | None = None,
    budget: int = UNLIMITED,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (lims int64 [Q+1], distances int32 [M], positions int64 [M], met int64 [Q]) of all filed codes nearer than `limits`.

    limits: int32 [Q], 0 .. bits + 1. A query that would compare more than `budget` entries gives up: its `met` is -1, and its
    answer is empty. The others are answered as by `hamming_range`.
    """
    chosen = choose("filed_range", impl, queries)
    if chosen == "reference":
        found = hamming_range(queries, unfiled(filing), limits, mask=mask, impl="reference")
        return *found, queries.new_full((len(queries),), len(filing.entries), dtype=torch.int64)
    if len(queries) == 0 or len(filing.entries) == 0:
        lims = torch.zeros(len(queries) + 1, dtype=torch.int64, device=queries.device)
        return lims, queries.new_empty(0, dtype=torch.int32), queries.new_empty(0, dtype=torch.int64), lims[1:].clone()
    return implementation("filed_range", chosen).filed_range(queries, filing, mask, limits, budget)
