"""An exact Hamming index whose gallery is spread over the processes of a torch.distributed group."""

import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._base import checks
from ..ops.hamming_range import limits_of
from ..ops.hamming_topk import MISSING_DISTANCE, MISSING_ID
from . import _folder, _planned, _saving, _side_file
from ._arguments import ids_of_codes, integers, is_mask, neighbour_count
from ._building import learn_from_codes
from ._exact_index import ChooseIds, ExactIndex
from ._explanation import Explanation
from ._gallery import Filters, Gallery
from ._planner import Planner
from ._ranks import Ranks
from ._shards import Question, Shards, summary
from .index import HammingIndex, cell_of, index_of
from .rerank import Rerank, check_rerank


class ShardedHammingIndex(ExactIndex):
    """An index whose gallery is split into parts, called shards, one for each process of a torch.distributed group.

    All methods, but not the properties, are collective: all ranks of the group call the same methods in the same order, as
    scripts under torchrun do. Only one call at a time may run in a process, because the messages of two threads would mix. Every
    rank gets the same answer, which equals bit for bit that of one HammingIndex over the shards joined in the order of the ranks.
    An error on one rank (bad input, a missing file) is raised on all ranks and names the rank; the index is then unchanged,
    because a change takes place on all ranks or on none. Messages use the backend of the group: NCCL between GPUs, gloo between
    CPUs.

    Positions are counted over the shards in the order of the ranks, as in `faiss.IndexShards` with successive ids. Therefore
    codes that are added on a lower rank move the positions on all higher ranks. Ids given to `add_with_ids` do not change.

    Args:
        bits: The number of bits of a code, a positive multiple of 8.
        group: The processes; None for all.
        device: The device of this rank's shard, by default the CPU. All ranks use one kind of device.

    Raises:
        RuntimeError: torch.distributed has no process group.
        ValueError: This process is not in `group`, or the ranks have different `bits` or kinds of devices.

    Example:
        One process is enough to try it; scripts under torchrun call `init_process_group("gloo")` or `("nccl")` instead.

        >>> import numpy as np
        >>> import torch
        >>> import orthohash_triton as oht
        >>> torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        >>> index = oht.ShardedHammingIndex(8)
        >>> index.add_split(np.array([[0b0000], [0b0011], [0b1111]], np.uint8))
        >>> distances, ids = index.search(np.array([[0b0111]], np.uint8), k=2)
        >>> distances.tolist(), ids.tolist()
        ([[1, 1]], [[1, 2]])
        >>> torch.distributed.destroy_process_group()
    """

    _name = "ShardedHammingIndex"

    def __init__(self, bits: int, group: Any = None, device: torch.device | str | None = None) -> None:
        self._adopt("ShardedHammingIndex", Ranks("ShardedHammingIndex", group), lambda: HammingIndex(bits, device))

    @classmethod
    def from_shard(cls, shard: HammingIndex, group: Any = None) -> "ShardedHammingIndex":
        """Return an index whose part on this rank is `shard`, which is not copied.

        In this way shards can be filled rank by rank, without waiting for each other. Afterwards change them through the sharded
        index only.

        Raises:
            TypeError, ValueError: `shard` is not a HammingIndex; the shards have different bits, kinds of devices or kinds of
                ids; or two ranks hold the same id.
        """
        op = "ShardedHammingIndex.from_shard"
        index = cls.__new__(cls)
        index._adopt(op, Ranks(op, group), lambda: _checked_shard(op, shard))
        index._shards.check_unique_ids(op)
        return index

    @property
    def bits(self) -> int:  # type: ignore[override]
        """The number of bits of a code."""
        return self._shard.bits

    @property
    def ntotal(self) -> int:
        """The number of codes on all ranks."""
        return sum(self._sizes)

    @property
    def shard(self) -> HammingIndex:
        """This rank's part, for reading: its positions count from 0. Change it through the sharded index only."""
        return self._shard

    @property
    def shard_sizes(self) -> list[int]:
        """The number of codes on each rank."""
        return list(self._sizes)

    @property
    def offset(self) -> int:
        """The position of this rank's first code, which is the number of codes on all lower ranks."""
        return sum(self._sizes[: self._ranks.rank])

    @property
    def device(self) -> torch.device:
        """The device on which this rank searches."""
        return self._shard.device

    def __repr__(self) -> str:
        return (
            f"ShardedHammingIndex(bits={self.bits}, ntotal={self.ntotal}, rank={self._ranks.rank} of {self._ranks.size}, "
            f"shard={self._shard!r})"
        )

    # ---- changes -----------------------------------------------------------------------------------------------------------

    def add(self, codes: Tensor | np.ndarray) -> None:
        """Append packed codes, uint8 [N, bits/8], to this rank's shard. Each rank passes its own, or none: [0, bits/8].

        Raises:
            TypeError, ValueError: `codes` are not packed codes of this width.
            RuntimeError: The index has ids of its own, or a shard is a mapped file.
        """
        op, shards = "ShardedHammingIndex.add", self._shards
        new = shards.agree(op, lambda: shards.check_addition(op, codes, adds_ids=False))
        self._change(op, lambda gallery: gallery.added(new))

    def add_split(self, codes: Tensor | np.ndarray) -> None:
        """Append `codes`, uint8 [N, bits/8], equal on all ranks: each rank keeps one run of about N / ranks of them.

        In an index that was empty, the positions are then the rows of `codes`. Of an array in a file (`np.memmap`) each rank
        reads only its run.

        Raises:
            TypeError, ValueError, RuntimeError: As `add`, or the ranks pass different numbers of codes.
        """
        op, shards = "ShardedHammingIndex.add_split", self._shards
        whole = shards.agree(
            op,
            lambda: shards.check_addition(op, codes, adds_ids=False),
            lambda whole: {"the number of codes": len(whole)},
        )
        self._change(op, lambda gallery: gallery.added(whole[self._ranks.share(len(whole))]))

    def add_with_ids(self, codes: Tensor | np.ndarray, ids: Any) -> None:
        """Append packed codes, uint8 [N, bits/8], to this rank's shard under `ids`: N integers of int64 except -1.

        Each id occurs once on all ranks together.

        Raises:
            TypeError, ValueError: `codes` are not packed codes of this width, or `ids` have another length, are repeated, or are
                in the index already.
            RuntimeError: The index holds codes without ids, or a shard is a mapped file.
        """
        op, shards = "ShardedHammingIndex.add_with_ids", self._shards

        def checked() -> tuple[Tensor | np.ndarray, np.ndarray]:
            new = shards.check_addition(op, codes, adds_ids=True)
            return new, ids_of_codes(op, ids, len(new))

        new, numbers = shards.agree(op, checked)
        shards.check_new_ids(op, numbers)
        self._change(op, lambda gallery: gallery.added_with_ids(new, numbers))

    def remove_ids(self, ids: Any) -> int:
        """Remove codes and return how many, over all ranks.

        The codes that remain keep their order and move up, so ids that are positions change, as in FAISS.

        Args:
            ids: Integers, equal on all ranks (a repeated one counts once), or a bool mask over this rank's shard, True for the
                codes to remove.

        Raises:
            IndexError: No rank holds some of `ids`; nothing is removed then.
            TypeError, ValueError: `ids` are neither integers nor a mask as long as the shard.
            RuntimeError: A shard is a mapped file.
        """
        op, shards = "ShardedHammingIndex.remove_ids", self._shards

        def checked() -> Any:
            shards.gallery.check_writable(op)
            return shards.check_mask(op, "ids", ids) if is_mask(ids) else integers(op, "ids", ids, ntotal=shards.ntotal)

        removed = shards.agree(op, checked, lambda ids: {"ids": "a mask" if is_mask(ids) else summary(ids)})
        if not is_mask(removed):
            removed = shards.ids_here(op, removed)
        self._change(op, lambda gallery: gallery.without(op, removed))
        return shards.ntotal - self.ntotal

    def merge_from(self, other: "ShardedHammingIndex") -> None:
        """Append each shard of `other` to this index's shard on the same rank, with ids if it has any, and empty `other`.

        Therefore the codes of `other` do not come last by position, except on the last rank; ids of your own identify them.

        Raises:
            TypeError, ValueError: `other` is not another ShardedHammingIndex of the same bits over the same ranks, or has ids
                that are in this index.
            RuntimeError: One index has ids of its own and the other does not, or a shard of this index is a mapped file.
        """
        op, shards = "ShardedHammingIndex.merge_from", self._shards

        def checked() -> np.ndarray:
            """Return the ids that `other` holds on this rank after checking that the indexes can be merged."""
            if not isinstance(other, ShardedHammingIndex):
                raise TypeError(f"{op}: other must be a ShardedHammingIndex; got {checks.describe(other)}")
            if other is self:
                raise ValueError(f"{op}: other must be another index")
            if other.bits != self.bits or (other._ranks.rank, other._ranks.size) != (self._ranks.rank, self._ranks.size):
                raise ValueError(f"{op}: other must hold codes of {self.bits} bits on the same ranks; got {other}")
            if other.ntotal:
                shards.check_addition(op, other._shard.codes, adds_ids=other._with_ids)
            ids = other._shard.ids
            return np.empty(0, np.int64) if ids is None else ids.cpu().numpy()

        shards.check_new_ids(op, shards.agree(op, checked, lambda _: {"other": (other._sizes, other._with_ids)}))
        self._change(op, lambda gallery: gallery.merged(op, other._shards.gallery))
        other.reset()

    def reset(self) -> None:
        """Remove all codes and ids and free their memory; a mapped file is closed and not changed."""
        self._change("ShardedHammingIndex.reset", Gallery.cleared)

    def to(self, device: torch.device | str, *, storage: Literal["device", "host"] = "device") -> "ShardedHammingIndex":
        """Move this rank's shard to `device`, of one kind on all ranks, and return the index; `storage` as for `HammingIndex`."""
        op = "ShardedHammingIndex.to"

        def checked() -> torch.device:
            checks.choice(op, "storage", storage, ("device", "host"))
            return torch.device(device)

        self._shards.agree(op, checked, lambda target: {"the kind of device": target.type})
        self._change(op, lambda gallery: gallery.moved(device, storage))
        return self

    # ---- searches ----------------------------------------------------------------------------------------------------------

    def _search(self, queries: Any, k: Any, filters: Filters, rerank: Rerank | None) -> tuple[Tensor, Tensor]:
        """Return the answer of `search` as tensors; collective."""
        op, shards = "ShardedHammingIndex.search", self._shards
        own = shards.own_filters(op, filters)

        def ask() -> Question:
            checked = shards.gallery.check_queries(op, queries)
            depth = neighbour_count(op, k, len(checked), shards.ntotal)
            facts = {"the filters": _given(filters), "queries": summary(checked), "k": depth}
            if rerank is not None:
                check_rerank(op, rerank, checked, shards.gallery.count)
                depth = rerank.shortlist(depth, shards.ntotal)
                facts |= {
                    "rerank.queries": summary(rerank.queries),
                    "rerank": (rerank.metric, rerank.k_factor, rerank.check_signs),
                }
            return Question(checked, min(depth, shards.ntotal), shards.allowed(op, own), facts)

        values, positions = shards.nearest(op, cell_of(self._shard), ask, self._shard.chunk_bytes)
        if rerank is not None:
            values, positions = shards.reranked(op, rerank, shards.gallery.check_queries(op, queries), positions, k)
        short = k - positions.shape[1]
        values = F.pad(values, (0, short), value=MISSING_DISTANCE)
        ids = F.pad(shards.ids_at(positions), (0, short), value=MISSING_ID)
        return values.to(self.device), ids.to(self.device)

    def _range_search(self, queries: Any, radius: Any, inclusive: bool, filters: Filters) -> tuple[Tensor, Tensor, Tensor]:
        """Return the answer of `range_search` as tensors; collective."""
        op, shards = "ShardedHammingIndex.range_search", self._shards
        own = shards.own_filters(op, filters)

        def found() -> tuple[dict[str, Any], Tensor, Tensor]:
            """Return the facts to compare, and the lims and keys that this rank's shard found."""
            cell, gallery = cell_of(self._shard), shards.gallery
            checked, limit = gallery.check_queries(op, queries), gallery.check_radius(radius)
            allowed = shards.allowed(op, own)
            limits = limits_of(limit, inclusive, checked)
            lims, distances, positions = _planned.within(cell, gallery, checked, limits, allowed, self._shard.chunk_bytes)
            facts = {
                "the filters": _given(filters),
                "queries": summary(checked),
                "radius": summary(limit) if isinstance(limit, Tensor) else int(limit),
                "inclusive": bool(inclusive),
            }
            return facts, lims.to(shards.link), shards.keys(distances, positions)

        _, lims, keys = shards.agree(op, found, lambda answer: answer[0])
        lims, keys = shards.joined(lims, keys)
        distances, positions = shards.read(keys)
        return lims.to(self.device), distances.to(self.device), shards.ids_at(positions).to(self.device)

    def _explained(self, op: str, queries: Any, k: int | None, radius: Any, inclusive: bool, filters: Filters) -> Explanation:
        """Return how this rank's shard answers; collective, because all ranks look up the ids of filters."""
        shards = self._shards
        own = shards.own_filters(op, filters)
        return shards.agree(op, lambda: self._shard._explained(op, queries, k, radius, inclusive, own))

    def _build(self, op: str, radius: int | None) -> None:
        self._change(op, lambda gallery: gallery.built(op, self.centres, radius))
        learn_from_codes(cell_of(self._shard))

    @property
    def _planner(self) -> Planner:
        return cell_of(self._shard).planner

    def _codes_of(self, op: str, numbers: ChooseIds) -> Tensor:
        shards = self._shards
        return shards.codes_of(op, lambda: numbers(shards.ntotal, shards.with_ids))

    # ---- files -------------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write each shard to a file in `folder`, which all ranks share, and a manifest that names the files.

        The folder is created if it does not exist. An index that it holds already stays whole and readable until the new one is
        complete, and is then removed. A save that fails or is killed leaves it unchanged. FAISS can read the files of the shards.

        Raises:
            OSError: The folder cannot be written to, or is not shared by all ranks; or another index is being saved into it.
        """
        op, shards = "ShardedHammingIndex.save", self._shards
        home = shards.agree(op, lambda: _folder.folder_at(folder))
        with ExitStack() as stack:  # the first rank owns the folder for all of them
            shards.agree(op, lambda: stack.enter_context(_folder.owning_folder(home)) if self._ranks.rank == 0 else None)
            self._save_into(home)

    def _save_into(self, home: Path) -> None:
        """Write the files of all shards and the manifest into the folder `home`, which no other index is saved into."""
        op, shards = "ShardedHammingIndex.save", self._shards
        token = self._ranks.objects(secrets.token_hex(4))[0]
        path = home / _folder.shard_name(self._ranks.rank, self._ranks.size, token)
        try:
            written = shards.agree(op, lambda: _folder.write_shard(path, shards.gallery))
            manifest = _folder.Manifest(self.bits, shards.with_ids, self._ranks.objects(written))
            shards.agree(op, lambda: _folder.check_seen(home, manifest))
        except Exception:
            for written_file in (path, _side_file.side_of(path)):
                written_file.unlink(missing_ok=True)
            raise
        try:
            shards.agree(op, lambda: _folder.write_manifest(home, manifest) if self._ranks.rank == 0 else None)
        finally:
            shards.agree(op, lambda: _folder.remove_unnamed(home) if self._ranks.rank == 0 else None)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], group: Any = None, device: torch.device | str | None = None, *, mmap: bool = False
    ) -> "ShardedHammingIndex":
        """Read an index that `save` wrote.

        On as many ranks as wrote it, each rank gets the shard that it had. On another number of ranks the codes are split anew,
        in the same order, into shards of about equal size. Each rank reads its own part only, and checks it against its
        checksums.

        Args:
            folder: The folder that `save` wrote.
            group: The processes; None for all.
            device: The device of this rank's shard.
            mmap: Leave each shard in its file, as `HammingIndex.load` does, without checking it. This needs as many ranks as
                wrote the index.

        Raises:
            FileNotFoundError: There is no index in `folder`, or a shard is missing.
            ValueError: A file is damaged, or a shard does not match the manifest.
        """
        op = "ShardedHammingIndex.load"
        ranks, home = Ranks(op, group), Path(folder)
        manifest = ranks.agree(op, lambda: _folder.read_manifest(home), lambda manifest: {"the index": manifest.summary})
        index = cls.__new__(cls)
        index._adopt(op, ranks, lambda: index_of(_read_shard(home, manifest, ranks, device, mmap)))
        learn_from_codes(cell_of(index._shard))
        return index

    # ---- the state of the index --------------------------------------------------------------------------------------------

    @property
    def _shards(self) -> Shards:
        """The current snapshot of the index, on which one call works."""
        return Shards(self._ranks, cell_of(self._shard).gallery, self._sizes, self._with_ids)

    def _adopt(self, op: str, ranks: Ranks, shard: Callable[[], HammingIndex]) -> None:
        """Make the result of `shard` this rank's part of a new index. Collective."""
        self._ranks = ranks
        self._shard = ranks.agree(op, shard, lambda shard: {"bits": shard.bits, "the kind of device": shard.device.type})
        self._learn(Shards.gathered(op, ranks, cell_of(self._shard).gallery))

    def _change(self, op: str, make: Callable[[Gallery], Gallery]) -> None:
        """Replace the shard of every rank by the result of `make`, or no shard if `make` fails on a rank. Collective."""
        shards = self._shards
        changed = shards.agree(op, lambda: make(shards.gallery))
        gathered = Shards.gathered(op, self._ranks, changed)
        cell_of(self._shard).change(lambda _: changed)
        self._learn(gathered)

    def _learn(self, shards: Shards) -> None:
        self._sizes, self._with_ids = shards.sizes, shards.with_ids


def _read_shard(folder: Path, manifest: _folder.Manifest, ranks: Ranks, device: torch.device | str | None, mmap: bool) -> Gallery:
    """Return this rank's part of the index in `folder`."""
    same_ranks = len(manifest.shards) == ranks.size
    if mmap:
        if not same_ranks:
            raise ValueError(
                f"ShardedHammingIndex.load: mmap needs as many ranks as shards; got {ranks.size} ranks for "
                f"{len(manifest.shards)} shards. Load without mmap, or start {len(manifest.shards)} ranks"
            )
        shard = manifest.shards[ranks.rank]
        return _with_side(_folder.open_shard(folder, manifest, shard, device), folder / shard.file, mmap=True)
    if same_ranks:
        start = sum(shard.codes for shard in manifest.shards[: ranks.rank])
        part = slice(start, start + manifest.shards[ranks.rank].codes)
    else:
        part = ranks.share(manifest.ntotal)
    gallery = Gallery.empty(manifest.bits, device).reserved(part.stop - part.start)
    op = "ShardedHammingIndex.load"
    for codes, ids in _folder.read_part(folder, manifest, part.start, part.stop):
        if ids is None:
            gallery = gallery.added(codes)
        else:
            gallery = gallery.added_with_ids(codes, gallery.check_new_ids(op, ids, len(codes)))
    return _with_side(gallery, folder / manifest.shards[ranks.rank].file, mmap=False) if same_ranks else gallery


def _with_side(gallery: Gallery, path: Path, *, mmap: bool) -> Gallery:
    return _saving.with_structures(gallery, path, _side_file.side_of(path), mmap=mmap)


def _checked_shard(op: str, shard: Any) -> HammingIndex:
    if not isinstance(shard, HammingIndex):
        raise TypeError(f"{op}: shard must be a HammingIndex; got {checks.describe(shard)}")
    return shard


def _given(filters: Filters) -> list[str]:
    """Return the names of the id filters that were passed."""
    return [name for name in ("ids", "exclude_ids") if getattr(filters, name) is not None]
