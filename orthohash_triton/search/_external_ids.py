"""Ids that users give to their codes, and the way back from an id to its position."""

import threading
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from ..ops.hamming_topk import MISSING_ID
from .faiss_io import MappedFile

_SHOWN = 5


class _Run(NamedTuple):
    ids: np.ndarray  # int64 ascending
    positions: np.ndarray  # int64


class ExternalIds:
    """One int64 id a position; no id twice, and never -1, which stands for "nothing found".

    From position to id goes a table on the device of the codes. From id to position go sorted runs in host memory, each at most
    half as long as the one before, so that neither a small nor a large addition sorts everything again.
    """

    def __init__(self, table: Tensor) -> None:
        self._table = table  # int64 [capacity]
        self._count = len(table)
        self._runs: list[_Run] = []  # a list is never changed, but replaced
        self._known = 0  # positions that stand in a run
        self._lock = threading.Lock()  # threads that search together look ids up together

    def __len__(self) -> int:
        return self._count

    def values(self) -> Tensor:
        """int64 [N], by position."""
        return self._table[: self._count]

    def at(self, positions: Tensor) -> Tensor:
        """The ids of `positions`, int64 of any shape and device, where -1 stays -1."""
        if self._count == 0:
            return positions
        here = positions.to(self._table.device)
        ids = self._table[here.clamp_min(0)]
        return torch.where(here < 0, MISSING_ID, ids).to(positions.device)

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(positions int64 [M], whether there is one bool [M]) of `ids` int64 [M]."""
        positions, found = np.full(len(ids), MISSING_ID, np.int64), np.zeros(len(ids), bool)
        for run_ids, run_positions in self._all_runs():
            places = np.minimum(np.searchsorted(run_ids, ids), len(run_ids) - 1)
            here = run_ids[places] == ids
            positions[here] = run_positions[places[here]]
            found |= here
        return positions, found

    def check_new(self, op: str, ids: np.ndarray) -> None:
        """Raises ValueError unless `ids` may be added."""
        check_ids(op, ids)
        _, found = self.find(ids)
        if found.any():
            raise ValueError(f"{op}: {shown(ids[found])} in the index already. Remove the old codes first, or use other ids")

    def append(self, ids: Tensor) -> None:
        """Add ids that `check_new` has passed."""
        total = self._count + len(ids)
        if total > len(self._table):
            with torch.inference_mode(False):  # or spare entries could be filled in that mode alone
                grown = self._table.new_empty(max(total, 2 * len(self._table)))
            grown[: self._count] = self.values()
            self._table = grown
        self._table[self._count : total] = ids
        self._count = total

    def kept(self, keep: np.ndarray) -> "ExternalIds":
        """The ids of the positions where `keep`, bool [N], is True, moved up."""
        rest = ExternalIds(self.values()[torch.from_numpy(keep).to(self._table.device)])
        moved = np.cumsum(keep) - 1
        staying = [(run, keep[run.positions]) for run in self._runs]
        rest._runs = [_Run(run.ids[stays], moved[run.positions[stays]]) for run, stays in staying if stays.any()]
        rest._known = int(np.count_nonzero(keep[: self._known]))
        return rest

    def copied(self, device: torch.device) -> "ExternalIds":
        """A copy with its table on `device`."""
        moved = ExternalIds(self.values().to(device, copy=True))
        with self._lock:
            moved._runs, moved._known = self._runs, self._known
        return moved

    def checked(self) -> Tensor:
        """`values`, which were looked at: none is there twice, none is -1."""
        return self.values()

    def _all_runs(self) -> list[_Run]:
        """Runs that know all positions."""
        with self._lock:
            if self._known < self._count:
                self._runs, self._known = self._runs_with_rest(), self._count
            return self._runs

    def _runs_with_rest(self) -> list[_Run]:
        rest = self._table[self._known : self._count].cpu().numpy()
        runs = [*self._runs, _sorted_run(rest, np.arange(self._known, self._count))]
        while len(runs) > 1 and len(runs[-2].ids) <= 2 * len(runs[-1].ids):
            last, other = runs.pop(), runs.pop()
            runs.append(_sorted_run(*(np.concatenate(pair) for pair in zip(other, last, strict=True))))
        return runs


class MappedIds(ExternalIds):
    """The ids of a file that stays in it; sorted in memory the first time that an id is looked up."""

    def __init__(self, file: MappedFile) -> None:
        super().__init__(torch.empty(0, dtype=torch.int64))
        assert file.id_bytes is not None
        self._file, self._bytes, self._count = file, file.id_bytes, len(file.id_bytes)

    def values(self) -> Tensor:
        return self._read(slice(None))

    def at(self, positions: Tensor) -> Tensor:
        if self._count == 0:
            return positions
        here = positions.cpu()
        ids = self._read(here.clamp_min(0).flatten().numpy()).view(here.shape)
        if ((ids == MISSING_ID) & (here >= 0)).any():
            _refuse_missing(self._file.source)
        return torch.where(here < 0, MISSING_ID, ids).to(positions.device)

    def copied(self, device: torch.device) -> ExternalIds:
        self.checked()
        return super().copied(device)

    def checked(self) -> Tensor:
        self._all_runs()
        return self.values()

    def _runs_with_rest(self) -> list[_Run]:
        ids = self.values().numpy()
        check_ids(self._file.source, ids)
        return [_sorted_run(ids, np.arange(len(ids)))]

    def _read(self, rows: Any) -> Tensor:
        self._file.check()
        return torch.from_numpy(self._bytes[rows].copy().view("<i8")[..., 0].astype(np.int64, copy=False))


def check_ids(op: str, ids: np.ndarray) -> None:
    """Raises ValueError unless `ids` could be the ids of an index: none twice, none -1."""
    if (ids == MISSING_ID).any():
        _refuse_missing(op)
    ordered = np.sort(ids)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if len(repeated):
        raise ValueError(f"{op}: ids must be unique; {shown(repeated)} given more than once")


def _refuse_missing(op: str) -> NoReturn:
    raise ValueError(f"{op}: ids must not hold {MISSING_ID}, which stands for nothing found. Use another number")


def shown(ids: np.ndarray) -> str:
    """The first few of `ids` and a verb: "id 3 is", "ids 3, 5 and 90 more are"."""
    if len(ids) == 1:
        return f"id {ids[0]} is"
    listed = ", ".join(str(id) for id in ids[:_SHOWN])
    return f"ids {listed}{f' and {len(ids) - _SHOWN} more' if len(ids) > _SHOWN else ''} are"


def _sorted_run(ids: np.ndarray, positions: np.ndarray) -> _Run:
    order = np.argsort(ids, kind="stable")
    return _Run(ids[order], positions[order])
