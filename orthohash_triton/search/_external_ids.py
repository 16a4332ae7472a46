"""The ids that users give to their codes, with the look-up from an id to its position."""

from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from .._base.locks import ForkSafeLock
from ..ops.hamming_topk import MISSING_ID
from ._rows import Rows, copy_kept_rows, copy_rows
from .faiss_io import MappedFile

_LISTED_IDS = 5  # ids that an error message lists


class _Run(NamedTuple):
    """Some of the ids, sorted for binary search, with their positions."""

    ids: np.ndarray  # int64 ascending
    positions: np.ndarray  # int64


class _Lookup(NamedTuple):
    """Sorted runs that cover the first `known` positions."""

    runs: tuple[_Run, ...]
    known: int


class ExternalIds:
    """An immutable list of one int64 id for each position: unique, and never -1, which means "nothing found".

    A table on the device of the codes maps positions to ids. Sorted runs in host memory map ids to positions; each run is at most
    half as long as the one before it, so that neither a small nor a large addition sorts all ids again. The runs are made when
    they are first needed.
    """

    def __init__(self, table: Rows, count: int, lookup: _Lookup | None = None) -> None:
        self._table = table  # int64 [capacity]
        self._count = count
        self._lookup = lookup or _Lookup((), 0)
        self._lock = ForkSafeLock()  # threads that look up ids at the same time wait for one sort

    @classmethod
    def of(cls, table: Tensor) -> "ExternalIds":
        """Return the ids in `table`, int64 [N], which is not copied."""
        return ExternalIds(Rows(table), len(table))

    def __len__(self) -> int:
        return self._count

    def values(self) -> Tensor:
        """Return the ids by position, int64 [N]."""
        return self._table.memory[: self._count]

    def at(self, positions: Tensor) -> Tensor:
        """Return the ids at `positions`, int64 of any shape on any device; -1 stays -1."""
        if self._count == 0:
            return positions
        local = positions.to(self._table.memory.device)
        ids = self.values()[local.clamp_min(0)]
        return torch.where(local < 0, MISSING_ID, ids).to(positions.device)

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of `ids`, int64 [M], and whether each id exists, bool [M]. The position of a missing id is -1."""
        positions, exists = np.full(len(ids), MISSING_ID, np.int64), np.zeros(len(ids), bool)
        for run in self._complete_runs():
            places = np.minimum(np.searchsorted(run.ids, ids), len(run.ids) - 1)
            hits = run.ids[places] == ids
            positions[hits] = run.positions[places[hits]]
            exists |= hits
        return positions, exists

    def check_new(self, op: str, ids: np.ndarray) -> None:
        """Raise ValueError unless `ids` are valid, unique and not in this list."""
        check_ids(op, ids)
        _, exists = self.find(ids)
        if exists.any():
            raise ids_exist(op, ids[exists])

    def appended(self, ids: Tensor) -> "ExternalIds":
        """Return this list followed by `ids`, which must have passed `check_new`."""
        table = self._table.appended(self._count, ids, lambda count: _allocated(count, self._table.memory.device))
        return ExternalIds(table, self._count + len(ids), self._lookup)

    def kept(self, keep: np.ndarray) -> "ExternalIds":
        """Return a list of the ids at the positions where `keep`, bool [N], is True."""
        values = _allocated(int(np.count_nonzero(keep)), self._table.memory.device)
        copy_kept_rows(self.values(), keep, values)
        moved = np.cumsum(keep) - 1
        runs, known = self._lookup
        staying = [(run, keep[run.positions]) for run in runs]
        kept_runs = tuple(_Run(run.ids[stays], moved[run.positions[stays]]) for run, stays in staying if stays.any())
        return ExternalIds(Rows(values), len(values), _Lookup(kept_runs, int(np.count_nonzero(keep[:known]))))

    def copied(self, device: torch.device) -> "ExternalIds":
        """Return a copy with its table on `device`."""
        values = _allocated(self._count, device)
        copy_rows(self.values(), values)
        return ExternalIds(Rows(values), len(values), self._lookup)

    def checked(self) -> Tensor:
        """Return `values()` after checking that they are valid and unique, which ids in memory always are."""
        return self.values()

    def _complete_runs(self) -> tuple[_Run, ...]:
        """Return sorted runs that cover all positions, sorting the positions that no run covers yet."""
        with self._lock:
            if self._lookup.known < self._count:
                self._lookup = _Lookup(self._sorted_runs(), self._count)
            return self._lookup.runs

    def _sorted_runs(self) -> tuple[_Run, ...]:
        runs, known = [*self._lookup.runs], self._lookup.known
        runs.append(_sorted_run(self.values()[known:].cpu().numpy(), np.arange(known, self._count)))
        while len(runs) > 1 and len(runs[-2].ids) <= 2 * len(runs[-1].ids):
            last, other = runs.pop(), runs.pop()
            runs.append(_sorted_run(*(np.concatenate(pair) for pair in zip(other, last, strict=True))))
        return tuple(runs)


class MappedIds(ExternalIds):
    """The ids of a memory-mapped file. They stay in the file, and are sorted in memory when an id is first looked up."""

    def __init__(self, file: MappedFile, id_bytes: np.ndarray) -> None:
        super().__init__(Rows(torch.empty(0, dtype=torch.int64)), len(id_bytes))
        self._file, self._bytes = file, id_bytes  # uint8 [N, 8]

    def values(self) -> Tensor:
        return self._read(slice(None))

    def at(self, positions: Tensor) -> Tensor:
        if self._count == 0:
            return positions
        local = positions.cpu()
        ids = self._read(local.clamp_min(0).flatten().numpy()).view(local.shape)
        if ((ids == MISSING_ID) & (local >= 0)).any():
            _refuse_missing(self._file.source)
        return torch.where(local < 0, MISSING_ID, ids).to(positions.device)

    def copied(self, device: torch.device) -> ExternalIds:
        self.checked()
        return super().copied(device)

    def checked(self) -> Tensor:
        self._complete_runs()
        return self.values()

    def _sorted_runs(self) -> tuple[_Run, ...]:
        ids = self.values().numpy()
        check_ids(self._file.source, ids)
        return (_sorted_run(ids, np.arange(len(ids))),)

    def _read(self, rows: Any) -> Tensor:
        self._file.check()
        return torch.from_numpy(self._bytes[rows].copy().view("<i8")[..., 0].astype(np.int64, copy=False))


def _allocated(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode cannot be written to outside of it
        return torch.empty(count, dtype=torch.int64, device=device)


def check_ids(op: str, ids: np.ndarray) -> None:
    """Raise ValueError if `ids`, int64 [M], hold -1 or repeat an id."""
    if (ids == MISSING_ID).any():
        _refuse_missing(op)
    ordered = np.sort(ids)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(repeated):
        raise ValueError(f"{op}: ids must be unique; {listed(repeated)} given more than once")


def ids_exist(op: str, ids: np.ndarray) -> ValueError:
    """Return the exception to raise if new `ids` are in the index already."""
    return ValueError(f"{op}: {listed(ids)} in the index already. Remove the old codes first, or use other ids")


def ids_missing(op: str, ids: np.ndarray, ntotal: int) -> IndexError:
    """Return the exception to raise if `ids` are not in the index, which holds `ntotal` codes."""
    return IndexError(f"{op}: {listed(ids)} not in the index, which holds {ntotal} codes")


def listed(ids: np.ndarray) -> str:
    """Return the first few of `ids` and a verb: "id 3 is", "ids 3, 5, 6, 7, 8 and 90 more are"."""
    if len(ids) == 1:
        return f"id {ids[0]} is"
    first = ", ".join(str(id) for id in ids[:_LISTED_IDS])
    return f"ids {first}{f' and {len(ids) - _LISTED_IDS} more' if len(ids) > _LISTED_IDS else ''} are"


def _refuse_missing(op: str) -> NoReturn:
    raise ValueError(f"{op}: ids must not hold {MISSING_ID}, which means that nothing was found. Use another number")


def _sorted_run(ids: np.ndarray, positions: np.ndarray) -> _Run:
    order = np.argsort(ids, kind="stable")
    return _Run(ids[order], positions[order])
