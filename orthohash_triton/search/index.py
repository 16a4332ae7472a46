"""A gallery of binary codes that grows, searches exactly, and lives in a file that FAISS reads."""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops import _checks
from ..ops._arrays import as_array, as_tensor
from ..ops.hamming_topk import hamming_topk
from . import faiss_io


class HammingIndex:
    """Packed codes on one device, searched exhaustively: no training, no approximation.

    The id of a code is its position in the order of `add`. Codes and queries are uint8 [N, bits/8] as `pack_codes` makes
    them, torch or numpy; answers come in the kind of the queries.

    Args:
        bits: K, a positive multiple of 8 (pad shorter codes with a constant bit: distances stay the same).
        device: where the gallery lives; the CPU unless said otherwise.

    Raises:
        TypeError, ValueError: `bits` is no positive multiple of 8.
    """

    def __init__(self, bits: int, device: torch.device | str | None = None) -> None:
        self.bits = _checks.integer("HammingIndex", "bits", bits, minimum=1)
        if self.bits % 8:
            raise ValueError(
                f"HammingIndex: bits must be a multiple of 8; got {bits}. "
                f"Pad the codes to {self.bits + 8 - self.bits % 8} bits: equal bits add no distance"
            )
        self._buffer = torch.empty(0, self.bits // 8, dtype=torch.uint8, device=device)
        self._count = 0

    @property
    def ntotal(self) -> int:
        """Codes in the gallery."""
        return self._count

    @property
    def device(self) -> torch.device:
        return self._buffer.device

    @property
    def codes(self) -> Tensor:
        """The gallery, uint8 [ntotal, bits/8]: a view of the index's own memory until the next `add`, `reset` or `to`."""
        return self._buffer[: self._count]

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"HammingIndex(bits={self.bits}, ntotal={self.ntotal}, device={str(self.device)!r})"

    def add(self, codes: Tensor | np.ndarray) -> None:
        """Append packed codes, uint8 [N, bits/8], from any device; their ids continue from `ntotal`.

        Memory grows by doubling, so that many small additions cost no more than a few large ones.
        """
        added = self._checked("add", "codes", codes)
        self._reserve(self._count + len(added))
        self._buffer[self._count : self._count + len(added)] = added
        self._count += len(added)

    def search(self, queries: Tensor | np.ndarray, k: int, mask: Tensor | np.ndarray | None = None) -> tuple[Any, Any]:
        """The `k` nearest codes of each query, by distance, then by id.

        Args:
            queries: uint8 [Q, bits/8]; numpy queries may meet an index on a GPU, tensors must be on its device.
            k: any size; more than `ntotal` is padded with distance 2**31 - 1 and id -1.
            mask: which codes may be found; as for `hamming_topk`.

        Returns:
            (distances int32 [Q, k], ids int64 [Q, k]), torch or numpy as the queries.
        """
        numpy_queries = isinstance(queries, np.ndarray)
        checked = self._checked("search", "queries", queries)
        if numpy_queries:
            checked = checked.to(self.device)
        if isinstance(mask, np.ndarray):
            mask = as_tensor(mask).to(self.device)
        distances, ids = hamming_topk(checked, self.codes, k, mask=mask)
        return as_array((distances.cpu(), ids.cpu())) if numpy_queries else (distances, ids)

    def reconstruct(self, id: int) -> Tensor:
        """The code of `id`, a copy, uint8 [bits/8]."""
        return self.reconstruct_n(id, 1)[0]

    def reconstruct_n(self, start: int, count: int) -> Tensor:
        """The codes of the ids `start` to `start + count - 1`, a copy, uint8 [count, bits/8].

        Raises:
            IndexError: an id that the index does not hold.
        """
        start = _checks.integer("HammingIndex.reconstruct", "id", start, minimum=0)
        count = _checks.integer("HammingIndex.reconstruct", "count", count, minimum=0)
        if start + count > self._count:
            last = start + count - 1
            raise IndexError(f"HammingIndex.reconstruct: id {last} is not in the index, which holds {self._count} codes")
        return self.codes[start : start + count].clone()

    def reset(self) -> None:
        """Forget all codes and free their memory."""
        self._buffer = self._buffer.new_empty(0, self.bits // 8)
        self._count = 0

    def to(self, device: torch.device | str) -> "HammingIndex":
        """Move the gallery to `device`, in place; returns the index."""
        self._buffer = self._buffer.to(device)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as a file that `faiss.read_index_binary` opens.

        A save that fails or is killed leaves what stood at `path` as it was.
        """
        faiss_io.write(path, self.codes.cpu().numpy())

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str | None = None) -> "HammingIndex":
        """Read an index written by `save`, or by `faiss.write_index_binary` from an `IndexBinaryFlat`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a truncated or damaged file, or another kind of index.
        """
        return cls._of(faiss_io.read(path), device)

    @classmethod
    def from_faiss(cls, index: Any, device: torch.device | str | None = None) -> "HammingIndex":
        """A copy of a `faiss.IndexBinaryFlat`.

        Raises:
            ImportError: faiss is not installed.
            TypeError: no binary FAISS index.
            ValueError: a binary index of another kind.
        """
        faiss = _faiss("from_faiss")
        if not isinstance(index, faiss.IndexBinary):
            raise TypeError(f"HammingIndex.from_faiss: index must be a faiss.IndexBinaryFlat; got {_checks.describe(index)}")
        data = faiss.serialize_index_binary(index)
        return cls._of(faiss_io.decode(data, f"HammingIndex.from_faiss: {type(index).__name__}"), device)

    def to_faiss(self) -> Any:
        """A `faiss.IndexBinaryFlat` with a copy of the codes.

        Raises:
            ImportError: faiss is not installed.
        """
        index = _faiss("to_faiss").IndexBinaryFlat(self.bits)
        index.add(self.codes.cpu().numpy())
        return index

    @classmethod
    def _of(cls, codes: np.ndarray, device: torch.device | str | None) -> "HammingIndex":
        index = cls(8 * codes.shape[1])
        index._buffer, index._count = torch.from_numpy(codes), len(codes)
        return index if device is None else index.to(device)

    def _checked(self, method: str, name: str, codes: Any) -> Tensor:
        op = f"HammingIndex.{method}"
        checked = _checks.codes(op, name, as_tensor(codes))
        if checked.shape[1] != self.bits // 8:
            raise ValueError(
                f"{op}: {name} must be [N, {self.bits // 8}] for an index of {self.bits} bits; got {_checks.describe(checked)}, "
                f"which is {8 * checked.shape[1]} bits"
            )
        return checked

    def _reserve(self, count: int) -> None:
        """Room for `count` codes."""
        capacity = len(self._buffer)
        if count <= capacity:
            return
        grown = self._buffer.new_empty(max(count, 2 * capacity), self.bits // 8)
        grown[: self._count] = self.codes
        self._buffer = grown


def _faiss(method: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"HammingIndex.{method} needs faiss. Install it with: pip install faiss-cpu") from error
    return faiss
