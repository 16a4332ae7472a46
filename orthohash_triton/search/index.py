"""A gallery of binary codes that grows, searches exactly, and lives in a file that FAISS reads."""

import os
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import as_tensor
from ..ops.hamming_range import hamming_range
from ..ops.hamming_topk import MISSING_DISTANCE, nearest
from . import faiss_io
from ._arguments import consecutive_ids, in_kind, integers, position_mask
from ._external_ids import ExternalIds, MappedIds, check_ids, shown
from .rerank import Rerank, reranked
from .streaming import CHUNK_BYTES, nearest_streamed, range_streamed

_STORAGES = ("device", "host")
_COPIED_ROWS = 2**20  # at a time


class HammingIndex:
    """Packed codes, searched exhaustively: no training, no approximation.

    Codes and queries are uint8 [N, bits/8] as `pack_codes` makes them, torch or numpy; answers come in the kind of the queries.
    The id of a code is its position in the order of `add`, or the number that `add_with_ids` gave it; one index holds ids of
    one kind. Codes at equal distances always stand in the order of their positions.

    Args:
        bits: K, a positive multiple of 8 (pad shorter codes with a constant bit: distances stay the same).
        device: where searches run; the CPU unless said otherwise.
        storage: where the codes lie: "device", or "host" for a gallery that does not fit the GPU: it stays in (pinned) host
            memory and passes through the GPU in chunks of `chunk_bytes` at each search, with the same answers. On the CPU both
            are the same. A third, "file", is that of `load(..., mmap=True)`.

    Raises:
        TypeError, ValueError: `bits` is no positive multiple of 8, or `storage` is none of the above.
    """

    chunk_bytes: int = CHUNK_BYTES
    """Bytes of codes that are searched at a time where they do not lie on the device; may be set on an index."""

    def __init__(self, bits: int, device: torch.device | str | None = None, *, storage: str = "device") -> None:
        self.bits = checks.integer("HammingIndex", "bits", bits, minimum=1)
        if self.bits % 8:
            raise ValueError(
                f"HammingIndex: bits must be a multiple of 8; got {bits}. "
                f"Pad the codes to {self.bits + 8 - self.bits % 8} bits: equal bits add no distance"
            )
        self._storage = checks.choice("HammingIndex", "storage", storage, _STORAGES)
        self._device = torch.empty(0, device=device).device
        self._file: faiss_io.MappedFile | None = None
        self._ids: ExternalIds | None = None
        self._buffer, self._count = self._room(0), 0

    @property
    def ntotal(self) -> int:
        """Codes in the gallery."""
        return self._count

    @property
    def device(self) -> torch.device:
        """Where searches run."""
        return self._device

    @property
    def storage(self) -> str:
        """Where the codes lie: "device", "host" or "file"."""
        return self._storage if self._file is None else "file"

    @property
    def codes(self) -> Tensor:
        """The gallery, uint8 [ntotal, bits/8], where it lies: a view of the index's own memory until the next change."""
        return self._buffer[: self._count]

    @property
    def ids(self) -> Tensor | None:
        """The ids of `add_with_ids`, int64 [ntotal], by position; None where positions are the ids."""
        return None if self._ids is None else self._ids.values()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        kind = "" if self._ids is None else ", with ids"
        storage = "" if self.storage == "device" else f", storage={self.storage!r}"
        return f"HammingIndex(bits={self.bits}, ntotal={self.ntotal}, device={str(self.device)!r}{storage}{kind})"

    # ---- changes -----------------------------------------------------------------------------------------------------------

    def add(self, codes: Tensor | np.ndarray) -> None:
        """Append packed codes, uint8 [N, bits/8], from any device; their ids continue from `ntotal`.

        Memory grows by doubling, so that many small additions cost no more than a few large ones.

        Raises:
            TypeError, ValueError: no packed codes of this width.
            RuntimeError: the index has ids of its own, or is a mapped file.
        """
        self._writable("add")
        added = self._codes("HammingIndex.add", "codes", codes)
        if self._ids is not None and self._count:
            raise RuntimeError("HammingIndex.add: the index has ids of its own. Use add_with_ids")
        self._ids, self._count = None, self._filled(added)

    def add_with_ids(self, codes: Tensor | np.ndarray, ids: Any) -> None:
        """Append packed codes, uint8 [N, bits/8], under `ids`: N integers, any int64 but -1, none twice in the index.

        Raises:
            TypeError, ValueError: no packed codes of this width; ids of another length, repeated, or in the index already.
            RuntimeError: the index holds codes without ids, or is a mapped file.
        """
        op = "HammingIndex.add_with_ids"
        self._writable("add_with_ids")
        added, numbers = self._codes(op, "codes", codes), integers(op, "ids", ids)
        if self._ids is None and self._count:
            raise RuntimeError(f"{op}: the {self._count} codes of the index have positions for ids. Use add, or a fresh index")
        if len(numbers) != len(added):
            raise ValueError(f"{op}: ids must be one for each of the {len(added)} codes; got {len(numbers)}")
        held = self._ids if self._ids is not None else ExternalIds(torch.empty(0, dtype=torch.int64, device=self._home))
        held.check_new(op, numbers)
        total = self._filled(added)
        held.append(torch.from_numpy(numbers))
        self._ids, self._count = held, total

    def remove_ids(self, ids: Any) -> int:
        """Remove codes; returns how many.

        ids: integers (a tensor, an array, a sequence; twice counts once), or a bool mask [ntotal] over positions, True for
        those to remove. The codes behind move up, in their order: ids that are positions change, as in FAISS.

        Raises:
            IndexError: an id that the index does not hold (nothing is removed then).
            TypeError, ValueError: neither integers nor a mask of that length.
            RuntimeError: the index is a mapped file.
        """
        op = "HammingIndex.remove_ids"
        self._writable("remove_ids")
        if getattr(ids, "dtype", None) in (torch.bool, np.bool_):
            keep = ~position_mask(op, "ids", ids, self._count).cpu().numpy()
        else:
            keep = np.ones(self._count, np.bool_)
            keep[self._positions(op, integers(op, "ids", ids)).numpy()] = False
        left = int(np.count_nonzero(keep))
        removed = self._count - left
        if removed:
            rest, rest_ids = self._selected(keep, left), None if self._ids is None else self._ids.kept(keep)
            self._buffer, self._ids, self._count = rest, rest_ids, left
        return removed

    def merge_from(self, other: "HammingIndex") -> None:
        """Append the codes of `other`, with its ids where it has any, and empty it.

        Raises:
            TypeError, ValueError: `other` is no other HammingIndex of as many bits, or has ids that are in this index.
            RuntimeError: one has ids of its own and the other has not, or this index is a mapped file.
        """
        op = "HammingIndex.merge_from"
        if not isinstance(other, HammingIndex):
            raise TypeError(f"{op}: other must be a HammingIndex; got {checks.describe(other)}")
        if other is self:
            raise ValueError(f"{op}: other must be another index. Use copy() to add an index to itself")
        if other.bits != self.bits:
            raise ValueError(f"{op}: other must hold codes of {self.bits} bits; got {other.bits}")
        self._writable("merge_from")
        other._check_file()
        if other.ntotal:
            if self._count and (self._ids is None) != (other._ids is None):
                mine, theirs = ("positions for ids", "ids of its own")[:: 1 if self._ids is None else -1]
                raise RuntimeError(f"{op}: the index has {mine}, other has {theirs}. Both must be of one kind")
            ids = other.ids
            if ids is None:
                self.add(other.codes)
            else:
                self.add_with_ids(other.codes, ids)
        other.reset()

    def reset(self) -> None:
        """Forget all codes and ids and free their memory; a mapped file is let go and stays as it is."""
        self._file, self._ids = None, None
        self._buffer, self._count = self._room(0), 0

    def to(self, device: torch.device | str, *, storage: str = "device") -> "HammingIndex":
        """Move the gallery to `device`, in place, and search there; returns the index.

        storage: as for `HammingIndex`. A mapped file is read into memory, and the index may be changed from then on.
        """
        checks.choice("HammingIndex.to", "storage", storage, _STORAGES)
        target = torch.empty(0, device=device).device
        if self._file is None and (target, storage) == (self._device, self._storage):
            return self
        self._check_file()
        moved = HammingIndex(self.bits, target, storage=storage)
        moved._take(self.codes, self._ids)
        self._device, self._storage, self._file = target, storage, None
        self._buffer, self._ids = moved._buffer, moved._ids
        return self

    def copy(self) -> "HammingIndex":
        """An index of its own with the same codes and ids, on the same device; in memory, where this one is a mapped file."""
        self._check_file()
        storage = "host" if self._file is not None else self._storage
        copied = HammingIndex(self.bits, self._device, storage=storage)
        copied._take(self.codes, self._ids)
        copied.chunk_bytes = self.chunk_bytes
        return copied

    def __copy__(self) -> "HammingIndex":
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> "HammingIndex":
        return self.copy()

    # ---- searches ----------------------------------------------------------------------------------------------------------

    def search(
        self,
        queries: Tensor | np.ndarray,
        k: int,
        mask: Tensor | np.ndarray | None = None,
        *,
        ids: Any = None,
        exclude_ids: Any = None,
        rerank: Rerank | None = None,
    ) -> tuple[Any, Any]:
        """The `k` nearest codes of each query, by distance, then by position.

        Args:
            queries: uint8 [Q, bits/8]; numpy queries may meet an index on a GPU, tensors must be on its device.
            k: any size; more than can be found is padded with distance 2**31 - 1 and id -1.
            mask: bool [ntotal], True for the positions that may be found.
            ids: only these may be found. Few ids are fast: their codes alone are looked at.
            exclude_ids: these may not be found.
            rerank: a second ranking of the nearest codes by float vectors; see `Rerank`.

        Returns:
            (distances int32 [Q, k], ids int64 [Q, k]), torch or numpy as the queries. With `rerank` (scores float32, ids), by
            score, then by Hamming order; a missing one has id -1 and the worst score, an infinity.

        Raises:
            IndexError: ids that the index does not hold.
            TypeError, ValueError: arguments of another shape, dtype or device, or a mapped file that has become shorter.
        """
        op = "HammingIndex.search"
        checked = self._queries(op, queries)
        k = checks.integer(op, "k", k, minimum=1, maximum=MISSING_DISTANCE)
        if rerank is None:
            values, positions = self._nearest(checked, k, self._allowed(op, mask, ids, exclude_ids))
        elif not isinstance(rerank, Rerank):
            raise TypeError(f"{op}: rerank must be a search.Rerank; got {checks.describe(rerank)}")
        else:
            rerank.check(op, len(checked), self.bits, self._count)
            shortlist = rerank.shortlist(k, self._count)
            _, positions = self._nearest(checked, shortlist, self._allowed(op, mask, ids, exclude_ids))
            values, positions = reranked(rerank, positions, k, self._codes_at, self._ids_at)
        return in_kind(queries, values, self._ids_at(positions))

    def range_search(
        self,
        queries: Tensor | np.ndarray,
        radius: Any,
        *,
        inclusive: bool = False,
        mask: Tensor | np.ndarray | None = None,
        ids: Any = None,
        exclude_ids: Any = None,
    ) -> tuple[Any, Any, Any]:
        """All codes nearer than `radius` to each query, by distance, then by position.

        Args:
            queries, mask, ids, exclude_ids: as for `search`.
            radius: an integer, or integers [Q]; as in FAISS the radius itself is out, unless `inclusive`.

        Returns:
            (lims int64 [Q+1], distances int32 [M], ids int64 [M]), torch or numpy as the queries; query i has found
            ids[lims[i] : lims[i + 1]].

        Raises: as `search`.
        """
        op = "HammingIndex.range_search"
        checked = self._queries(op, queries)
        if isinstance(radius, np.ndarray):
            radius = as_tensor(radius).to(self._device)
        allowed = self._allowed(op, mask, ids, exclude_ids)
        if self._streams:
            lims, distances, positions = range_streamed(
                checked,
                allowed.codes,
                radius,
                inclusive=inclusive,
                mask=allowed.mask,
                chunk_bytes=self.chunk_bytes,
                check=self._check_file,
            )
        else:
            lims, distances, positions = hamming_range(checked, allowed.codes, radius, inclusive=inclusive, mask=allowed.mask)
        return in_kind(queries, lims, distances, self._ids_at(allowed.whole(positions)))

    # ---- codes by id -------------------------------------------------------------------------------------------------------

    def reconstruct(self, id: int) -> Tensor:
        """The code of `id`, a copy, uint8 [bits/8].

        Raises:
            IndexError: an id that the index does not hold.
        """
        return self.reconstruct_n(id, 1)[0]

    def reconstruct_n(self, start: int = 0, count: int = -1) -> Tensor:
        """The codes of the ids `start` to `start + count - 1`, a copy, uint8 [count, bits/8]. A count of -1: all from `start` on,
        where positions are the ids.

        Raises:
            IndexError: an id that the index does not hold.
            ValueError: a count of -1 for an index with ids of its own.
        """
        op = "HammingIndex.reconstruct"
        ids = consecutive_ids(op, start, count, self._count, own_ids=self._ids is not None)
        return self._codes_at(self._positions(op, ids)).to(self._device)

    def reconstruct_batch(self, ids: Any) -> Any:
        """The codes of `ids`, integers [M] in any order, a copy, uint8 [M, bits/8]; an array for an array.

        Raises:
            IndexError: an id that the index does not hold.
        """
        op = "HammingIndex.reconstruct_batch"
        codes = self._codes_at(self._positions(op, integers(op, "ids", ids))).to(self._device)
        return in_kind(ids, codes)[0]

    # ---- files and FAISS ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as a file that `faiss.read_index_binary` opens: an `IndexBinaryFlat`, with ids an `IndexBinaryIDMap2`.

        A save that fails or is killed leaves what stood at `path` as it was. A mapped index may be saved over its own file.
        """
        self._check_file()
        ids = None if self._ids is None else self._ids.checked().cpu().numpy()
        faiss_io.write(path, self.codes.cpu().numpy(), ids)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str | None = None, mmap: bool = False) -> "HammingIndex":
        """Read an index written by `save`, or by `faiss.write_index_binary` from an `IndexBinaryFlat`, an `IndexBinaryIDMap` or
        an `IndexBinaryIDMap2` around one.

        mmap: leave the codes in the file, which may be larger than memory. They are searched from there on the CPU, or pass
            through the GPU that `device` names in chunks. The index cannot be changed until `to` or `copy` brings it into
            memory. Pickled, it is the path of its file. Ids are not read until they are needed: that they are unique is checked
            when one is looked up, and when the index is copied or saved.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a truncated or damaged file, another kind of index, or ids that are not unique.
        """
        if mmap:
            return cls._of_map(faiss_io.MappedFile(path), device)
        return cls._of(faiss_io.read(path), device, f"index file {path}")

    @classmethod
    def from_faiss(cls, index: Any, device: torch.device | str | None = None) -> "HammingIndex":
        """A copy of a `faiss.IndexBinaryFlat`, or of an `IndexBinaryIDMap` or `IndexBinaryIDMap2` around one with its ids.

        Raises:
            ImportError: faiss is not installed.
            TypeError: no binary FAISS index.
            ValueError: a binary index of another kind, or ids that are not unique.
        """
        faiss = _faiss("from_faiss")
        if not isinstance(index, faiss.IndexBinary):
            raise TypeError(f"HammingIndex.from_faiss: index must be a faiss.IndexBinaryFlat; got {checks.describe(index)}")
        source = f"HammingIndex.from_faiss: {type(index).__name__}"
        return cls._of(faiss_io.decode(faiss.serialize_index_binary(index), source), device, source)

    def to_faiss(self) -> Any:
        """A `faiss.IndexBinaryFlat` with a copy of the codes; with ids a `faiss.IndexBinaryIDMap2` around one.

        Raises:
            ImportError: faiss is not installed.
        """
        faiss = _faiss("to_faiss")
        self._check_file()
        index = faiss.IndexBinaryFlat(self.bits)
        ids = None if self._ids is None else self._ids.checked()
        if ids is None:
            index.add(self.codes.cpu().numpy())
            return index
        index = faiss.IndexBinaryIDMap2(index)
        index.add_with_ids(self.codes.cpu().numpy(), ids.cpu().numpy())
        return index

    def __getstate__(self) -> dict[str, Any]:
        state = {"bits": self.bits, "device": str(self._device), "storage": self._storage, "chunk_bytes": self.chunk_bytes}
        if self._file is not None:
            return state | {"path": self._file.path, "version": self._file.version}
        # As arrays: of tensors a process that is being started would get handles, to memory that is gone by then.
        ids = self.ids
        return state | {"codes": self.codes.cpu().numpy(), "ids": None if ids is None else ids.cpu().numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        try:
            torch.empty(0, device=state["device"])
        except (AssertionError, RuntimeError) as error:
            raise RuntimeError(
                f"the pickled HammingIndex searches on {state['device']}, which is not here ({str(error).splitlines()[0]}). "
                "Move it with .to('cpu') before it is pickled, or use save and load(path, device=...)"
            ) from error
        if "path" in state:
            file = faiss_io.MappedFile(state["path"])
            if file.version != state["version"]:
                raise ValueError(f"{file.source} is not the one that the pickled HammingIndex was mapped from. Pickle it again")
            self.__dict__.update(self._of_map(file, state["device"]).__dict__)
        else:
            HammingIndex.__init__(self, state["bits"], state["device"], storage=state["storage"])
            self._take(state["codes"], None if state["ids"] is None else ExternalIds(as_tensor(state["ids"])))
        self.chunk_bytes = state["chunk_bytes"]

    # ---- inside ------------------------------------------------------------------------------------------------------------

    @classmethod
    def _of(cls, contents: faiss_io.Contents, device: torch.device | str | None, source: str) -> "HammingIndex":
        codes, ids = contents
        index = cls(8 * codes.shape[1], "cpu")
        index._buffer, index._count = torch.from_numpy(codes), len(codes)
        if ids is not None:
            check_ids(source, ids)
            index._ids = ExternalIds(torch.from_numpy(ids))
        return index.to(torch.empty(0, device=device).device)

    @classmethod
    def _of_map(cls, file: faiss_io.MappedFile, device: torch.device | str | None) -> "HammingIndex":
        index = cls(8 * file.codes.shape[1], device)
        index._file, index._count = file, len(file.codes)
        index._buffer = torch.from_numpy(file.codes)
        index._ids = None if file.id_bytes is None else MappedIds(file)
        return index

    def _take(self, codes: Tensor, ids: ExternalIds | None) -> None:
        """Hold a copy of `codes` and of their ids; for an index that is empty."""
        self._ids, self._count = None if ids is None else ids.copied(self._home), self._filled(codes)

    def _room(self, count: int) -> Tensor:
        """Fresh memory for `count` codes, where this index keeps them."""
        pinned = self._storage == "host" and self._device.type != "cpu"
        device = torch.device("cpu") if pinned else self._device
        with torch.inference_mode(False):  # or spare rows could be filled in that mode alone
            return torch.empty(count, self.bits // 8, dtype=torch.uint8, device=device, pin_memory=pinned)

    @property
    def _home(self) -> torch.device:
        """Where the codes and ids lie."""
        return self._buffer.device

    @property
    def _streams(self) -> bool:
        return self._file is not None or self._home != self._device

    def _check_file(self) -> None:
        if self._file is not None:
            self._file.check()

    def _writable(self, method: str) -> None:
        if self._file is not None:
            raise RuntimeError(
                f"HammingIndex.{method}: the codes lie in {self._file.source}, which is only read. "
                'Bring them into memory with .to("cpu") or .copy() first'
            )

    def _codes(self, op: str, name: str, codes: Any) -> Tensor | np.ndarray:
        """`codes` if they are packed codes of this width; an array stays one, as it may be a memmap that does not fit memory."""
        if isinstance(codes, np.ndarray) and codes.dtype == np.uint8 and codes.ndim == 2 and codes.shape[1] == self.bits // 8:
            return codes
        checked = checks.codes(op, name, as_tensor(codes))
        if checked.shape[1] != self.bits // 8:
            raise ValueError(
                f"{op}: {name} must be [N, {self.bits // 8}] for an index of {self.bits} bits; got {checks.describe(checked)}, "
                f"which is {8 * checked.shape[1]} bits"
            )
        return checked

    def _queries(self, op: str, queries: Any) -> Tensor:
        checked = self._codes(op, "queries", queries)
        if isinstance(checked, np.ndarray):
            return as_tensor(checked).to(self._device)
        if checked.device != self._device:
            raise ValueError(
                f"{op}: queries are on {checked.device}, the index searches on {self._device}. "
                f"Move them with .to({str(self._device)!r})"
            )
        return checked

    def _filled(self, codes: Tensor | np.ndarray) -> int:
        """Copy `codes` behind those held; returns how many codes there are then."""
        total = self._count + len(codes)
        if total > len(self._buffer):
            grown = self._room(max(total, 2 * len(self._buffer)))
            _copy(self.codes, grown)
            self._buffer = grown
        _copy(codes, self._buffer[self._count :])
        return total

    def _selected(self, keep: np.ndarray, count: int) -> Tensor:
        """The codes of the `count` positions where `keep` is True."""
        rest, filled = self._room(count), 0
        for start in range(0, self._count, _COPIED_ROWS):
            here = torch.from_numpy(keep[start : start + _COPIED_ROWS]).to(self._home)
            part = self._buffer[start : start + len(here)][here]
            rest[filled : filled + len(part)] = part
            filled += len(part)
        return rest

    def _positions(self, op: str, ids: np.ndarray) -> Tensor:
        """The positions of `ids`, int64 [M] in host memory.

        Raises:
            IndexError: some do not exist.
        """
        if self._ids is None:
            positions, there = ids, (ids >= 0) & (ids < self._count)
        else:
            positions, there = self._ids.find(ids)
        if not there.all():
            raise IndexError(f"{op}: {shown(ids[~there])} not in the index, which holds {self._count} codes")
        return torch.from_numpy(positions)

    def _codes_at(self, positions: Tensor) -> Tensor:
        """A copy of the codes at `positions` [M], uint8 [M, bits/8], where the gallery lies."""
        self._check_file()
        return self.codes[positions.to(self._home)]

    def _ids_at(self, positions: Tensor) -> Tensor:
        return positions if self._ids is None else self._ids.at(positions)

    def _allowed(self, op: str, mask: Any, ids: Any, exclude_ids: Any) -> "_Allowed":
        """The codes that may be found."""
        self._check_file()
        if mask is not None:
            mask = self._mask(op, mask)
        if exclude_ids is not None:
            mask = torch.ones(self._count, dtype=torch.bool, device=self._home) if mask is None else mask.clone()
            mask[self._positions(op, integers(op, "exclude_ids", exclude_ids)).to(mask.device)] = False
        if ids is None:
            return _Allowed(self.codes, mask, None)
        positions = self._positions(op, integers(op, "ids", ids)).unique()
        if mask is not None:
            positions = positions[mask[positions.to(mask.device)].cpu()]
        return _Allowed(self._codes_at(positions), None, positions.to(self._device))

    def _mask(self, op: str, value: Any) -> Tensor:
        mask = position_mask(op, "mask", value, self._count)
        if isinstance(value, np.ndarray):
            return mask.to(self._home)
        if mask.device not in (self._device, self._home):
            raise ValueError(f"{op}: mask is on {mask.device}, the codes on {self._home}. Move it with .to({str(self._home)!r})")
        return mask

    def _nearest(self, queries: Tensor, k: int, allowed: "_Allowed") -> tuple[Tensor, Tensor]:
        """(distances, positions) [Q, k]."""
        if self._streams:
            distances, positions = nearest_streamed(
                queries, allowed.codes, k, mask=allowed.mask, chunk_bytes=self.chunk_bytes, check=self._check_file
            )
        else:
            distances, positions = nearest(queries, allowed.codes, k, mask=allowed.mask)
        return distances, allowed.whole(positions)


class _Allowed(NamedTuple):
    """What a search looks at."""

    codes: Tensor  # uint8 [N, bits/8]
    mask: Tensor | None  # bool [N]: which of them may be found; None for all
    positions: Tensor | None  # int64 [N] ascending: where they stand in the index; None where `codes` are its own

    def whole(self, positions: Tensor) -> Tensor:
        """Positions among `codes`, or -1, as positions in the index."""
        if self.positions is None or len(self.positions) == 0:
            return positions
        return torch.where(positions < 0, positions, self.positions[positions.clamp_min(0)])


def _copy(codes: Tensor | np.ndarray, target: Tensor) -> None:
    """Fill the first rows of `target`, piece by piece: torch would copy a whole array that is read-only, or on another device."""
    for start in range(0, len(codes), _COPIED_ROWS):
        part = as_tensor(codes[start : start + _COPIED_ROWS])
        target[start : start + len(part)] = part


def _faiss(method: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"HammingIndex.{method} needs faiss. Install it with: pip install faiss-cpu") from error
    return faiss
