"""An exact Hamming index in one process, stored in files that FAISS reads."""

import os
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._base import checks
from .._base.extras import install
from .._base.file_set import checked
from ..ops.hamming_range import limits_of
from ..ops.hamming_topk import MISSING_DISTANCE, MISSING_ID
from . import _pickling, _planned, _saving, _side_file, faiss_io
from ._arguments import neighbour_count
from ._building import learn_from_codes
from ._cell import Cell
from ._exact_index import ChooseIds, ExactIndex
from ._explanation import Explanation
from ._gallery import Filters, Gallery, Storage
from ._plan import check_mode
from ._planner import Planner
from ._questions import question
from .rerank import Rerank, check_rerank
from .streaming import CHUNK_BYTES

_PLACEMENTS = ("device", "host")


class HammingIndex(ExactIndex):
    """An index of packed codes, whose answers are exact: those of a comparison of each query with all codes.

    Codes and queries are uint8 [N, bits/8] as `pack_codes` makes them, torch tensors or numpy arrays; answers are of the kind of
    the queries. The id of a code is its position in the order of `add`, or the number that `add_with_ids` gave it. All ids of one
    index are of one kind. Codes at equal distances are returned in the order of their positions.

    Several threads may use one index. A search sees the index as it was before or after each change (`add`, `add_with_ids`,
    `remove_ids`, `merge_from`, `reset`, `to`), never between. This holds for all methods and properties that read the index, each
    call on its own: two calls may see two states. Changes by several threads take turns. On a GPU this assumes that all threads
    use one CUDA stream, as they do by default. A forked process may go on using its copy of an index on the CPU; its first
    call sets the number of threads of PyTorch to 1 there, because those of the parent do not exist.

    A large index at rest files its codes when that makes searches faster (see `build`), so that a search meets only those that
    can be near to its queries. The answers stay the same.

    Args:
        bits: The number of bits of a code, a positive multiple of 8. Pad shorter codes with a constant bit: it adds no distance.
        device: Where searches run; by default torch's default device, which is the CPU unless it was changed.
        storage: Where the codes are kept: "device", or "host" for a gallery that does not fit the memory of the GPU. With "host"
            the codes stay in (pinned) host memory, and each search copies them to the GPU in chunks of `chunk_bytes`; the answers
            are the same. On the CPU the two options are equal. The third storage, "file", comes from `load(..., mmap=True)`.
        plan: "auto", or "scan" for an index that compares each query with all codes, whatever `build` has made. The environment
            variable ORTHOHASH_PLAN=scan has this effect on all indexes.

    Raises:
        TypeError: `bits` is not an integer.
        ValueError: `bits` is not a positive multiple of 8, or `storage` or `plan` is not one of the options.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> index = oht.HammingIndex(8)
        >>> index.add(torch.tensor([[0b0000], [0b0011], [0b1111]], dtype=torch.uint8))
        >>> distances, ids = index.search(torch.tensor([[0b0001]], dtype=torch.uint8), k=2)
        >>> distances.tolist(), ids.tolist()
        ([[1, 1]], [[0, 1]])
    """

    _name = "HammingIndex"

    _chunk_bytes: int = CHUNK_BYTES

    def __init__(
        self,
        bits: int,
        device: torch.device | str | None = None,
        *,
        storage: Literal["device", "host"] = "device",
        plan: Literal["auto", "scan"] = "auto",
    ) -> None:
        self.bits = checks.integer("HammingIndex", "bits", bits, minimum=1, maximum=checks.MOST_BITS)
        if self.bits % 8:
            raise ValueError(
                f"HammingIndex: bits must be a multiple of 8; got {bits}. "
                f"Pad the codes to {self.bits + 8 - self.bits % 8} bits: equal bits add no distance"
            )
        checks.choice("HammingIndex", "storage", storage, _PLACEMENTS)
        self._cell = Cell(Gallery.empty(self.bits, device, storage), Planner(check_mode("HammingIndex", plan)))

    @property
    def ntotal(self) -> int:
        """The number of codes."""
        return self._cell.gallery.count

    @property
    def device(self) -> torch.device:
        """The device on which searches run."""
        return self._cell.gallery.device

    @property
    def storage(self) -> Storage:
        """Where the codes are kept: "device", "host" or "file"."""
        return self._cell.gallery.storage

    @property
    def codes(self) -> Tensor:
        """The codes, uint8 [ntotal, bits/8], where they are kept: a view of the index's own memory, which must not be written to.

        Later changes of the index do not show in it.
        """
        return self._cell.gallery.codes

    @property
    def ids(self) -> Tensor | None:
        """The ids given to `add_with_ids` by position, int64 [ntotal], or None if the ids are the positions."""
        return self._cell.gallery.id_values()

    @property
    def chunk_bytes(self) -> int:
        """The bytes of codes that a search reads at a time if they are not on the device that searches; it can be set.

        Raises:
            TypeError, ValueError: It is set to something else than an integer of 1 or more.
        """
        return self._chunk_bytes

    @chunk_bytes.setter
    def chunk_bytes(self, value: int) -> None:
        self._chunk_bytes = checks.integer("HammingIndex", "chunk_bytes", value, minimum=1)

    def __repr__(self) -> str:
        gallery = self._cell.gallery
        storage = "" if gallery.storage == "device" else f", storage={gallery.storage!r}"
        kind = "" if gallery.ids is None else ", with ids"
        return f"HammingIndex(bits={self.bits}, ntotal={gallery.count}, device={str(gallery.device)!r}{storage}{kind})"

    # ---- changes -----------------------------------------------------------------------------------------------------------

    def add(self, codes: Tensor | np.ndarray) -> None:
        """Append packed codes, uint8 [N, bits/8], from any device; their ids continue from `ntotal`.

        The memory grows by doubling, so that many small additions cost no more than a few large ones.

        Raises:
            TypeError, ValueError: `codes` are not packed codes of this width.
            RuntimeError: The index has ids of its own, or is a mapped file.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add(np.array([[5], [7]], np.uint8))
            >>> index.add(np.array([[9]], np.uint8))
            >>> len(index)
            3
        """
        op = "HammingIndex.add"

        def added(gallery: Gallery) -> Gallery:
            return gallery.added(gallery.check_addition(op, codes, adds_ids=False))

        self._cell.change(added)

    def add_with_ids(self, codes: Tensor | np.ndarray, ids: Any) -> None:
        """Append packed codes, uint8 [N, bits/8], under `ids`: N integers of int64 except -1, each of them once in the index.

        Raises:
            TypeError, ValueError: `codes` are not packed codes of this width, or `ids` have another length, are repeated, or are
                in the index already.
            RuntimeError: The index holds codes without ids, or is a mapped file.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add_with_ids(np.array([[5], [7]], np.uint8), [30, 10])
            >>> index.search(np.array([[7]], np.uint8), 1)[1].tolist()
            [[10]]
        """
        op = "HammingIndex.add_with_ids"

        def added(gallery: Gallery) -> Gallery:
            new = gallery.check_addition(op, codes, adds_ids=True)
            return gallery.added_with_ids(new, gallery.check_new_ids(op, ids, len(new)))

        self._cell.change(added)

    def remove_ids(self, ids: Any) -> int:
        """Remove codes and return how many.

        The codes that remain keep their order and move up, so ids that are positions change, as in FAISS.

        Args:
            ids: Integers (a tensor, an array or a sequence; a repeated one counts once), or a bool mask [ntotal] over positions,
                True for the codes to remove.

        Raises:
            IndexError: The index does not hold all `ids`; nothing is removed then.
            TypeError, ValueError: `ids` are neither integers nor a mask of that length.
            RuntimeError: The index is a mapped file.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add(np.array([[5], [7], [9]], np.uint8))
            >>> index.remove_ids([0])
            1
            >>> index.codes.tolist()
            [[7], [9]]
        """
        op = "HammingIndex.remove_ids"

        def reduced(gallery: Gallery) -> Gallery:
            gallery.check_writable(op)
            return gallery.without(op, ids)

        before, after = self._cell.change(reduced)
        return before.count - after.count

    def merge_from(self, other: "HammingIndex") -> None:
        """Append the codes of `other`, with its ids if it has any, and empty `other`.

        Raises:
            TypeError, ValueError: `other` is not another HammingIndex of the same bits, or has ids that are in this index.
            RuntimeError: One index has ids of its own and the other does not, or this index is a mapped file.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index, other = oht.HammingIndex(8), oht.HammingIndex(8)
            >>> other.add(np.array([[5], [7]], np.uint8))
            >>> index.merge_from(other)
            >>> len(index), len(other)
            (2, 0)
        """
        op = "HammingIndex.merge_from"
        if not isinstance(other, HammingIndex):
            raise TypeError(f"{op}: other must be a HammingIndex; got {checks.describe(other)}")
        if other is self:
            raise ValueError(f"{op}: other must be another index. Use copy() to add an index to itself")
        if other.bits != self.bits:
            raise ValueError(f"{op}: other must hold codes of {self.bits} bits; got {other.bits}")
        with self._cell.changing_with(other._cell):
            self._cell.change(lambda gallery: gallery.merged(op, other._cell.gallery))
            other._cell.change(Gallery.cleared)

    def reset(self) -> None:
        """Remove all codes and ids and free their memory; a mapped file is closed and not changed.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add(np.array([[5]], np.uint8))
            >>> index.reset()
            >>> len(index)
            0
        """
        self._cell.change(Gallery.cleared)

    def to(self, device: torch.device | str, *, storage: Literal["device", "host"] = "device") -> "HammingIndex":
        """Move the codes to `device` in place, so that searches run there, and return the index.

        Args:
            device: Where searches run from now on.
            storage: As for `HammingIndex`. A mapped file is read into memory, after which the index can be changed.

        Example:
            >>> import orthohash_triton as oht
            >>> oht.HammingIndex(64).to("cpu", storage="host")
            HammingIndex(bits=64, ntotal=0, device='cpu', storage='host')
        """
        checks.choice("HammingIndex.to", "storage", storage, _PLACEMENTS)
        self._cell.change(lambda gallery: gallery.moved(device, storage))
        return self

    def copy(self) -> "HammingIndex":
        """Return an independent index with the same codes and ids, on the same device; a mapped file is read into memory.

        Example:
            >>> import orthohash_triton as oht
            >>> oht.HammingIndex(64).copy()
            HammingIndex(bits=64, ntotal=0, device='cpu')
        """
        gallery = self._cell.gallery
        copied = index_of(gallery.copied(gallery.device, gallery.placement if gallery.file is None else "host"))
        copied.chunk_bytes = self.chunk_bytes
        copied._cell.planner = self._cell.planner.copy()
        return copied

    def __copy__(self) -> "HammingIndex":
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> "HammingIndex":
        return self.copy()

    # ---- implementation of ExactIndex --------------------------------------------------------------------------------------

    def _search(self, queries: Any, k: Any, filters: Filters, rerank: Rerank | None) -> tuple[Tensor, Tensor]:
        """Return the answer of `search` as tensors."""
        op, gallery = "HammingIndex.search", self._cell.gallery
        checked = gallery.check_queries(op, queries)
        k = neighbour_count(op, k, len(checked), gallery.count)
        if rerank is not None:
            check_rerank(op, rerank, checked, gallery.count)
        allowed = gallery.allowed(op, filters)
        depth = k if rerank is None else rerank.shortlist(k, gallery.count)
        values, positions = _planned.nearest(self._cell, gallery, checked, depth, allowed, self.chunk_bytes)
        if rerank is not None:
            values, positions = gallery.reranked(op, rerank, checked, positions, k)
        ids = gallery.ids_at(positions)
        if (short := k - positions.shape[1]) > 0:
            values, ids = F.pad(values, (0, short), value=MISSING_DISTANCE), F.pad(ids, (0, short), value=MISSING_ID)
        return values, ids

    def _range_search(self, queries: Any, radius: Any, inclusive: bool, filters: Filters) -> tuple[Tensor, Tensor, Tensor]:
        op, gallery = "HammingIndex.range_search", self._cell.gallery
        checked = gallery.check_queries(op, queries)
        limits = limits_of(gallery.check_radius(radius), inclusive, checked)
        allowed = gallery.allowed(op, filters)
        lims, distances, positions = _planned.within(self._cell, gallery, checked, limits, allowed, self.chunk_bytes)
        return lims, distances, gallery.ids_at(positions)

    def _explained(self, op: str, queries: Any, k: int | None, radius: Any, inclusive: bool, filters: Filters) -> Explanation:
        gallery = self._cell.gallery
        checked = gallery.check_queries(op, queries)
        k = None if k is None else neighbour_count(op, k, len(checked), gallery.count)
        limits = None if radius is None else limits_of(gallery.check_radius(radius), inclusive, checked)
        allowed = gallery.allowed(op, filters)
        return _planned.explained(self._cell, question(gallery, checked, allowed, self.chunk_bytes, k=k, limits=limits))

    def _build(self, op: str, radius: int | None) -> None:
        self._cell.change(lambda gallery: gallery.built(op, self.centres, radius))
        learn_from_codes(self._cell)

    @property
    def _planner(self) -> Planner:
        return self._cell.planner

    def _codes_of(self, op: str, numbers: ChooseIds) -> Tensor:
        gallery = self._cell.gallery
        ids = numbers(gallery.count, gallery.ids is not None)
        return gallery.codes_at(gallery.positions_of(op, ids)).to(gallery.device)

    # ---- files and FAISS ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str] | BinaryIO, *, checksum: bool = False, structures: bool = True) -> None:
        """Write the index to a file that `faiss.read_index_binary` reads: an `IndexBinaryFlat`, with ids an `IndexBinaryIDMap2`.

        A save that fails or is killed leaves the old file at `path` unchanged. A mapped index can be saved over its own file.

        Args:
            path: The file, or a file that is open for writing bytes.
            checksum: Whether to write a second file, `<path>.files.json`, with the size and checksum of the index, which FAISS's
                format lacks. `load` compares them, except with `mmap=True`. A save over an index with such a file renews it.
            structures: Whether to write what `build` has made to the side file `<path>.oht`, from which `load` reads it. Without
                it the side file of an earlier index is removed.

        Example:
            >>> import os, tempfile
            >>> import orthohash_triton as oht
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     oht.HammingIndex(64).save(os.path.join(folder, "empty.ibxf"))
            ...     os.path.getsize(os.path.join(folder, "empty.ibxf"))
            33
        """
        _saving.save(path, self._cell.gallery, checksum=checksum, structures=structures)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: torch.device | str | None = None,
        mmap: bool = False,
        *,
        structures: bool | str | os.PathLike[str] = True,
    ) -> "HammingIndex":
        """Read an index file written by `save` or FAISS.

        `faiss.write_index_binary` may have written it from an `IndexBinaryFlat`, or from an `IndexBinaryIDMap` or
        `IndexBinaryIDMap2` around one.

        Args:
            path: The file.
            device: Where searches run.
            mmap: Leave the codes in the file, which may be larger than memory. A search reads them there on the CPU, or copies
                them to the GPU that `device` names in chunks. The index cannot be changed until `to` or `copy` reads it into
                memory. Pickled, it is the path of its file. The ids are read only when they are needed: whether they are unique
                is checked when one is looked up, and when the index is copied or saved.
            structures: Whether to read the side file `<path>.oht`, or with `mmap` to map it after reading it once for its
                checks. One that is damaged or belongs to other codes is ignored with a warning. The path of a side file: it must
                fit, or an error is raised.

        Raises:
            FileNotFoundError: The file, or the side file that `structures` names, does not exist.
            ValueError: The file is truncated, damaged or another kind of index, or its ids are not unique; or it does not have
                the checksum that a file written by `save(..., checksum=True)` names.

        Example:
            >>> import os, tempfile
            >>> import orthohash_triton as oht
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     oht.HammingIndex(64).save(os.path.join(folder, "empty.ibxf"))
            ...     oht.HammingIndex.load(os.path.join(folder, "empty.ibxf"))
            HammingIndex(bits=64, ntotal=0, device='cpu')
        """
        place = checked(path, check=not mmap)
        if mmap:
            gallery = Gallery.mapped(faiss_io.MappedFile(place), device)
        else:
            gallery = Gallery.of_contents(faiss_io.read(place), device, f"index file {path}")
        if structures is not False:
            side = _side_file.side_of(path) if structures is True else Path(structures)
            gallery = _saving.with_structures(gallery, place, side, mmap=mmap, required=structures is not True)
        index = index_of(gallery, cls)
        learn_from_codes(index._cell)
        return index

    @classmethod
    def from_faiss(cls, index: Any, device: torch.device | str | None = None) -> "HammingIndex":
        """Copy a `faiss.IndexBinaryFlat`, or an `IndexBinaryIDMap` or `IndexBinaryIDMap2` around one with its ids.

        Raises:
            ImportError: faiss is not installed.
            TypeError: `index` is not a binary FAISS index.
            ValueError: `index` is a binary index of another kind, or its ids are not unique.

        Example:
            >>> import faiss
            >>> import orthohash_triton as oht
            >>> oht.HammingIndex.from_faiss(faiss.IndexBinaryFlat(64))
            HammingIndex(bits=64, ntotal=0, device='cpu')
        """
        faiss = _faiss("from_faiss")
        if not isinstance(index, faiss.IndexBinary):
            raise TypeError(f"HammingIndex.from_faiss: index must be a faiss.IndexBinaryFlat; got {checks.describe(index)}")
        source = f"HammingIndex.from_faiss: {type(index).__name__}"
        contents = faiss_io.decode(faiss.serialize_index_binary(index), source)
        return index_of(Gallery.of_contents(contents, device, source), cls)

    def to_faiss(self) -> Any:
        """Return a `faiss.IndexBinaryFlat` with a copy of the codes; with ids a `faiss.IndexBinaryIDMap2` around one.

        Raises:
            ImportError: faiss is not installed.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add(np.array([[5], [7]], np.uint8))
            >>> index.to_faiss().ntotal
            2
        """
        faiss = _faiss("to_faiss")
        codes, ids = self._cell.gallery.exported()
        index = faiss.IndexBinaryFlat(self.bits)
        if ids is None:
            index.add(codes)
            return index
        index = faiss.IndexBinaryIDMap2(index)
        index.add_with_ids(codes, ids)
        return index

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: the codes and ids as arrays, or the path of a mapped file."""
        return {"bits": self.bits, "chunk_bytes": self.chunk_bytes, **_pickling.state_of(self._cell)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled index on the device where it was."""
        self.bits, self.chunk_bytes, self._cell = state["bits"], state["chunk_bytes"], _pickling.cell_from(state)


def index_of(gallery: Gallery, kind: type[HammingIndex] = HammingIndex) -> HammingIndex:
    """Return an index of the class `kind` that holds `gallery`."""
    index = kind.__new__(kind)
    index.bits, index._cell = gallery.bits, Cell(gallery)
    return index


def cell_of(index: HammingIndex) -> Cell:
    """Return the cell that holds the gallery of `index`. A sharded index uses the cell of its shard."""
    return index._cell


def _faiss(method: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"HammingIndex.{method} needs faiss. Install it with: {install('faiss-cpu', extra='faiss')}") from error
    return faiss
