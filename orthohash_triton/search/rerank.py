"""A second, finer ranking of the nearest codes: by float vectors, or by float queries against the codes themselves."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._base import checks
from .._base.arrays import as_tensor
from ..ops.pack_codes import unpack_codes
from ._arguments import found

METRICS = ("inner_product", "cosine", "l2")

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_GATHERED_BYTES = 2**26  # of vectors at a time


@dataclass(frozen=True, eq=False)
class Rerank:
    """How `HammingIndex.search` ranks its shortlist, the `ceil(k * k_factor)` codes nearest by Hamming distance, again.

    queries: float [Q, D], one row for each packed query.
    vectors: what they are compared with:
        - float [N, D], one row for each position of the index: a tensor on any device, a numpy array or memmap. Only the rows
          of the shortlist are read.
        - a function from ids, int64 [M] (numpy, each once), to their vectors, float [M, D].
        - None: the codes themselves as vectors of +-1 (asymmetric search, which needs no stored vectors). D is then the number
          of bits, or up to 7 less where the codes were padded.
    metric: "inner_product" and "cosine" put the greatest score first, "l2" (the squared distance) the least. A vector of zeros
        has cosine 0 with everything; NaN ranks last.
    k_factor: how much longer than the answer the shortlist is, at least 1.

    Raises: TypeError, ValueError for anything else.
    """

    queries: Any
    vectors: Any = None
    metric: str = "inner_product"
    k_factor: float = 4.0

    def __post_init__(self) -> None:
        _floats("queries", self.queries)
        if self.vectors is not None and not callable(self.vectors):
            _floats("vectors", self.vectors)
            if self.vectors.shape[1] != self.queries.shape[1]:
                raise ValueError(
                    f"Rerank: queries and vectors must have one number of dimensions; got {self.queries.shape[1]} "
                    f"and {self.vectors.shape[1]}"
                )
        checks.choice("Rerank", "metric", self.metric, METRICS)
        if isinstance(self.k_factor, bool) or not isinstance(self.k_factor, numbers.Real):
            raise TypeError(f"Rerank: k_factor must be a number; got {checks.describe(self.k_factor)}")
        if not 1 <= self.k_factor < math.inf:
            raise ValueError(f"Rerank: k_factor must be at least 1 and finite; got {self.k_factor}")

    def shortlist(self, k: int, ntotal: int) -> int:
        """Codes to find by Hamming distance for an answer of `k`."""
        return min(math.ceil(k * self.k_factor), max(ntotal, 1))

    def check(self, op: str, queries: int, bits: int, ntotal: int) -> None:
        """Raises ValueError unless this goes with `queries` packed queries and an index of `ntotal` codes of `bits` bits."""
        dimensions = self.queries.shape[1]
        if len(self.queries) != queries:
            raise ValueError(f"{op}: rerank.queries must have a row for each of the {queries} queries; got {found(self.queries)}")
        if self.vectors is None and not bits - 8 < dimensions <= bits:
            raise ValueError(
                f"{op}: rerank.queries must be [Q, {bits}] to be compared with codes of {bits} bits (or up to 7 less, where they "
                f"are padded); got {found(self.queries)}. Give rerank.vectors for vectors of another space"
            )
        if self.vectors is not None and not callable(self.vectors) and len(self.vectors) != ntotal:
            raise ValueError(
                f"{op}: rerank.vectors must have a row for each of the {ntotal} codes of the index; got {found(self.vectors)}"
            )


Gather = Callable[[Tensor], Tensor]  # positions int64 [M] -> codes uint8 [M, bits/8] or ids int64 [M]


def reranked(how: Rerank, positions: Tensor, k: int, codes_at: Gather, ids_at: Gather) -> tuple[Tensor, Tensor]:
    """The best `k` of each row of `positions`, int64 [Q, S] in Hamming order with -1 at its end, by `how`.

    Returns (scores float32, positions int64) [Q, k], best first, equal scores in Hamming order; where there are fewer, -1 and the
    worst score, an infinity.
    """
    worst = math.inf if how.metric == "l2" else -math.inf
    queries = as_tensor(how.queries).detach().to(positions.device, torch.float32)
    if how.metric == "cosine":
        queries = F.normalize(queries, dim=1)
    rows = max(1, _GATHERED_BYTES // (4 * max(queries.shape[1], 1) * max(positions.shape[1], 1)))
    scores = torch.full((len(positions), max(positions.shape[1], k)), worst, device=positions.device)
    for start in range(0, len(positions), rows):
        here = positions[start : start + rows]
        vectors = _vectors(how, here, codes_at, ids_at).to(positions.device)  # [q, S, D]
        scores[start : start + rows, : here.shape[1]] = _scores(how.metric, queries[start : start + rows], vectors)
    positions = F.pad(positions, (0, scores.shape[1] - positions.shape[1]), value=-1)
    scores = scores.masked_fill(positions < 0, worst)
    order = torch.argsort(scores.nan_to_num(worst, math.inf, -math.inf), dim=1, stable=True, descending=worst < 0)[:, :k]
    return scores.gather(1, order), positions.gather(1, order)


def _vectors(how: Rerank, positions: Tensor, codes_at: Gather, ids_at: Gather) -> Tensor:
    """float32 [Q, S, D], zeros at position -1; each vector is fetched once, in the order of positions, however many found it."""
    there = positions >= 0
    fetched, places = positions[there].unique(return_inverse=True)
    vectors = torch.zeros(*positions.shape, how.queries.shape[1], device=positions.device)
    if len(fetched):
        vectors[there] = _fetched(how, fetched, codes_at, ids_at).to(positions.device, torch.float32)[places]
    return vectors


def _fetched(how: Rerank, positions: Tensor, codes_at: Gather, ids_at: Gather) -> Tensor:
    """The vectors of `positions` [M], ascending: float [M, D]."""
    dimensions = how.queries.shape[1]
    if how.vectors is None:
        return unpack_codes(codes_at(positions), dimensions)
    if isinstance(how.vectors, np.ndarray):
        return as_tensor(how.vectors[positions.cpu().numpy()])
    if isinstance(how.vectors, Tensor):
        return how.vectors.detach()[positions.to(how.vectors.device)]
    vectors = how.vectors(ids_at(positions).cpu().numpy())
    _floats("what vectors returns", vectors)
    if tuple(vectors.shape) != (len(positions), dimensions):
        raise ValueError(
            f"Rerank: vectors must return [{len(positions)}, {dimensions}] for {len(positions)} ids; got {found(vectors)}"
        )
    return as_tensor(vectors).detach()


def _scores(metric: str, queries: Tensor, vectors: Tensor) -> Tensor:
    """[Q, S] from [Q, D] and [Q, S, D], which is overwritten. Rows are summed alike: equal vectors have equal scores."""
    if metric == "l2":
        return vectors.sub_(queries[:, None]).square_().sum(2)
    if metric == "cosine":
        vectors = F.normalize(vectors, dim=2)
    return vectors.mul_(queries[:, None]).sum(2)


def _floats(name: str, value: Any) -> None:
    """Raises unless `value` is a float tensor or array of two dimensions; without a copy of what may be a memmap."""
    if not isinstance(value, np.ndarray | Tensor):
        raise TypeError(f"Rerank: {name} must be a float tensor or array [N, D]; got {checks.describe(value)}")
    floating = value.dtype in _FLOATS if isinstance(value, Tensor) else value.dtype in (np.float16, np.float32, np.float64)
    if not floating:
        raise TypeError(f"Rerank: {name} must be floats; got {found(value)}. Convert with .to(torch.float32) or .astype")
    if value.ndim != 2 or value.shape[1] == 0:
        raise ValueError(f"Rerank: {name} must be [N, D]; got {found(value)}")
