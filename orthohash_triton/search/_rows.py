"""Memory that grows at its end and is shared by the snapshots of a growing gallery."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .._base.arrays import as_tensor
from .._base.locks import ForkSafeLock

COPIED_ROWS = 2**20  # rows that are copied to or from a GPU, or filtered, at a time


class Rows:
    """A tensor whose first rows are written and whose last rows are spare.

    Several snapshots share one `Rows`, and each of them sees the rows that were written when it was made. A row never changes
    once it is written, so a reader needs no lock. Spare rows are given to one writer only: a second snapshot of the same length
    that grows gets memory of its own.
    """

    def __init__(self, memory: Tensor, written: int | None = None) -> None:
        self.memory = memory  # [capacity, ...]
        self._written = len(memory) if written is None else written
        self._lock = ForkSafeLock()

    def appended(self, count: int, added: Tensor | np.ndarray, allocate: Callable[[int], Tensor]) -> "Rows":
        """Return rows that hold the first `count` of these rows, then `added`.

        They share this memory if `added` fits the spare rows. Otherwise the capacity at least doubles, so that many small
        additions cost no more than a few large ones. If copying fails, the spare rows can be used again.

        Args:
            count: how many of these rows the caller's snapshot sees.
            added: the new rows, on any device.
            allocate: returns uninitialised memory for a number of rows.
        """
        total = count + len(added)
        if self._reserve(count, total):
            try:
                copy_rows(added, self.memory[count:])
            except BaseException:
                self._release(count, total)
                raise
            return self
        capacity = len(self.memory)
        grown = allocate(max(total, 2 * capacity) if total > capacity else capacity)
        copy_rows(self.memory[:count], grown)
        copy_rows(added, grown[count:])
        return Rows(grown, total)

    def _reserve(self, count: int, total: int) -> bool:
        """Reserve the rows from `count` to `total - 1` for the caller; return False if they are taken or do not exist."""
        with self._lock:
            spare = self._written == count and total <= len(self.memory)
            if spare:
                self._written = total
            return spare

    def _release(self, count: int, total: int) -> None:
        with self._lock:
            if self._written == total:
                self._written = count


def copy_rows(source: Tensor | np.ndarray, target: Tensor) -> None:
    """Copy `source` to the first rows of `target`.

    Between tensors on the CPU numpy copies in the calling thread. torch would use its pool of threads, which a forked process
    does not have: the copy would then never end. Other copies go block by block, because torch would first copy the whole of a
    read-only array.
    """
    if target.device.type == "cpu" and (isinstance(source, np.ndarray) or source.device.type == "cpu"):
        array = source if isinstance(source, np.ndarray) else source.detach().numpy()
        np.copyto(target[: len(array)].numpy(), array)
        return
    for start in range(0, len(source), COPIED_ROWS):
        block = as_tensor(source[start : start + COPIED_ROWS])
        target[start : start + len(block)] = block


def copy_kept_rows(rows: Tensor, keep: np.ndarray, target: Tensor) -> None:
    """Copy the rows where `keep`, bool [N], is True to the start of `target`, in their order."""
    filled = 0
    for start in range(0, len(keep), COPIED_ROWS):
        flags = keep[start : start + COPIED_ROWS]
        block = rows[start : start + len(flags)]
        if block.device.type == "cpu":  # numpy copies without threads, for the reason given in copy_rows
            kept = torch.from_numpy(block.numpy()[flags])
        else:
            kept = block[torch.from_numpy(flags).to(block.device)]
        copy_rows(kept, target[filled:])
        filled += len(kept)
