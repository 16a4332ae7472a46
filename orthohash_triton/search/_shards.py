"""A snapshot of a sharded index, and the messages between ranks that its searches and changes need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._base import checks
from .._base.arrays import as_tensor
from ..ops.hamming_topk import MISSING_DISTANCE, MISSING_ID
from . import _planned, _selection
from ._arguments import check_kind_of_ids, integers, position_mask
from ._cell import Cell
from ._external_ids import check_ids, ids_exist, ids_missing, listed
from ._gallery import Allowed, Filters, Gallery
from ._ranks import Ranks
from .rerank import Rerank, Source, best_by_score, scores_of

T = TypeVar("T")

_IDS_PER_MESSAGE = 2**20


@dataclass(frozen=True, eq=False)
class Shards:
    """A snapshot of a sharded index on one rank: the gallery of its own shard, and the sizes of all shards.

    Methods that take `op`, the name of the call, are collective: all ranks call them in the same order.
    """

    ranks: Ranks
    gallery: Gallery  # this rank's shard
    sizes: tuple[int, ...]  # codes on each rank
    with_ids: bool  # whether the codes have ids of their own

    @classmethod
    def gathered(cls, op: str, ranks: Ranks, gallery: Gallery) -> "Shards":
        """Exchange the sizes of the shards between the ranks, and return the snapshot. Collective.

        Raises:
            ValueError: Some shards have ids of their own and others do not.
        """
        own = torch.tensor([gallery.count, gallery.ids is not None], dtype=torch.int64, device=ranks.device())
        shards = ranks.gather(own).tolist()
        kinds = {bool(with_ids) for count, with_ids in shards if count}
        if len(kinds) > 1:
            raise ValueError(f"{op}: some shards have ids of their own and others do not. All must be of one kind")
        return cls(ranks, gallery, tuple(count for count, _ in shards), kinds == {True})

    @property
    def bits(self) -> int:
        """The number of bits of a code."""
        return self.gallery.bits

    @property
    def ntotal(self) -> int:
        """The number of codes on all ranks."""
        return sum(self.sizes)

    @property
    def offset(self) -> int:
        """The position of this rank's first code: the number of codes on all lower ranks."""
        return sum(self.sizes[: self.ranks.rank])

    @property
    def link(self) -> torch.device:
        """The device on which the ranks exchange tensors."""
        return self.ranks.device(self.gallery.device)

    @property
    def shift(self) -> int:
        """The number of bits of a sort key below its distance, which can be as large as `bits`; see `_selection`."""
        return 63 - self.bits.bit_length()

    def agree(self, op: str, work: Callable[[], T], facts: Callable[[T], Mapping[str, Any]] | None = None) -> T:
        """Do local `work`, and return its result once it succeeded on all ranks with equal `facts`; see `Ranks.agree`."""

        def checked_work() -> T:
            expected = self.sizes[self.ranks.rank]
            if self.gallery.count != expected:
                raise RuntimeError(
                    f"{op}: the shard had {expected} codes and has {self.gallery.count} now. "
                    "Change a shard through its ShardedHammingIndex only"
                )
            return work()

        def all_facts(result: T) -> dict[str, Any]:
            return {"the index": (self.bits, list(self.sizes)), **(facts(result) if facts else {})}

        return self.ranks.agree(op, checked_work, all_facts)

    # ---- ids ---------------------------------------------------------------------------------------------------------------

    def check_addition(self, op: str, codes: Any, *, adds_ids: bool) -> Tensor | np.ndarray:
        """Check that `codes` can be added to this rank's shard, and return them. Not collective."""
        checked = self.gallery.check_codes(op, "codes", codes)
        self.gallery.check_writable(op)
        check_kind_of_ids(op, self.ntotal, has_ids=self.with_ids, adds_ids=adds_ids)
        return checked

    def check_new_ids(self, op: str, ids: np.ndarray) -> None:
        """Raise ValueError on all ranks unless the `ids` of all of them, int64 [any], can be added together."""
        counts = self.ranks.integers(len(ids))
        padded = torch.full((max(counts),), MISSING_ID, device=self.link)
        padded[: len(ids)] = torch.from_numpy(ids)
        gathered = self.ranks.gather(padded).cpu().numpy()
        new = np.concatenate([part[:count] for part, count in zip(gathered, counts, strict=True)])
        check_ids(op, new)
        exists = self._exists_on_any(op, new)
        if exists.any():
            raise ids_exist(op, new[exists])

    def check_unique_ids(self, op: str) -> None:
        """Raise ValueError on all ranks if two of them hold the same id."""
        own = self.agree(op, lambda: None if self.gallery.ids is None else self.gallery.ids.checked())
        longest = max(self.sizes) if self.with_ids else 0
        for start in range(0, longest, _IDS_PER_MESSAGE):
            padded = torch.full((min(_IDS_PER_MESSAGE, longest - start),), MISSING_ID, device=self.link)
            if own is not None:
                part = own[start : start + len(padded)]
                padded[: len(part)] = part
            gathered = np.sort(self.ranks.gather(padded).flatten().cpu().numpy())  # sorted ids are looked up ten times faster
            holders = self.ranks.sum(torch.from_numpy(self._exists_here(gathered)).to(self.link, torch.int32)).cpu().numpy()
            if (holders > 1).any():
                repeated = listed(np.unique(gathered[holders > 1]))
                raise ValueError(f"{op}: ids must be unique over all ranks; {repeated} on more than one")

    def _exists_here(self, ids: np.ndarray) -> np.ndarray:
        """Return a mask of the `ids` that this rank holds, bool [M]."""
        if self.with_ids:
            return np.zeros(len(ids), np.bool_) if self.gallery.ids is None else self.gallery.ids.find(ids)[1]
        return (ids >= self.offset) & (ids < self.offset + self.gallery.count)

    def _exists_on_any(self, op: str, ids: np.ndarray) -> np.ndarray:
        """Return a mask of the `ids` that any rank holds, bool [M]. All ranks pass equal `ids`. Collective."""
        exists = self.agree(op, lambda: self._exists_here(ids))
        return self.ranks.sum(torch.from_numpy(exists).to(self.link, torch.int32)).cpu().numpy() > 0

    def ids_here(self, op: str, ids: np.ndarray) -> np.ndarray:
        """Return the `ids` that this rank holds, in the numbering of its own gallery. All ranks pass equal `ids`.

        Raises:
            IndexError: On all ranks, if no rank holds some of `ids`.
        """
        missing = ~self._exists_on_any(op, ids)
        if missing.any():
            raise ids_missing(op, ids[missing], self.ntotal)
        own = ids[self._exists_here(ids)]
        return own if self.with_ids else own - self.offset

    def ids_at(self, positions: Tensor) -> Tensor:
        """Return the ids at `positions` in the whole index, int64 of any shape, equal on all ranks; -1 stays -1. Collective."""
        if not self.with_ids:
            return positions
        own = self._own(positions)
        ids = torch.where(own < 0, 0, self.gallery.ids_at(own)).to(self.link)
        return torch.where(positions < 0, MISSING_ID, self.ranks.sum(ids))

    def codes_of(self, op: str, numbers: Callable[[], np.ndarray]) -> Tensor:
        """Return the codes of the ids that `numbers` returns, uint8 [M, bits/8], on the device of the shard."""
        ids = self.agree(op, numbers, lambda ids: {"ids": summary(ids)})
        own = self.ids_here(op, ids)
        codes = torch.zeros(len(ids), self.bits // 8, dtype=torch.uint8, device=self.link)
        if len(own):
            found = torch.from_numpy(self._exists_here(ids)).to(self.link)
            codes[found] = self.gallery.codes_at(self.gallery.positions_of(op, own)).to(self.link)
        return self.ranks.sum(codes).to(self.gallery.device)

    # ---- filters -----------------------------------------------------------------------------------------------------------

    def own_filters(self, op: str, filters: Filters) -> Filters:
        """Return `filters` with only the ids that this rank holds, in the numbering of its own gallery."""
        given = {name: value for name, value in filters._asdict().items() if name != "mask" and value is not None}
        if not given:
            return filters
        numbers = self.agree(
            op,
            lambda: {name: integers(op, name, value, ntotal=self.ntotal) for name, value in given.items()},
            lambda numbers: {"the filters": [*numbers], **{name: summary(value) for name, value in numbers.items()}},
        )
        return filters._replace(**{name: self.ids_here(op, value) for name, value in numbers.items()})

    def check_mask(self, op: str, name: str, value: Any) -> Tensor:
        """Check `value`, and return it as a bool mask over this rank's shard."""
        return position_mask(op, name, value, self.gallery.count, "in this rank's shard")

    def allowed(self, op: str, filters: Filters) -> Allowed:
        """Return the codes of the shard that pass `filters`, which `own_filters` returned."""
        if filters.mask is not None:
            self.check_mask(op, "mask", filters.mask)
        return self.gallery.allowed(op, filters)

    # ---- searches ----------------------------------------------------------------------------------------------------------

    def nearest(self, op: str, cell: Cell, ask: Callable[[], "Question"], chunk_bytes: int) -> tuple[Tensor, Tensor]:
        """Return (distances int32, positions int64) [Q, depth] of the nearest codes on all ranks; `cell` holds the shard."""

        def searched() -> tuple[Question, Tensor]:
            question = ask()
            depth = min(question.depth, len(question.allowed.codes))
            if depth == 0:
                return question, torch.empty(len(question.queries), 0, dtype=torch.int64, device=self.link)
            distances, positions = _planned.nearest(cell, self.gallery, question.queries, depth, question.allowed, chunk_bytes)
            keys = self.keys(distances, positions)
            return question, keys.masked_fill_((positions < 0).to(keys.device), _selection.MISSING)

        question, keys = self.agree(op, searched, lambda found: found[0].facts)
        if len(keys) == 0 or question.depth == 0:
            return self.read(keys.new_empty(len(keys), question.depth))
        share = -(-question.depth * self.gallery.count // self.ntotal)
        return self.read(_selection.smallest(self.ranks, keys, question.depth, share, self.shift, self.bits))

    def keys(self, distances: Tensor, positions: Tensor) -> Tensor:
        """Return the sort keys of the codes that the shard found, on the device on which ranks exchange tensors (`link`)."""
        return (distances.long() << self.shift | (positions + self.offset)).to(self.link)

    def read(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Convert sort keys to (distances int32, positions int64), with 2**31 - 1 and -1 for missing keys."""
        exists = keys != _selection.MISSING
        distances = torch.where(exists, keys >> self.shift, MISSING_DISTANCE).int()
        return distances, torch.where(exists, keys & ((1 << self.shift) - 1), MISSING_ID)

    def reranked(self, op: str, rerank: Rerank, queries: Tensor, positions: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return (scores float32, positions) of the best `k` of `positions` [Q, S]; each rank scores its own codes."""

        def ids_at(own: Tensor) -> Tensor:
            return self.gallery.ids_at(own) if self.with_ids else own + self.offset

        def own_scores() -> Tensor:
            own = self._own(positions)
            scores = scores_of(rerank, own, Source(op, queries, self.gallery.codes_at, ids_at))
            return torch.where(own < 0, 0, scores).to(self.link)

        return best_by_score(rerank, self.ranks.sum(self.agree(op, own_scores)), positions, k)

    def joined(self, lims: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Join the results of all ranks, given those of this rank: return (lims int64 [Q+1], keys int64 [M]). Collective."""
        counts = self.ranks.gather(lims.diff())  # [ranks, Q]
        all_lims = F.pad(counts.sum(0).cumsum(0), (1, 0))
        first = all_lims[:-1] + counts[: self.ranks.rank].sum(0)  # position at which this rank's results for each query begin
        slots = (first - lims[:-1]).repeat_interleave(lims.diff()) + torch.arange(len(keys), device=keys.device)
        joined = keys.new_zeros(int(all_lims[-1]))
        joined[slots] = keys
        self.ranks.sum(joined)
        query = torch.arange(len(lims) - 1, device=keys.device).repeat_interleave(all_lims.diff())
        # Positions ascend from rank to rank, so a stable sort by query and distance orders them too.
        order = (query * (self.bits + 1) + (joined >> self.shift)).argsort(stable=True)
        return all_lims, joined[order]

    def _own(self, positions: Tensor) -> Tensor:
        """Convert positions in the index to positions in this rank's shard, on its device; -1 for those of other ranks."""
        local = positions - self.offset
        return torch.where((local >= 0) & (local < self.gallery.count) & (positions >= 0), local, -1).to(self.gallery.device)


@dataclass(frozen=True, eq=False)
class Question:
    """The checked arguments of a search."""

    queries: Tensor  # uint8 [Q, bits/8]
    depth: int  # codes to find for each query
    allowed: Allowed  # the codes of this rank that may be found
    facts: dict[str, Any]  # values that must be equal on all ranks


def summary(value: Tensor | np.ndarray) -> str:
    """Return the dtype, shape and checksum of a tensor or array."""
    tensor = as_tensor(value).detach().cpu().contiguous()
    checksum = crc32(tensor.flatten().view(torch.uint8).numpy().data) if tensor.numel() else 0
    return f"{checks.dtype_name(tensor.dtype)} {list(tensor.shape)} with checksum {checksum:08x}"
