"""One gallery over many processes: each holds a part, and an answer is that of one index over all of it."""

import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._base import checks
from .._base.arrays import as_tensor
from ..ops.hamming_range import hamming_range
from ..ops.hamming_topk import MISSING_DISTANCE, MISSING_ID
from . import _folder, _selection
from ._arguments import consecutive_ids, in_kind, integers
from ._external_ids import check_ids, shown
from ._ranks import Ranks
from .index import HammingIndex, _Allowed
from .rerank import Rerank, reranked
from .streaming import range_streamed

T = TypeVar("T")

_IDS_A_MESSAGE = 2**20


class ShardedHammingIndex:
    """A `HammingIndex` whose gallery is spread over the processes of a torch.distributed group, in one part, or shard, for each.

    Every method is collective: all ranks of the group call the same methods in the same order, as torchrun scripts do. An answer
    is bit for bit that of one HammingIndex over the shards joined in the order of the ranks, and it comes on every rank. An error
    on one rank (bad input, a missing file) is raised on all of them and names the rank; the index then is as it was. Messages go
    over the group's own backend: NCCL between GPUs, gloo between CPUs.

    The position of a code counts from the first shard on, as in `faiss.IndexShards` with successive ids: what is added on a lower
    rank moves the positions of all higher ranks. Ids of your own (`add_with_ids`) stay.

    Args:
        bits: K, a positive multiple of 8.
        group: the processes; None for all.
        device: where this rank's shard lives; the CPU unless said otherwise. One kind of device for all ranks.

    Raises:
        RuntimeError: torch.distributed has no process group.
        ValueError: this process is not in `group`, or the ranks disagree about `bits` or the kind of device.

    Example:
        A gallery too large for one GPU, in a script `search.py` that starts with `torchrun --nproc-per-node=8 search.py`:

            rank = int(os.environ["LOCAL_RANK"])
            torch.cuda.set_device(rank)
            torch.distributed.init_process_group("nccl")
            index = ShardedHammingIndex(64, device=f"cuda:{rank}")
            index.add_split(np.load("codes.npy", mmap_mode="r"))  # each rank reads its eighth
            distances, ids = index.search(queries, k=100)         # the same queries and answer on every rank
    """

    def __init__(self, bits: int, group: Any = None, device: torch.device | str | None = None) -> None:
        ranks = Ranks("ShardedHammingIndex", group)
        self._adopt("ShardedHammingIndex", ranks, lambda: HammingIndex(bits, device))

    @classmethod
    def from_shard(cls, shard: HammingIndex, group: Any = None) -> "ShardedHammingIndex":
        """An index of which `shard` is this rank's part, as it is, uncopied.

        Shards may thus be filled rank by rank, each at its own pace, before they meet. Afterwards change them through this index
        only.

        Raises:
            TypeError, ValueError: no HammingIndex; shards of other bits or another kind of device or ids; an id on two ranks.
        """
        index = cls.__new__(cls)
        index._adopt("ShardedHammingIndex.from_shard", Ranks("ShardedHammingIndex.from_shard", group), lambda: _a_shard(shard))
        index._check_ids_of_shards()
        return index

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self._shard.bits

    @property
    def ntotal(self) -> int:
        """Codes in the gallery, over all ranks."""
        return sum(self._sizes)

    @property
    def shard(self) -> HammingIndex:
        """This rank's part, to look at: it counts its positions from 0. Change it through this index only."""
        return self._shard

    @property
    def shard_sizes(self) -> list[int]:
        """Codes on each rank."""
        return list(self._sizes)

    @property
    def offset(self) -> int:
        """The position of this rank's first code: the codes of all lower ranks come before it."""
        return sum(self._sizes[: self._ranks.rank])

    @property
    def device(self) -> torch.device:
        """Where this rank searches."""
        return self._shard.device

    def __len__(self) -> int:
        return self.ntotal

    def __repr__(self) -> str:
        return (
            f"ShardedHammingIndex(bits={self.bits}, ntotal={self.ntotal}, rank={self._ranks.rank} of {self._ranks.size}, "
            f"shard={self._shard!r})"
        )

    # ---- changes -----------------------------------------------------------------------------------------------------------

    def add(self, codes: Tensor | np.ndarray) -> None:
        """Append packed codes, uint8 [N, bits/8], to this rank's shard. Each rank brings its own, or none: [0, bits/8].

        Raises:
            TypeError, ValueError: no packed codes of this width.
            RuntimeError: the index has ids of its own, or a shard is a mapped file.
        """
        op = self._op("add")
        added = self._agree("add", lambda: self._new_codes(op, codes))
        self._grow("add", lambda: self._shard.add(added))

    def add_split(self, codes: Tensor | np.ndarray) -> None:
        """Spread `codes`, uint8 [N, bits/8], which every rank passes alike: each appends one run of about N / ranks to its shard.

        In an empty index, positions then are rows of `codes`. An array in a file (`np.memmap`) is read only where it is kept.

        Raises: as `add`.
        """
        op = self._op("add_split")
        whole = self._agree("add_split", lambda: self._new_codes(op, codes), lambda whole: {"the number of codes": len(whole)})
        self._grow("add_split", lambda: self._shard.add(whole[_even_part(len(whole), self._ranks)]))

    def add_with_ids(self, codes: Tensor | np.ndarray, ids: Any) -> None:
        """Append packed codes, uint8 [N, bits/8], to this rank's shard under `ids`: N integers, any int64 but -1, none twice on
        any rank.

        Raises:
            TypeError, ValueError: no packed codes of this width; ids of another length, repeated, or in the index already.
            RuntimeError: the index holds codes without ids, or a shard is a mapped file.
        """
        op = self._op("add_with_ids")

        def checked() -> tuple[Tensor | np.ndarray, np.ndarray]:
            added, numbers = self._new_codes(op, codes, with_ids=True), integers(op, "ids", ids)
            if len(numbers) != len(added):
                raise ValueError(f"{op}: ids must be one for each of the {len(added)} codes; got {len(numbers)}")
            return added, numbers

        added, numbers = self._agree("add_with_ids", checked)
        self._check_new_ids("add_with_ids", numbers)
        self._grow("add_with_ids", lambda: self._shard.add_with_ids(added, numbers))

    def remove_ids(self, ids: Any) -> int:
        """Remove codes; returns how many, over all ranks.

        ids: integers, equal on all ranks (twice counts once), or a bool mask over this rank's shard, True for those to remove.
        The codes behind move up, in their order: ids that are positions change, as in FAISS.

        Raises:
            IndexError: an id that no rank holds (nothing is removed then).
            TypeError, ValueError: neither integers nor a mask as long as the shard.
            RuntimeError: a shard is a mapped file.
        """
        op = self._op("remove_ids")

        def checked() -> Any:
            self._shard._writable("remove_ids")
            return self._shard_mask(op, "ids", ids) if _is_mask(ids) else integers(op, "ids", ids)

        removed = self._agree("remove_ids", checked, lambda ids: {"ids": "a mask" if _is_mask(ids) else _content(ids)})
        if not _is_mask(removed):
            removed = self._on_this_rank("remove_ids", removed)
        before = self.ntotal
        self._replace_shard("remove_ids", lambda shard: shard.remove_ids(removed))
        return before - self.ntotal

    def merge_from(self, other: "ShardedHammingIndex") -> None:
        """Append the shards of `other` to the shards of this index, rank by rank, with ids where it has any, and empty it.

        The codes of `other` thus do not come last by position, except on the last rank; ids of your own tell them apart.

        Raises:
            TypeError, ValueError: `other` is no other ShardedHammingIndex of as many bits over as many ranks, or has ids that are
                in this index.
            RuntimeError: one has ids of its own and the other has not, or a shard of this index is a mapped file.
        """
        op = self._op("merge_from")

        def checked() -> np.ndarray:
            if not isinstance(other, ShardedHammingIndex):
                raise TypeError(f"{op}: other must be a ShardedHammingIndex; got {checks.describe(other)}")
            if other is self:
                raise ValueError(f"{op}: other must be another index")
            if other.bits != self.bits or (other._ranks.rank, other._ranks.size) != (self._ranks.rank, self._ranks.size):
                raise ValueError(f"{op}: other must hold codes of {self.bits} bits on the same ranks; got {other!r}")
            if other.ntotal:
                self._new_codes(op, other._shard.codes, with_ids=other._with_ids)
            ids = other._shard.ids
            return np.empty(0, np.int64) if ids is None else ids.cpu().numpy()

        self._check_new_ids(
            "merge_from", self._agree("merge_from", checked, lambda _: {"other": (other._sizes, other._with_ids)})
        )

        def append() -> None:
            ids = other._shard.ids
            if ids is not None:
                self._shard.add_with_ids(other._shard.codes, ids)
            elif len(other._shard):
                self._shard.add(other._shard.codes)

        self._grow("merge_from", append)
        other.reset()

    def reset(self) -> None:
        """Forget all codes and ids and free their memory; a mapped file is let go and stays as it is."""
        self._replace_shard("reset", lambda shard: shard.reset())

    def to(self, device: torch.device | str, *, storage: str = "device") -> "ShardedHammingIndex":
        """Move this rank's shard to `device`, of one kind on all ranks; returns the index. storage: as for `HammingIndex`."""
        self._agree("to", lambda: torch.device(device), lambda target: {"the kind of device": target.type})
        self._replace_shard("to", lambda shard: shard.to(device, storage=storage))
        return self

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
        """The `k` nearest codes of each query, by distance, then by position; the same on all ranks.

        All arguments are equal on all ranks, except what belongs to a shard: `mask` and the vectors of `rerank`.

        Args:
            queries: uint8 [Q, bits/8]; numpy queries may meet a shard on a GPU, tensors must be on its device.
            k: any size; more than can be found is padded with distance 2**31 - 1 and id -1.
            mask: bool [codes in this rank's shard], True for those that may be found.
            ids: only these may be found.
            exclude_ids: these may not be found.
            rerank: a second ranking of the nearest codes by float vectors; its `vectors` are those of this rank's shard.

        Returns:
            (distances int32 [Q, k], ids int64 [Q, k]), torch or numpy as the queries. With `rerank` (scores float32, ids), by
            score as `HammingIndex.search` has them.

        Raises:
            TypeError, ValueError: an argument of another type, dtype, shape or device, or one that differs between ranks.
            IndexError: an id in `ids` or `exclude_ids` that no rank holds.
        """
        op = self._op("search")
        local = self._filter("search", ids, exclude_ids)

        def asked() -> _Asked:
            checked = self._shard._queries(op, queries)
            depth = checks.integer(op, "k", k, minimum=1, maximum=MISSING_DISTANCE)
            told = {"the filters": [*local], "queries": _content(checked), "k": depth}
            if rerank is not None:
                if not isinstance(rerank, Rerank):
                    raise TypeError(f"{op}: rerank must be a search.Rerank; got {checks.describe(rerank)}")
                rerank.check(op, len(checked), self.bits, len(self._shard))
                depth = rerank.shortlist(depth, self.ntotal)
                told |= {"rerank.queries": _content(rerank.queries), "rerank": (rerank.metric, rerank.k_factor)}
            return _Asked(checked, min(depth, self.ntotal), self._allowed(op, mask, local), told)

        values, positions = self._read(self._nearest("search", asked))
        missing: float = MISSING_DISTANCE
        if rerank is not None:
            missing = math.inf if rerank.metric == "l2" else -math.inf
            values, positions = self._rescored(rerank, positions, k, missing)
        short = k - positions.shape[1]
        return self._in_kind(
            queries, F.pad(values, (0, short), value=missing), F.pad(self._ids_at(positions), (0, short), value=-1)
        )

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
        """All codes nearer than `radius` to each query, by distance, then by position; the same on all ranks.

        Every rank gets, and holds, the whole answer.

        Args:
            queries, mask, ids, exclude_ids: as for `search`.
            radius: an integer, or integers [Q]; as in FAISS the radius itself is out, unless `inclusive`.

        Returns:
            (lims int64 [Q+1], distances int32 [M], ids int64 [M]), torch or numpy as the queries; query i has found
            ids[lims[i] : lims[i + 1]].

        Raises: as `search`.
        """
        op = self._op("range_search")
        local = self._filter("range_search", ids, exclude_ids)

        def found() -> tuple[dict[str, Any], Tensor, Tensor]:
            checked = self._shard._queries(op, queries)
            limit = as_tensor(radius).to(self.device) if isinstance(radius, np.ndarray) else radius
            allowed = self._allowed(op, mask, local)
            lims, distances, positions = _within(self._shard, checked, limit, inclusive, allowed)
            told = {
                "the filters": [*local],
                "queries": _content(checked),
                "radius": _content(limit) if isinstance(limit, Tensor) else int(limit),
                "inclusive": bool(inclusive),
            }
            return told, lims.to(self._link), self._keys(distances, allowed.whole(positions))

        _, lims, keys = self._agree("range_search", found, lambda answer: answer[0])
        lims, keys = self._joined(lims, keys)
        distances, positions = self._read(keys)
        return self._in_kind(queries, lims, distances, self._ids_at(positions))

    # ---- codes by id -------------------------------------------------------------------------------------------------------

    def reconstruct(self, id: int) -> Tensor:
        """The code of `id`, uint8 [bits/8], on all ranks.

        Raises:
            IndexError: an id that no rank holds.
        """
        return self.reconstruct_n(id, 1)[0]

    def reconstruct_n(self, start: int = 0, count: int = -1) -> Tensor:
        """The codes of the ids `start` to `start + count - 1`, uint8 [count, bits/8], on all ranks. A count of -1 is all from
        `start` on, where positions are the ids.

        Raises:
            IndexError: an id that no rank holds.
            ValueError: a count of -1 for an index with ids of its own.
        """
        op = self._op("reconstruct")

        def numbers() -> np.ndarray:
            return consecutive_ids(op, start, count, self.ntotal, own_ids=self._with_ids)

        return self._codes_of("reconstruct", numbers)

    def reconstruct_batch(self, ids: Any) -> Any:
        """The codes of `ids`, integers [M] in any order and equal on all ranks, uint8 [M, bits/8]; an array for an array.

        Raises:
            IndexError: an id that no rank holds.
        """
        codes = self._codes_of("reconstruct_batch", lambda: integers(self._op("reconstruct_batch"), "ids", ids))
        return in_kind(ids, codes)[0]

    # ---- files -------------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write each shard to a file of its own in `folder`, which all ranks share, and a manifest that names them.

        The folder is made if there is none. An index that it holds stays whole and readable until the new one is complete, and is
        then removed; a save that fails or is killed leaves it as it was. FAISS reads the files of the shards.

        Raises:
            OSError: the folder cannot be written to, or is not shared by all ranks.
        """
        home = self._agree("save", lambda: _folder.folder_at(folder))
        token = self._ranks.objects(secrets.token_hex(4))[0]
        path = home / _folder.shard_name(self._ranks.rank, self._ranks.size, token)
        try:
            written = self._agree("save", lambda: _folder.write_shard(path, self._shard))
            manifest = _folder.Manifest(self.bits, self._with_ids, self._ranks.objects(written))
            self._agree("save", lambda: _folder.check_seen(home, manifest))
        except Exception:
            path.unlink(missing_ok=True)
            raise
        try:
            self._agree("save", lambda: _folder.write_manifest(home, manifest) if self._ranks.rank == 0 else None)
        finally:
            self._agree("save", lambda: _folder.remove_unnamed(home) if self._ranks.rank == 0 else None)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], group: Any = None, device: torch.device | str | None = None, *, mmap: bool = False
    ) -> "ShardedHammingIndex":
        """Read an index written by `save`, on as many ranks as then, with the same shards, or on others, with shards of about
        equal size in the same order. Each rank reads its own part alone, and checks it against its checksums.

        mmap: leave each shard in its file, as `HammingIndex.load` does, unchecked; needs as many ranks as wrote the index.

        Raises:
            FileNotFoundError: no index in `folder`, or a shard of it is missing.
            ValueError: a damaged file, or shards that are not those of the manifest.
        """
        op = "ShardedHammingIndex.load"
        ranks, home = Ranks(op, group), Path(folder)
        manifest = ranks.agree(op, lambda: _folder.read_manifest(home), lambda manifest: {"the index": manifest.summary})
        index = cls.__new__(cls)
        index._adopt(op, ranks, lambda: _read_shard(home, manifest, ranks, device, mmap))
        return index

    # ---- inside ------------------------------------------------------------------------------------------------------------

    def _adopt(self, call: str, ranks: Ranks, shard: Callable[[], HammingIndex]) -> None:
        self._ranks = ranks
        self._shard = ranks.agree(call, shard, lambda shard: {"bits": shard.bits, "the kind of device": shard.device.type})
        self._shift = 63 - self.bits.bit_length()  # see _selection.py: a distance is at most `bits`, and may be just that
        kinds = {with_ids for codes, with_ids in self._count_codes() if codes}
        if len(kinds) > 1:
            raise ValueError(f"{call}: some shards have ids of their own and others have not. All must be of one kind")

    def _count_codes(self) -> list[list[int]]:
        """Learn what all ranks hold: [codes, whether the shard has ids] of each."""
        own = torch.tensor([len(self._shard), self._shard._ids is not None], dtype=torch.int64, device=self._ranks.device())
        shards = self._ranks.gather(own).tolist()
        self._sizes: list[int] = [codes for codes, _ in shards]
        self._with_ids = any(codes and with_ids for codes, with_ids in shards)
        return shards

    @property
    def _link(self) -> torch.device:
        """Where messages lie."""
        return self._ranks.device(self.device)

    @staticmethod
    def _op(method: str) -> str:
        return f"ShardedHammingIndex.{method}"

    def _agree(self, method: str, work: Callable[[], T], facts: Callable[[T], Mapping[str, Any]] | None = None) -> T:
        """As `Ranks.agree`, for calls of this index."""

        def careful_work() -> T:
            if len(self._shard) != self._sizes[self._ranks.rank]:
                raise RuntimeError(
                    f"{self._op(method)}: the shard had {self._sizes[self._ranks.rank]} codes, now {len(self._shard)}. "
                    "Change a shard through its ShardedHammingIndex only"
                )
            return work()

        def all_facts(result: T) -> dict[str, Any]:
            return {"the index": (self.bits, self._sizes), **(facts(result) if facts else {})}

        return self._ranks.agree(self._op(method), careful_work, all_facts)

    def _grow(self, method: str, work: Callable[[], None]) -> None:
        """Let all ranks append to their shards, or none."""
        before = len(self._shard)
        try:
            self._agree(method, work)
        except Exception:
            if len(self._shard) > before:
                self._shard.remove_ids(np.arange(len(self._shard)) >= before)
            raise
        self._count_codes()

    def _replace_shard(self, method: str, change: Callable[[HammingIndex], Any]) -> None:
        """Let all ranks make a change to their shards that makes new memory of the old, or none."""
        changed = HammingIndex.__new__(HammingIndex)
        changed.__dict__.update(self._shard.__dict__)
        self._agree(method, lambda: change(changed))
        self._shard.__dict__.update(changed.__dict__)
        self._count_codes()

    def _new_codes(self, op: str, codes: Any, *, with_ids: bool = False) -> Tensor | np.ndarray:
        """`codes` if they may be added."""
        checked = self._shard._codes(op, "codes", codes)
        self._shard._writable("add")
        if self.ntotal and with_ids != self._with_ids:
            if self._with_ids:
                raise RuntimeError(f"{op}: the index has ids of its own. Use add_with_ids")
            raise RuntimeError(f"{op}: the {self.ntotal} codes of the index have positions for ids. Use add, or a fresh index")
        return checked

    def _check_new_ids(self, method: str, ids: np.ndarray) -> None:
        """Raises ValueError on all ranks unless their `ids` may be added together."""
        counts = self._ranks.integers(len(ids))
        own = torch.full((max(counts),), MISSING_ID, device=self._link)
        own[: len(ids)] = torch.from_numpy(ids)
        every = self._ranks.gather(own).cpu().numpy()
        new = np.concatenate([part[:count] for part, count in zip(every, counts, strict=True)])
        check_ids(self._op(method), new)
        held = self._held_by_any(method, new)
        if held.any():
            raise ValueError(
                f"{self._op(method)}: {shown(new[held])} in the index already. Remove the old codes first, or use other ids"
            )

    def _check_ids_of_shards(self) -> None:
        """Raises ValueError on all ranks where an id is on two of them."""
        held = self._agree("from_shard", lambda: None if self._shard._ids is None else self._shard._ids.checked())
        for start in range(0, max(self._sizes) if self._with_ids else 0, _IDS_A_MESSAGE):
            own = torch.full((min(_IDS_A_MESSAGE, max(self._sizes) - start),), MISSING_ID, device=self._link)
            if held is not None:
                part = held[start : start + len(own)]
                own[: len(part)] = part
            every = np.sort(self._ranks.gather(own).flatten().cpu().numpy())  # in order they are found ten times faster
            holders = self._ranks.sum(torch.from_numpy(self._found_here(every)).to(self._link, torch.int32)).cpu().numpy()
            if (holders > 1).any():
                twice = shown(np.unique(every[holders > 1]))
                raise ValueError(f"{self._op('from_shard')}: ids must be unique over all ranks; {twice} on more than one")

    def _found_here(self, ids: np.ndarray) -> np.ndarray:
        """Which of `ids` this rank holds, bool [M]."""
        if self._with_ids:
            return np.zeros(len(ids), np.bool_) if self._shard._ids is None else self._shard._ids.find(ids)[1]
        return (ids >= self.offset) & (ids < self.offset + len(self._shard))

    def _held_by_any(self, method: str, ids: np.ndarray) -> np.ndarray:
        """Which of `ids`, equal on all ranks, any of them holds, bool [M]."""
        here = self._agree(method, lambda: self._found_here(ids))
        return self._ranks.sum(torch.from_numpy(here).to(self._link, torch.int32)).cpu().numpy() > 0

    def _on_this_rank(self, method: str, ids: np.ndarray) -> np.ndarray:
        """Those of `ids`, equal on all ranks, that this rank holds, as its shard knows them.

        Raises:
            IndexError: on all ranks, for ids that none of them holds.
        """
        unknown = ~self._held_by_any(method, ids)
        if unknown.any():
            raise IndexError(f"{self._op(method)}: {shown(ids[unknown])} not in the index, which holds {self.ntotal} codes")
        here = ids[self._found_here(ids)]
        return here if self._with_ids else here - self.offset

    def _filter(self, method: str, ids: Any, exclude_ids: Any) -> dict[str, np.ndarray]:
        """The given ones of `ids` and `exclude_ids`, by name, as far as they are on this rank."""
        given = {name: value for name, value in (("ids", ids), ("exclude_ids", exclude_ids)) if value is not None}
        if not given:
            return {}
        numbers = self._agree(
            method,
            lambda: {name: integers(self._op(method), name, value) for name, value in given.items()},
            lambda numbers: {"the filters": [*numbers], **{name: _content(value) for name, value in numbers.items()}},
        )
        return {name: self._on_this_rank(method, value) for name, value in numbers.items()}

    def _shard_mask(self, op: str, name: str, value: Any) -> Any:
        mask = checks.tensor(
            op, name, as_tensor(value), dtypes=(torch.bool,), ndim=1, shape="[codes in this rank's shard], one entry a code,"
        )
        if len(mask) != len(self._shard):
            raise ValueError(
                f"{op}: {name} must have one entry for each of the {len(self._shard)} codes in this rank's shard; "
                f"got {checks.describe(mask)}"
            )
        return value

    def _allowed(self, op: str, mask: Any, local: Mapping[str, np.ndarray]) -> _Allowed:
        """The codes of the shard that may be found; `local` as `_filter` returns it."""
        if mask is not None:
            mask = self._shard_mask(op, "mask", mask)
        return self._shard._allowed(op, mask, local.get("ids"), local.get("exclude_ids"))

    def _nearest(self, method: str, asked: Callable[[], "_Asked"]) -> Tensor:
        """Keys of the nearest codes of all shards, int64 [Q, depth], on the link. See _selection.py."""

        def searched() -> tuple[_Asked, Tensor]:
            wanted = asked()
            depth = min(wanted.depth, len(wanted.allowed.codes))
            if depth == 0:
                return wanted, torch.empty(len(wanted.queries), 0, dtype=torch.int64, device=self._link)
            distances, positions = self._shard._nearest(wanted.queries, depth, wanted.allowed)
            keys = self._keys(distances, positions)
            return wanted, keys.masked_fill_((positions < 0).to(keys.device), _selection.MISSING)

        wanted, keys = self._agree(method, searched, lambda found: found[0].told)
        if len(keys) == 0 or wanted.depth == 0:
            return keys.new_empty(len(keys), wanted.depth)
        share = -(-wanted.depth * len(self._shard) // self.ntotal)
        return _selection.smallest(self._ranks, keys, wanted.depth, share, self._shift, self.bits)

    def _keys(self, distances: Tensor, positions: Tensor) -> Tensor:
        """Keys, on the link, of what the shard found."""
        return (distances.long() << self._shift | (positions + self.offset)).to(self._link)

    def _read(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(distances int32, positions int64) of keys; 2**31 - 1 and -1 of missing ones."""
        there = keys != _selection.MISSING
        distances = torch.where(there, keys >> self._shift, MISSING_DISTANCE).int()
        return distances, torch.where(there, keys & ((1 << self._shift) - 1), MISSING_ID)

    def _own(self, positions: Tensor) -> Tensor:
        """Positions in the index as positions in the shard of this rank, on its device; -1 for those elsewhere."""
        local = positions - self.offset
        return torch.where((local >= 0) & (local < len(self._shard)) & (positions >= 0), local, -1).to(self.device)

    def _ids_at(self, positions: Tensor) -> Tensor:
        """The ids of `positions`, int64 of any shape, equal on all ranks; -1 stays -1."""
        if not self._with_ids:
            return positions
        own = self._own(positions)
        ids = own if self._shard._ids is None else self._shard._ids_at(own)
        told = self._ranks.sum(torch.where(own < 0, 0, ids).to(self._link))
        return torch.where(positions < 0, MISSING_ID, told)

    def _rescored(self, rerank: Rerank, positions: Tensor, k: int, worst: float) -> tuple[Tensor, Tensor]:
        """(scores float32, positions) of the best `k` of `positions` [Q, S], as `reranked`; each rank scores its own."""

        def ids_at(own: Tensor) -> Tensor:
            return self._shard._ids_at(own) if self._with_ids else own + self.offset

        def own_scores() -> Tensor:
            own = self._own(positions)
            scores, ranked = reranked(rerank, own, own.shape[1], self._shard._codes_at, ids_at)
            places, found = own.argsort(1), ranked.argsort(1)  # the same positions, in the order of both
            scores = torch.empty_like(scores).scatter_(1, places, scores.gather(1, found))
            return torch.where(own < 0, 0, scores).to(self._link)

        scores = self._ranks.sum(self._agree("search", own_scores))
        scores = scores.masked_fill(positions < 0, worst)
        order = torch.argsort(scores.nan_to_num(worst, math.inf, -math.inf), dim=1, stable=True, descending=worst < 0)[:, :k]
        return scores.gather(1, order), positions.gather(1, order)

    def _joined(self, lims: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(lims int64 [Q+1], keys int64 [M]) of what all ranks found, in order, from those of this rank."""
        counts = self._ranks.gather(lims.diff())  # [ranks, Q]
        everywhere = F.pad(counts.sum(0).cumsum(0), (1, 0))
        first = everywhere[:-1] + counts[: self._ranks.rank].sum(0)  # where this rank's part of each query goes
        slots = (first - lims[:-1]).repeat_interleave(lims.diff()) + torch.arange(len(keys), device=keys.device)
        joined = keys.new_zeros(int(everywhere[-1]))
        joined[slots] = keys
        self._ranks.sum(joined)
        query = torch.arange(len(lims) - 1, device=keys.device).repeat_interleave(everywhere.diff())
        order = (query * (self.bits + 1) + (joined >> self._shift)).argsort(stable=True)  # positions ascend from rank to rank
        return everywhere, joined[order]

    def _codes_of(self, method: str, numbers: Callable[[], np.ndarray]) -> Tensor:
        """The codes of ids, uint8 [M, bits/8], on the device of the shard."""
        ids = self._agree(method, numbers, lambda ids: {"ids": _content(ids)})
        here = self._found_here(ids)
        own = self._on_this_rank(method, ids)
        codes = torch.zeros(len(ids), self.bits // 8, dtype=torch.uint8, device=self._link)
        if here.any():
            codes[torch.from_numpy(here).to(self._link)] = self._shard._codes_at(
                self._shard._positions(self._op(method), own)
            ).to(self._link)
        return self._ranks.sum(codes).to(self.device)

    def _in_kind(self, queries: Any, *answer: Tensor) -> tuple[Any, ...]:
        return in_kind(queries, *(part.to(self.device) for part in answer))


class _Asked(NamedTuple):
    """A search, checked."""

    queries: Tensor  # uint8 [Q, bits/8]
    depth: int  # codes to find for each
    allowed: _Allowed  # the codes of this rank that may be found
    told: dict[str, Any]  # what must be equal on all ranks


def _within(
    shard: HammingIndex, queries: Tensor, radius: Any, inclusive: bool, allowed: _Allowed
) -> tuple[Tensor, Tensor, Tensor]:
    """(lims, distances, positions among the allowed codes) of what a shard has within a radius."""
    if not shard._streams:
        return hamming_range(queries, allowed.codes, radius, inclusive=inclusive, mask=allowed.mask)
    return range_streamed(
        queries,
        allowed.codes,
        radius,
        inclusive=inclusive,
        mask=allowed.mask,
        chunk_bytes=shard.chunk_bytes,
        check=shard._check_file,
    )


def _read_shard(folder: Path, manifest: _folder.Manifest, ranks: Ranks, device: Any, mmap: bool) -> HammingIndex:
    """This rank's part of the index in `folder`."""
    same_ranks = len(manifest.shards) == ranks.size
    if mmap:
        if not same_ranks:
            raise ValueError(
                f"ShardedHammingIndex.load: mmap needs as many ranks as shards; got {ranks.size} ranks for "
                f"{len(manifest.shards)} shards. Load without mmap, or start {len(manifest.shards)} ranks"
            )
        return _folder.open_shard(folder, manifest, manifest.shards[ranks.rank], device)
    if same_ranks:
        start = sum(shard.codes for shard in manifest.shards[: ranks.rank])
        part = slice(start, start + manifest.shards[ranks.rank].codes)
    else:
        part = _even_part(manifest.ntotal, ranks)
    shard = HammingIndex(manifest.bits, device)
    shard._buffer = shard._room(part.stop - part.start)
    for codes, ids in _folder.read_part(folder, manifest, part.start, part.stop):
        if ids is None:
            shard.add(codes)
        else:
            shard.add_with_ids(codes, ids)
    return shard


def _a_shard(shard: Any) -> HammingIndex:
    if not isinstance(shard, HammingIndex):
        raise TypeError(f"ShardedHammingIndex.from_shard: shard must be a HammingIndex; got {checks.describe(shard)}")
    return shard


def _even_part(count: int, ranks: Ranks) -> slice:
    """This rank's one of as many runs as there are ranks, of as equal length as can be."""
    return slice(count * ranks.rank // ranks.size, count * (ranks.rank + 1) // ranks.size)


def _is_mask(value: Any) -> bool:
    return getattr(value, "dtype", None) in (torch.bool, np.bool_)


def _content(value: Tensor | np.ndarray) -> str:
    """A tensor in a few words that tell its contents apart."""
    tensor = as_tensor(value).detach().cpu().contiguous()
    checksum = crc32(tensor.flatten().view(torch.uint8).numpy().data) if tensor.numel() else 0
    return f"{checks.dtype_name(tensor.dtype)} {list(tensor.shape)} with checksum {checksum:08x}"
