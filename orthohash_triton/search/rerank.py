"""A second ranking of the nearest codes, by float vectors or by float queries against the codes themselves."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._base import checks
from .._base.arrays import as_tensor
from .._base.rows import unit_rows
from ..ops.hamming_topk import MISSING_ID
from ..ops.pack_codes import unpack_codes

Metric = Literal["inner_product", "cosine", "l2"]

METRICS = ("inner_product", "cosine", "l2")

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_GATHERED_BYTES = 2**26  # bytes of vectors that are scored at a time
_FEWEST_COLUMNS = 1024  # of a shortlist that are scored at a time
_COMPARED_ROWS = 256  # rows whose signs are compared with their codes
# Vectors count as packed into their codes if the first share of their signs are the bits or more, and as others below the second.
_OF_CODES, _FOREIGN = 0.9, 0.7


@dataclass(frozen=True, eq=False)
class Rerank:
    """A second ranking for `search`, by float vectors, of the `ceil(k * k_factor)` codes that are nearest by Hamming distance.

    Queries and vectors are of one space: both outputs of the head that computed the codes, or both its inputs. Without `vectors`
    they are compared with the codes, and must be what was packed into the packed queries, such as `head(x)` for
    `pack_codes(head(x))`: never the inputs `x`. If D does not give away which of the two was passed, a mixture of both is an
    error; see `check_signs`.

    Args:
        queries: float [Q, D], one row for each packed query.
        vectors: What `queries` are compared with:

            - float [N, D], one row for each position of the index: a tensor on any device, a numpy array or a memmap. Only the
              rows of the shortlist are read. In a sharded index each rank gives the rows of its own shard.
            - A function from ids, int64 [M] (a numpy array without repetitions), to their vectors, float [M, D].
            - None for the codes themselves as vectors of +-1. This asymmetric search needs no stored vectors. D is then the
              number of bits, or up to 7 less if the codes are padded.
        metric: "inner_product" and "cosine" rank the greatest score first, "l2" (the squared distance) the least. A vector of
            zeros has cosine 0 with every vector. NaN scores are ranked last.
        k_factor: The length of the shortlist as a multiple of k, at least 1.
        check_signs: Whether a search compares the signs of some of the queries and vectors with their codes, if D is the number
            of bits, and raises ValueError if the queries were not packed into their codes (without `vectors`), or only one of
            queries and vectors was. False allows queries that differ from their codes on purpose.

    Raises:
        TypeError, ValueError: An argument has another type, dtype, shape or value.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> index = oht.HammingIndex(8)
        >>> index.add(torch.tensor([[0b00000000], [0b00000001], [0b11111111]], dtype=torch.uint8))
        >>> query = torch.tensor([[3.0, -1, -1, -1, -1, -1, -1, -1]])
        >>> scores, ids = index.search(oht.pack_codes(query), 3, rerank=oht.search.Rerank(query))
        >>> scores.tolist(), ids.tolist()
        ([[10.0, 4.0, -4.0]], [[1, 0, 2]])
    """

    queries: Any
    vectors: Any = None
    metric: Metric = "inner_product"
    k_factor: float = 4.0
    check_signs: bool = True

    def __post_init__(self) -> None:
        _floats("queries", self.queries)
        if self.vectors is not None and not callable(self.vectors):
            _floats("vectors", self.vectors)
            if self.vectors.shape[1] != self.queries.shape[1]:
                raise ValueError(
                    f"Rerank: queries and vectors must have the same number of dimensions; got {self.queries.shape[1]} "
                    f"and {self.vectors.shape[1]}"
                )
        checks.choice("Rerank", "metric", self.metric, METRICS)
        if isinstance(self.k_factor, bool) or not isinstance(self.k_factor, numbers.Real):
            raise TypeError(f"Rerank: k_factor must be a number; got {checks.describe(self.k_factor)}")
        if not 1 <= self.k_factor < math.inf:
            raise ValueError(f"Rerank: k_factor must be at least 1 and finite; got {self.k_factor}")
        if not isinstance(self.check_signs, bool):
            raise TypeError(f"Rerank: check_signs must be True or False; got {checks.describe(self.check_signs)}")

    @property
    def worst(self) -> float:
        """The score of an entry of the result for which no code was found."""
        return math.inf if self.metric == "l2" else -math.inf

    def shortlist(self, k: int, ntotal: int) -> int:
        """Return how many codes to find by Hamming distance for an answer of `k` from `ntotal` codes."""
        most = max(ntotal, 1)
        return most if k * self.k_factor >= most else math.ceil(k * self.k_factor)


def check_rerank(op: str, rerank: Any, queries: Tensor, count: int) -> None:
    """Check that `rerank` fits the packed `queries`, uint8 [Q, bits/8], and `count` codes of the same width.

    Raises:
        TypeError: `rerank` is not a Rerank.
        ValueError: Its queries or vectors have another shape, or its queries are compared with codes and are of another space.
    """
    bits = 8 * queries.shape[1]
    if not isinstance(rerank, Rerank):
        raise TypeError(f"{op}: rerank must be a search.Rerank; got {checks.describe(rerank)}")
    asked = checks.describe(rerank.queries)
    if len(rerank.queries) != len(queries):
        raise ValueError(f"{op}: rerank.queries must have a row for each of the {len(queries)} queries; got {asked}")
    if rerank.vectors is None and not bits - 8 < rerank.queries.shape[1] <= bits:
        raise ValueError(
            f"{op}: rerank.queries must be [Q, {bits}] to be compared with codes of {bits} bits (or up to 7 less, where they "
            f"are padded); got {asked}. Give rerank.vectors for vectors of another space"
        )
    if rerank.vectors is not None and not callable(rerank.vectors) and len(rerank.vectors) != count:
        raise ValueError(
            f"{op}: rerank.vectors must have a row for each of the {count} codes of the index; "
            f"got {checks.describe(rerank.vectors)}"
        )

    if rerank.vectors is None and rerank.check_signs:
        share = _agreement(rerank.queries, queries)
        if share is not None and share < _FOREIGN:
            raise ValueError(
                f"{op}: rerank.queries are compared with codes, but only {share:.0%} of their signs are the bits of the packed "
                "queries. Give the vectors that were packed, such as head(x), not the inputs x of the head; "
                "check_signs=False allows other vectors"
            )


Gather = Callable[[Tensor], Tensor]  # positions int64 [M] -> codes uint8 [M, bits/8] or ids int64 [M]


class Source(NamedTuple):
    """The parts of a search and its index that a second ranking reads."""

    op: str  # the name of the call in errors
    queries: Tensor  # uint8 [Q, bits/8], the packed queries
    codes_at: Gather
    ids_at: Gather


def reranked(how: Rerank, positions: Tensor, k: int, source: Source) -> tuple[Tensor, Tensor]:
    """Return the best `k` of each row of `positions`, int64 [Q, S] in Hamming order, with -1 at the end of short rows.

    Returns:
        (scores float32, positions int64) [Q, k], best first, equal scores in Hamming order. A place that cannot be filled has
        position -1 and the worst score.
    """
    return best_by_score(how, scores_of(how, positions, source), positions, k)


def scores_of(how: Rerank, positions: Tensor, source: Source) -> Tensor:
    """Return the score of each of `positions` [Q, S], float32; the scores at position -1 are arbitrary."""
    queries = as_tensor(how.queries).detach().to(positions.device, torch.float32)
    if how.metric == "cosine":
        queries = unit_rows(queries)
    width = 4 * max(queries.shape[1], 1)
    columns = max(_FEWEST_COLUMNS, _GATHERED_BYTES // width)
    rows = max(1, _GATHERED_BYTES // (width * max(min(positions.shape[1], columns), 1)))
    scores = torch.empty(positions.shape, dtype=torch.float32, device=positions.device)
    for start in range(0, len(positions), rows):
        for first in range(0, positions.shape[1], columns):
            block = slice(start, start + rows), slice(first, first + columns)
            vectors = _vectors(how, positions[block], source, is_first=start == first == 0)  # [q, S, D]
            scores[block] = _scores(how.metric, queries[block[0]], vectors)
    return scores


def best_by_score(how: Rerank, scores: Tensor, positions: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the best `k` of `scores` and `positions` [Q, S]; equal scores keep their order, and NaN comes after every number."""
    short = max(k - positions.shape[1], 0)
    positions = F.pad(positions, (0, short), value=MISSING_ID)
    scores = F.pad(scores, (0, short)).masked_fill(positions < 0, how.worst)
    sortable = scores.nan_to_num(how.worst, math.inf, -math.inf)
    order = torch.argsort(sortable, dim=1, stable=True, descending=how.worst < 0)[:, :k]
    return scores.gather(1, order), positions.gather(1, order)


def _vectors(how: Rerank, positions: Tensor, source: Source, *, is_first: bool) -> Tensor:
    """Return the vectors at `positions` [Q, S], float32 [Q, S, D], zeros at position -1. Each vector is fetched once.

    The vectors of the first block are compared with their codes.
    """
    exists = positions >= 0
    fetched, places = positions[exists].unique(return_inverse=True)
    vectors = torch.zeros(*positions.shape, how.queries.shape[1], dtype=torch.float32, device=positions.device)
    if len(fetched):
        rows = _fetched(how, fetched, source)
        if is_first and how.vectors is not None and how.check_signs:
            _check_same_space(how, fetched, rows, source)
        vectors[exists] = rows.to(positions.device, torch.float32)[places]
    return vectors


def _fetched(how: Rerank, positions: Tensor, source: Source) -> Tensor:
    """Return the vectors at `positions`, int64 [M] ascending, as float [M, D]."""
    dimensions = how.queries.shape[1]
    if how.vectors is None:
        return unpack_codes(source.codes_at(positions), dimensions)
    if isinstance(how.vectors, np.ndarray):
        return as_tensor(how.vectors[positions.cpu().numpy()])
    if isinstance(how.vectors, Tensor):
        return how.vectors.detach()[positions.to(how.vectors.device)]
    vectors = how.vectors(source.ids_at(positions).cpu().numpy())
    _floats("what vectors returns", vectors)
    if tuple(vectors.shape) != (len(positions), dimensions):
        raise ValueError(
            f"Rerank: vectors must return [{len(positions)}, {dimensions}] for {len(positions)} ids; "
            f"got {checks.describe(vectors)}"
        )
    return as_tensor(vectors).detach()


def _check_same_space(how: Rerank, positions: Tensor, vectors: Tensor, source: Source) -> None:
    """Raise ValueError if the queries were packed into their codes and `vectors` [M, D] were not, or the other way round."""
    asked = _agreement(how.queries, source.queries)
    stored = None if asked is None else _agreement(vectors, source.codes_at(positions[:_COMPARED_ROWS]))
    if asked is None or stored is None or max(asked, stored) < _OF_CODES or min(asked, stored) >= _FOREIGN:
        return
    packed, other = ("queries", "vectors") if asked > stored else ("vectors", "queries")
    raise ValueError(
        f"{source.op}: rerank.{packed} are the vectors that were packed into codes ({max(asked, stored):.0%} of their signs are "
        f"the bits), and rerank.{other} are not ({min(asked, stored):.0%}). Give outputs of the head for both, or its inputs for "
        "both; check_signs=False allows other vectors"
    )


def _agreement(vectors: Any, codes: Tensor) -> float | None:
    """Return the share of entries of `vectors` [M, D] whose sign is their bit in `codes`, uint8 [M, bits/8].

    Only the first rows are compared, and entries without a sign do not count. The share is None if D is not the number of bits
    (or up to 7 less, for padded codes), or nothing is left to count.
    """
    bits, dimensions = 8 * codes.shape[1], vectors.shape[1]
    if not bits - 8 < dimensions <= bits:
        return None
    rows = as_tensor(vectors[:_COMPARED_ROWS]).detach().to(codes.device)
    signs = unpack_codes(codes[:_COMPARED_ROWS].contiguous(), dimensions)
    counted = (rows < 0) | (rows > 0)
    total = int(counted.sum())
    return int((counted & ((rows > 0) == (signs > 0))).sum()) / total if total else None


def _scores(metric: str, queries: Tensor, vectors: Tensor) -> Tensor:
    """Return scores [Q, S] of queries [Q, D] and vectors [Q, S, D], which are overwritten.

    Every row is summed in the same way, so that equal vectors have equal scores.
    """
    if metric == "l2":
        return vectors.sub_(queries[:, None]).square_().sum(2)
    if metric == "cosine":
        vectors = unit_rows(vectors)
    return vectors.mul_(queries[:, None]).sum(2)


def _floats(name: str, value: Any) -> None:
    """Raise TypeError or ValueError unless `value` is a float tensor or array of two dimensions. A memmap is not copied."""
    if not isinstance(value, np.ndarray | Tensor):
        raise TypeError(f"Rerank: {name} must be a float tensor or array [N, D]; got {checks.describe(value)}")
    floating = value.dtype in _FLOATS if isinstance(value, Tensor) else value.dtype in (np.float16, np.float32, np.float64)
    if not floating:
        raise TypeError(
            f"Rerank: {name} must be floats; got {checks.describe(value)}. Convert with .to(torch.float32) or .astype(np.float32)"
        )
    if value.ndim != 2 or value.shape[1] == 0:
        raise ValueError(f"Rerank: {name} must be [N, D]; got {checks.describe(value)}")
