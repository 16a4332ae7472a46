"""The storage of both indexes: an immutable gallery of codes with their ids and the structures over them."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import as_tensor
from .._base.quoting import quoted
from . import _structures, faiss_io
from ._arguments import check_kind_of_ids, ids_of_codes, integers, is_mask, position_mask
from ._external_ids import ExternalIds, MappedIds, check_ids, ids_missing
from ._rows import Rows, copy_kept_rows
from ._structures import Structures
from .rerank import Rerank, Source, reranked

Placement = Literal["device", "host"]
Storage = Literal["device", "host", "file"]


class Filters(NamedTuple):
    """The filters of a search in the form that the user passed. A filter that was not passed is None."""

    mask: Any = None
    ids: Any = None
    exclude_ids: Any = None


class Allowed(NamedTuple):
    """The codes that a search reads, and a mask of those that it may return."""

    codes: Tensor  # uint8 [N, bits/8]
    mask: Tensor | None  # bool [N]: which of them may be found; None for all
    positions: Tensor | None  # int64 [N] ascending: their positions in the gallery; None where `codes` are the whole gallery

    def in_gallery(self, positions: Tensor) -> Tensor:
        """Convert positions in `codes` to positions in the gallery; -1 stays -1."""
        if self.positions is None or len(self.positions) == 0:
            return positions
        return torch.where(positions < 0, positions, self.positions[positions.clamp_min(0)])


@dataclass(frozen=True, eq=False)
class Gallery:
    """An immutable snapshot of packed codes, their ids and the place where they are kept.

    A change returns another gallery and leaves this one unchanged. Galleries share memory where they can: an addition writes into
    spare rows that no other gallery sees.
    """

    bits: int
    device: torch.device  # where searches run
    placement: Placement  # where the codes of a gallery in memory are kept
    rows: Rows  # uint8 [capacity, bits/8]
    count: int
    ids: ExternalIds | None = None  # None: the ids are the positions
    file: faiss_io.MappedFile | None = None
    structures: Structures | None = None  # over the first codes
    origin: object = field(default_factory=object)  # shared by the galleries that begin with the same codes

    # ---- construction ------------------------------------------------------------------------------------------------------

    @classmethod
    def empty(cls, bits: int, device: torch.device | str | None, placement: Placement = "device") -> "Gallery":
        """Return a gallery without codes."""
        target = torch.empty(0, device=device).device  # the device of a tensor has an index: "cuda" becomes "cuda:0"
        return cls(bits, target, placement, Rows(_allocated(0, bits, target, placement)), 0)

    @classmethod
    def of_contents(cls, contents: faiss_io.Contents, device: torch.device | str | None, source: str) -> "Gallery":
        """Return a gallery of the arrays in `contents`, copied only if `device` is not the CPU; errors name `source`."""
        codes, ids = contents
        if ids is not None:
            check_ids(source, ids)
        on_cpu = replace(
            cls.empty(8 * codes.shape[1], "cpu"),
            rows=Rows(torch.from_numpy(codes)),
            count=len(codes),
            ids=None if ids is None else ExternalIds.of(torch.from_numpy(ids)),
        )
        target = torch.empty(0, device=device).device
        return on_cpu if target == on_cpu.device else on_cpu.copied(target, "device")

    @classmethod
    def mapped(cls, file: faiss_io.MappedFile, device: torch.device | str | None) -> "Gallery":
        """Return a gallery whose codes and ids stay in `file`."""
        return replace(
            cls.empty(8 * file.codes.shape[1], device),
            rows=Rows(torch.from_numpy(file.codes)),
            count=len(file.codes),
            ids=None if file.id_bytes is None else MappedIds(file, file.id_bytes),
            file=file,
        )

    # ---- contents ----------------------------------------------------------------------------------------------------------

    @property
    def codes(self) -> Tensor:
        """The codes, uint8 [count, bits/8], where they are kept."""
        return self.rows.memory[: self.count]

    @property
    def home(self) -> torch.device:
        """The device whose memory holds the codes."""
        return self.rows.memory.device

    @property
    def storage(self) -> Storage:
        """Where the codes are kept: "device", "host" or "file"."""
        return self.placement if self.file is None else "file"

    @property
    def is_streamed(self) -> bool:
        """Whether searches read the codes chunk by chunk."""
        return self.file is not None or self.home != self.device

    def check_file(self) -> None:
        """Raise ValueError if the codes are in a mapped file that has become shorter."""
        if self.file is not None:
            self.file.check()

    def check_writable(self, op: str) -> None:
        """Raise RuntimeError if the codes are in a mapped file."""
        if self.file is not None:
            raise RuntimeError(
                f"{op}: the codes are in {self.file.source}, which is read-only. "
                'Bring them into memory with .to("cpu") or .copy() first'
            )

    def id_values(self) -> Tensor | None:
        """Return the ids, int64 [count], or None if the ids are the positions."""
        return None if self.ids is None else self.ids.values()

    def positions_of(self, op: str, ids: np.ndarray) -> Tensor:
        """Return the positions of `ids`, int64 [M] in host memory.

        Raises:
            IndexError: The gallery does not hold all `ids`.
        """
        if self.ids is None:
            positions, exists = ids, (ids >= 0) & (ids < self.count)
        else:
            positions, exists = self.ids.find(ids)
        if not exists.all():
            raise ids_missing(op, ids[~exists], self.count)
        return torch.from_numpy(positions)

    def codes_at(self, positions: Tensor) -> Tensor:
        """Return a copy of the codes at `positions` [M], uint8 [M, bits/8], where the gallery is kept."""
        self.check_file()
        return self.codes[positions.to(self.home)]

    def ids_at(self, positions: Tensor) -> Tensor:
        """Return the ids at `positions`, int64 of any shape; -1 stays -1."""
        return positions if self.ids is None else self.ids.at(positions)

    def exported(self) -> faiss_io.Contents:
        """Return the codes and the checked ids as arrays in host memory, without a copy if they are there already."""
        self.check_file()
        return faiss_io.Contents(self.codes.cpu().numpy(), None if self.ids is None else self.ids.checked().cpu().numpy())

    # ---- changes -----------------------------------------------------------------------------------------------------------

    def check_codes(self, op: str, name: str, codes: Any) -> Tensor | np.ndarray:
        """Check that `codes` are packed codes of this width, and return them.

        An array is not converted, because it may be a large memmap.
        """
        if isinstance(codes, np.ndarray) and codes.dtype == np.uint8 and codes.ndim == 2 and codes.shape[1] == self.bits // 8:
            return codes
        checked = checks.codes(op, name, as_tensor(codes))
        if checked.shape[1] != self.bits // 8:
            raise ValueError(
                f"{op}: {name} must be [N, {self.bits // 8}] for an index of {self.bits} bits; got {checks.describe(checked)}, "
                f"which is {8 * checked.shape[1]} bits"
            )
        return checked

    def check_addition(self, op: str, codes: Any, *, adds_ids: bool) -> Tensor | np.ndarray:
        """Check that `codes` can be added to this gallery, with ids or without, and return them."""
        self.check_writable(op)
        checked = self.check_codes(op, "codes", codes)
        check_kind_of_ids(op, self.count, has_ids=self.ids is not None, adds_ids=adds_ids)
        return checked

    def check_new_ids(self, op: str, ids: Any, count: int) -> np.ndarray:
        """Check that `ids` can be added to this gallery, and return them as int64 [count]."""
        numbers = ids_of_codes(op, ids, count)
        self._own_ids().check_new(op, numbers)
        return numbers

    def added(self, codes: Tensor | np.ndarray) -> "Gallery":
        """Return this gallery followed by checked `codes`, whose ids are their positions."""
        rows = self._appended(codes)
        return replace(self, rows=rows, count=self.count + len(codes), ids=None, structures=self._structures_in(rows))

    def added_with_ids(self, codes: Tensor | np.ndarray, ids: np.ndarray) -> "Gallery":
        """Return this gallery followed by checked `codes` under checked `ids`, int64 [N]."""
        rows = self._appended(codes)
        own = self._own_ids().appended(torch.from_numpy(ids))
        return replace(self, rows=rows, count=self.count + len(codes), ids=own, structures=self._structures_in(rows))

    def merged(self, op: str, other: "Gallery") -> "Gallery":
        """Return this gallery followed by the codes and ids of `other`, of the same bits.

        Raises:
            ValueError: An id is in both.
            RuntimeError: One gallery has ids of its own and the other does not, or this gallery is a mapped file.
        """
        self.check_writable(op)
        other.check_file()
        if other.count == 0:
            return self
        ids = other.id_values()
        if self.count and (self.ids is None) != (ids is None):
            own, others = ("positions as ids", "ids of its own")[:: 1 if self.ids is None else -1]
            raise RuntimeError(f"{op}: the index has {own}, other has {others}. Both must be of one kind")
        if ids is None:
            return self.added(other.codes)
        return self.added_with_ids(other.codes, self.check_new_ids(op, ids, other.count))

    def without(self, op: str, ids: Any) -> "Gallery":
        """Return this gallery without the codes that `ids` names: integers, or a bool mask [count], True for codes to remove."""
        if is_mask(ids):
            keep = ~position_mask(op, "ids", ids, self.count).cpu().numpy()
        else:
            keep = np.ones(self.count, np.bool_)
            keep[self.positions_of(op, integers(op, "ids", ids, ntotal=self.count)).numpy()] = False
        count = int(np.count_nonzero(keep))
        if count == self.count:
            return self
        memory = self._allocate(count)
        copy_kept_rows(self.codes, keep, memory)
        return replace(
            self,
            rows=Rows(memory),
            count=count,
            ids=None if self.ids is None else self.ids.kept(keep),
            structures=None if self.structures is None else self.structures.kept(keep, memory),
            origin=object(),
        )

    def cleared(self) -> "Gallery":
        """Return an empty gallery in memory, of the same bits, device and placement."""
        return Gallery.empty(self.bits, self.device, self.placement)

    def filled(self, codes: Tensor | np.ndarray, ids: ExternalIds | None) -> "Gallery":
        """Return this empty gallery with a copy of checked `codes` and `ids`."""
        return replace(self.added(codes), ids=None if ids is None else ids.copied(self.home))

    def copied(self, device: torch.device, placement: Placement) -> "Gallery":
        """Return a copy in memory that shares nothing with this gallery."""
        self.check_file()
        copied = Gallery.empty(self.bits, device, placement).filled(self.codes, self.ids)
        return replace(copied, structures=None if self.structures is None else self.structures.placed(copied.codes))

    def moved(self, device: torch.device | str, placement: Placement) -> "Gallery":
        """Return this gallery if it has this device and placement already, otherwise a copy that has them."""
        target = torch.empty(0, device=device).device
        if self.file is None and (target, placement) == (self.device, self.placement):
            return self
        return self.copied(target, placement)

    def reserved(self, count: int) -> "Gallery":
        """Return an empty gallery with memory for `count` codes."""
        return replace(self.cleared(), rows=Rows(self._allocate(count), 0))

    def built(self, op: str, centres: Tensor | None, radius: int | None = None) -> "Gallery":
        """Return this gallery with new structures of all its codes.

        centres: uint8 [C, B] to file under; None for centres of a sample. radius: bits (inclusive) of a lookup to build, too.
        """
        self.check_file()
        if self.home != self.device:
            raise RuntimeError(
                f"{op}: the codes are kept in host memory and searched on {self.device}, so that a search compares all of them. "
                f"Move them to one device with .to({quoted(str(self.device))}) or .to('cpu') first"
            )
        if self.count == 0:
            return replace(self, structures=None)
        return replace(self, structures=_structures.built(self.codes, centres, radius))

    def continues(self, other: "Gallery") -> bool:
        """Return whether this gallery begins with the codes of `other`, because only additions were made since."""
        return self.origin is other.origin and self.count >= other.count

    def _own_ids(self) -> ExternalIds:
        return self.ids if self.ids is not None else ExternalIds.of(torch.empty(0, dtype=torch.int64, device=self.home))

    def _appended(self, codes: Tensor | np.ndarray) -> Rows:
        return self.rows.appended(self.count, codes, self._allocate)

    def _structures_in(self, rows: Rows) -> Structures | None:
        """Return the structures for the same codes in `rows`, so that they do not keep the memory in which the codes were."""
        if self.structures is None or rows.memory is self.rows.memory:
            return self.structures
        return self.structures.placed(rows.memory)

    def _allocate(self, count: int) -> Tensor:
        return _allocated(count, self.bits, self.device, self.placement)

    # ---- searches ----------------------------------------------------------------------------------------------------------

    def check_queries(self, op: str, queries: Any) -> Tensor:
        """Check packed `queries`, and return them as a tensor on the device that searches."""
        checked = self.check_codes(op, "queries", queries)
        if isinstance(checked, np.ndarray):
            return as_tensor(checked).to(self.device)
        if checked.device != self.device:
            raise ValueError(
                f"{op}: queries are on {checked.device}, the index searches on {self.device}. "
                f"Move them with .to({quoted(str(self.device))})"
            )
        return checked

    def check_radius(self, radius: Any) -> Any:
        """Return `radius` for a search on this device: an array becomes a tensor; the search itself checks the value."""
        return as_tensor(radius).to(self.device) if isinstance(radius, np.ndarray) else radius

    def allowed(self, op: str, filters: Filters) -> Allowed:
        """Return the codes that pass `filters`."""
        self.check_file()
        mask = None if filters.mask is None else self._check_mask(op, filters.mask)
        if filters.exclude_ids is not None:
            mask = torch.ones(self.count, dtype=torch.bool, device=self.home) if mask is None else mask.clone()
            excluded = integers(op, "exclude_ids", filters.exclude_ids, ntotal=self.count)
            mask[self.positions_of(op, excluded).to(mask.device)] = False
        if filters.ids is None:
            return Allowed(self.codes, mask, None)
        positions = self.positions_of(op, integers(op, "ids", filters.ids, ntotal=self.count)).unique()
        if mask is not None:
            positions = positions[mask[positions.to(mask.device)].cpu()]
        return Allowed(self.codes_at(positions), None, positions.to(self.device))

    def _check_mask(self, op: str, value: Any) -> Tensor:
        mask = position_mask(op, "mask", value, self.count)
        if isinstance(value, np.ndarray):
            return mask.to(self.home)
        if mask.device not in (self.device, self.home):
            raise ValueError(
                f"{op}: mask is on {mask.device}, the codes on {self.home}. Move it with .to({quoted(str(self.home))})"
            )
        return mask

    def reranked(self, op: str, rerank: Rerank, queries: Tensor, positions: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the scores, float32, and positions of the best `k` of `positions` [Q, S] by `rerank`."""
        return reranked(rerank, positions, k, Source(op, queries, self.codes_at, self.ids_at))


def _allocated(count: int, bits: int, device: torch.device, placement: Placement) -> Tensor:
    """Return uninitialised memory for `count` codes: on `device`, or pinned in host memory for a device that is not the CPU."""
    pinned = placement == "host" and device.type != "cpu"
    home = torch.device("cpu") if pinned else device
    with torch.inference_mode(False):  # a tensor made in inference mode cannot be written to outside of it
        return torch.empty(count, bits // 8, dtype=torch.uint8, device=home, pin_memory=pinned)
