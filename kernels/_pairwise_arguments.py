"""Argument groups of the kernels of the pairwise likelihood, in the order in which the kernels take them."""

from typing import Literal, NamedTuple

from torch import Tensor

Similarity = Literal["any", "jaccard", "squared_cosine"]
Reduction = Literal["none", "mean", "sum"]


class Labels(NamedTuple):
    """Labels of the rows or of the columns: class ids, or sets of classes as bits.

    The bits are stored word by word: the first words of all rows come first.
    """

    ids: Tensor | None  # int64 [N]
    words: Tensor | None  # int32 [W, N]
    sizes: Tensor | None  # int32 [N], classes in each set


class Side(NamedTuple):
    """Codes and their labels: the rows or the columns of the matrix of pairs."""

    codes: Tensor  # float [N, K]
    labels: Labels


class Halves(NamedTuple):
    """Codes split into two fp16 halves and one scale per row, for tensor cores."""

    halves: Tensor  # fp16 [2, N, stride], zeros beyond K
    scale: Tensor  # float32 [N], the factor of each row, times 2^14


class Pairing(NamedTuple):
    """Options for the comparison of rows and columns, which are the same if the two are exchanged."""

    alpha: float
    positive_weight: float | None  # None for 1; not used if balanced
    balanced: bool
    similarity: Similarity
    ignore_index: int


class Kept(NamedTuple):
    """The number of rows whose label is known, counted block by block."""

    counts: Tensor | None  # int32 [sides, blocks]; None for sets of classes, which are all known
    blocks: int
    own: bool  # True if one side is both rows and columns
