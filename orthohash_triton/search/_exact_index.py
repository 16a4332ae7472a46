"""The signatures that both indexes share: searches, and look-ups of codes by id."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from .._base import checks
from ._arguments import centres_of, consecutive_ids, in_kind, integers
from ._explanation import Explanation
from ._gallery import Filters
from ._plan import check_mode
from ._planner import Planner
from .rerank import Rerank

ChooseIds = Callable[[int, bool], np.ndarray]  # (ntotal, whether the index has ids of its own) -> ids int64 [M]


class ExactIndex(ABC):
    """The methods for reading that `HammingIndex` and `ShardedHammingIndex` share.

    A sharded index takes the same arguments on all ranks, except what belongs to a shard: `mask` and the vectors of `rerank`. It
    returns the same answer on all ranks.
    """

    _name: ClassVar[str]  # the name of the class in errors

    bits: int

    @property
    @abstractmethod
    def ntotal(self) -> int:
        """The number of codes."""

    def __len__(self) -> int:
        return self.ntotal

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
        """Return the `k` nearest codes of each query, by distance, then by position.

        Args:
            queries: uint8 [Q, bits/8]. Arrays may be searched on any device; tensors must be on the device of the index.
            k: Any number; places that cannot be filled have distance 2**31 - 1 and id -1. A result in which such places would
                take more than 1 GiB is refused.
            mask: bool [ntotal], True for the positions that may be found. In a sharded index each rank gives the mask of its own
                shard, bool [codes in this rank's shard].
            ids: The only ids that may be found. A short list is fast, because only its codes are read.
            exclude_ids: Ids that may not be found.
            rerank: A second ranking of the nearest codes by float vectors; see `Rerank`.

        Returns:
            (distances int32 [Q, k], ids int64 [Q, k]), of the kind of `queries`. With `rerank` (scores float32, ids), by score,
            then in Hamming order; a place that cannot be filled has id -1 and the worst score, an infinity.

        Raises:
            IndexError: The index does not hold all `ids` or `exclude_ids`.
            TypeError, ValueError: An argument has another type, shape, dtype or device, or differs between ranks, or a mapped
                file has become shorter.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add(np.array([[0b0000], [0b0011], [0b1111]], np.uint8))
            >>> distances, ids = index.search(np.array([[0b0111]], np.uint8), 3)
            >>> distances.tolist(), ids.tolist()
            ([[1, 1, 3]], [[1, 2, 0]])
            >>> index.search(np.array([[0b0111]], np.uint8), 3, exclude_ids=[1])[1].tolist()
            [[2, 0, -1]]
        """
        return in_kind(queries, *self._search(queries, k, Filters(mask, ids, exclude_ids), rerank))

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
        """Return all codes that are nearer than `radius` to each query, by distance, then by position.

        A sharded index returns, and holds, the whole answer on every rank.

        Args:
            queries, mask, ids, exclude_ids: As for `search`.
            radius: An integer, or integers [Q].
            inclusive: Whether to find codes at a distance of exactly `radius`. As in FAISS, they are not found by default.

        Returns:
            (lims int64 [Q+1], distances int32 [M], ids int64 [M]), of the kind of `queries`; query i has found the ids
            ids[lims[i] : lims[i + 1]].

        Raises:
            IndexError, TypeError, ValueError: As `search`.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add(np.array([[0b0000], [0b0011], [0b1111]], np.uint8))
            >>> lims, distances, ids = index.range_search(np.array([[0b0111], [0b0000]], np.uint8), 2)
            >>> lims.tolist(), distances.tolist(), ids.tolist()
            ([0, 2, 3], [1, 1, 0], [1, 2, 0])
        """
        return in_kind(queries, *self._range_search(queries, radius, inclusive, Filters(mask, ids, exclude_ids)))

    def build(self, centres: Any = None, radius: int | None = None) -> None:
        """File the codes, so that searches meet only those that can be near to their queries. The answers stay the same.

        Equal codes become one entry, and each entry is filed under its nearest centre and its distance from it. The triangle
        inequality then excludes most entries from a search if the codes form groups, as trained codes do. `explain` shows how
        much this helps; where it does not help, searches compare all codes as before.

        An index on the CPU calls this by itself when searches since the last change have cost several times as much as filing,
        or one large search does, and a sample of codes and queries shows that it helps. Codes that are added later are compared
        with each query until they are worth filing, too.

        Args:
            centres: The centres, for this and later calls: packed codes, uint8 [C, bits/8], or +-1 [C, bits], such as the
                codebook that the codes were trained for. None: the property `centres`, or else centres found in a sample.
            radius: Make tables, too, with which codes within this number of bits (inclusive) are found without a scan, as for
                near-duplicates. They take 4 to 8 bytes a code for each of radius / 2 tables or more, and exist on the CPU only.

        Raises:
            TypeError, ValueError: `centres` are neither codes of this width nor +-1 [C, bits]; or `radius` is not an integer from
                0 to the number of bits.
            RuntimeError: The codes are in host memory and searched on a GPU.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add(np.array([[5], [7], [5]], np.uint8))
            >>> index.build()
            >>> index.explain(np.array([[7]], np.uint8), 1).entries
            2
        """
        op = f"{self._name}.build"
        if centres is not None:
            self._planner.centres = centres_of(op, centres, self.bits)
        self._build(op, None if radius is None else checks.integer(op, "radius", radius, minimum=0, maximum=self.bits))

    def explain(
        self,
        queries: Tensor | np.ndarray,
        k: int | None = None,
        mask: Tensor | np.ndarray | None = None,
        *,
        radius: Any = None,
        inclusive: bool = False,
        ids: Any = None,
        exclude_ids: Any = None,
    ) -> Explanation:
        """Return how the index answers a search now: the plan, what it expects of each plan, and what the queries meet.

        The queries are searched, but nothing is built or remembered, so that a search of its own may choose another plan.

        Args:
            queries, k, mask, ids, exclude_ids: As for `search`.
            radius, inclusive: As for `range_search`, in place of `k`.

        Raises:
            TypeError: Both `k` and `radius` are given, or none of them.
            IndexError, TypeError, ValueError: As `search`.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add(np.array([[5], [7]], np.uint8))
            >>> index.explain(np.array([[7]], np.uint8), 1).plan
            'scan'
        """
        op = f"{self._name}.explain"
        if (k is None) == (radius is None):
            raise TypeError(f"{op}: give either k or radius; got k={k} and radius={radius}")
        return self._explained(op, queries, k, radius, inclusive, Filters(mask, ids, exclude_ids))

    @property
    def plan(self) -> Literal["auto", "scan"]:
        """ "auto" if searches choose the cheapest plan, "scan" if they compare each query with all codes; it can be set.

        Raises:
            ValueError: It is set to something else.
        """
        return self._planner.mode

    @plan.setter
    def plan(self, value: Literal["auto", "scan"]) -> None:
        self._planner.mode = check_mode(self._name, value)

    @property
    def centres(self) -> Tensor | None:
        """The centres under which codes are filed, uint8 [C, bits/8]; None if they are chosen from the codes. It can be set.

        A good choice is the codebook that the codes were trained for, as for `build`. Codes that are filed already stay where
        they are.

        Raises:
            TypeError, ValueError: It is set to something that is neither codes of this width nor +-1 [C, bits].
        """
        return self._planner.centres

    @centres.setter
    def centres(self, value: Any) -> None:
        self._planner.centres = None if value is None else centres_of(f"{self._name}.centres", value, self.bits)

    def reconstruct(self, id: int) -> Tensor:
        """Return a copy of the code of `id`, uint8 [bits/8].

        Raises:
            IndexError: The index does not hold `id`.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add(np.array([[5], [7]], np.uint8))
            >>> index.reconstruct(1).tolist()
            [7]
        """
        return self.reconstruct_n(id, 1)[0]

    def reconstruct_n(self, start: int = 0, count: int = -1) -> Tensor:
        """Return a copy of the codes of the ids `start` to `start + count - 1`, uint8 [count, bits/8].

        Args:
            start: The first id.
            count: The number of ids; -1 for all from `start` on, if the ids are the positions.

        Raises:
            IndexError: The index does not hold all these ids.
            ValueError: `count` is -1 and the index has ids of its own.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add(np.array([[5], [7], [9]], np.uint8))
            >>> index.reconstruct_n(1).tolist()
            [[7], [9]]
        """
        op = f"{self._name}.reconstruct"
        return self._codes_of(op, lambda ntotal, own_ids: consecutive_ids(op, start, count, ntotal, own_ids=own_ids))

    def reconstruct_batch(self, ids: Any) -> Any:
        """Return a copy of the codes of `ids`, integers [M] in any order, as uint8 [M, bits/8]: an array for an array.

        Raises:
            IndexError: The index does not hold all `ids`.

        Example:
            >>> import numpy as np
            >>> import orthohash_triton as oht
            >>> index = oht.HammingIndex(8)
            >>> index.add_with_ids(np.array([[5], [7]], np.uint8), [30, 10])
            >>> index.reconstruct_batch([10, 30]).tolist()
            [[7], [5]]
        """
        op = f"{self._name}.reconstruct_batch"
        return in_kind(ids, self._codes_of(op, lambda ntotal, own_ids: integers(op, "ids", ids, ntotal=ntotal)))[0]

    @abstractmethod
    def _search(self, queries: Any, k: Any, filters: Filters, rerank: Rerank | None) -> tuple[Tensor, Tensor]:
        """Return the answer of `search` as tensors."""

    @abstractmethod
    def _range_search(self, queries: Any, radius: Any, inclusive: bool, filters: Filters) -> tuple[Tensor, Tensor, Tensor]:
        """Return the answer of `range_search` as tensors."""

    @abstractmethod
    def _build(self, op: str, radius: int | None) -> None:
        """Build structures of all codes under the planner's centres."""

    @abstractmethod
    def _explained(self, op: str, queries: Any, k: int | None, radius: Any, inclusive: bool, filters: Filters) -> Explanation:
        """Return how a search is answered for the nearest `k` codes, or within `radius` if `k` is None."""

    @property
    @abstractmethod
    def _planner(self) -> Planner:
        """The planner, which chooses a plan for each search."""

    @abstractmethod
    def _codes_of(self, op: str, numbers: ChooseIds) -> Tensor:
        """Return the codes of the ids that `numbers` chooses."""
