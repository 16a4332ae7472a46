"""Argument groups of the kernels of the codebook loss, in the order in which the kernels take them."""

import math
from typing import Literal, NamedTuple

from torch import Tensor

TargetKind = Literal["ids", "dense", "sparse"]


class Rows(NamedTuple):
    """Input rows of the loss, and the batch normalisation that kernels apply when they load the rows."""

    v: Tensor  # float [N, K], contiguous
    mean: Tensor | None  # [K]; None for no normalisation
    rstd: Tensor | None  # [K]
    weight: Tensor | None  # [K]
    bias: Tensor | None  # [K]

    def pointers(self) -> tuple[Tensor | None, ...]:
        """Return the tensors as kernel arguments.

        Another tensor takes the place of an absent weight or bias. Kernels do not read it, because its entry of `lengths` is 0.
        """
        weight = self.rstd if self.weight is None else self.weight
        return self.v, self.mean, self.rstd, weight, self.mean if self.bias is None else self.bias

    def lengths(self) -> tuple[int, int, int]:
        """Return K and the lengths of weight and bias, which are K, or 0 for an absent one.

        The lengths are run-time numbers, so that kernels are not compiled again for each combination.
        """
        bits = self.v.shape[1]
        return bits, 0 if self.weight is None else bits, 0 if self.bias is None else bits


class Target(NamedTuple):
    """Targets of the rows: class ids, a sparse matrix or a dense matrix, as `kind` returns."""

    target: Tensor  # int64 ids [N]; float [N, C]; or int64 row starts [N + 1]
    columns: Tensor | None  # int64 [nnz], ascending and unique within a row
    values: Tensor | None  # float32 [nnz], at least 0
    total: Tensor | None  # float32 [N], the row sums of a dense target

    @property
    def kind(self) -> TargetKind:
        if self.target.ndim == 2:
            return "dense"
        return "ids" if self.columns is None else "sparse"


class Prepared(NamedTuple):
    """A codebook in the form that kernels read: packed bits, and the sum of its rows."""

    words: Tensor  # int32 [C, ceil(K / 32)]
    column_sum: Tensor  # float32 [K]


class State(NamedTuple):
    """Partial results of each split of the classes after its sweep. A tensor that is not needed is None."""

    m: Tensor | None  # [K blocks, splits, N], maximum; equal for all blocks of bits
    l: Tensor | None  # [K blocks, splits, N], denominator
    acc: Tensor | None  # [splits, N, K], codes weighted by their probabilities
    target_logit: Tensor | None  # [K blocks, splits, N], logits weighted by the target
    target_acc: Tensor | None  # [splits, N, K], codes weighted by the target


class Outputs(NamedTuple):
    """Output tensors of the loss. A gradient that is not needed is None."""

    loss: Tensor  # float32 [N]
    lse: Tensor  # float32 [N]
    grad: Tensor | None  # float32 [N, K]
    lse_grad: Tensor | None  # float32 [N, K]

    def pointers(self) -> tuple[Tensor, ...]:
        """Return the tensors as kernel arguments.

        `loss` takes the place of an absent gradient. Kernels do not write it there, because its entry of `wanted` is 0.
        """
        grad, lse_grad = (self.loss if gradient is None else gradient for gradient in (self.grad, self.lse_grad))
        return self.loss, self.lse, grad, lse_grad

    def wanted(self) -> tuple[int, int]:
        """Return for each gradient 1 if kernels store it, otherwise 0.

        These are run-time numbers, so that kernels are not compiled again for each combination.
        """
        return int(self.grad is not None), int(self.lse_grad is not None)


class Options(NamedTuple):
    """Options of the loss, converted to the numbers that kernels use for every row."""

    logit_scale: float
    dot_scale: float  # logit_scale / sqrt(K): a logit per unit of v^ . o_c
    margin: float
    cos_margin: float
    sin_margin: float
    past_pi_cosine: float
    label_smoothing: float
    ignore_index: int

    @classmethod
    def of(cls, bits: int, scale: float, margin: float, label_smoothing: float, ignore_index: int) -> "Options":
        """Convert the public options of the loss to the numbers that kernels use."""
        return cls(
            scale, scale / math.sqrt(bits), margin, math.cos(margin), math.sin(margin), math.cos(math.pi - margin),
            label_smoothing, ignore_index,
        )  # fmt: skip


class Plan(NamedTuple):
    """Tile sizes of a launch, and the division of its work among programs."""

    block_m: int  # rows
    block_n: int  # classes
    block_k: int  # bits of a program's accumulator; a power of two
    tile_k: int  # bits of one tensor-core product
    k_blocks: int
    chunked: bool  # whether the dot products of a chunk of classes are in memory
    chunk: int  # classes per sweep
    splits: int
    blocks_per_split: int
    fuse_epilogue: bool  # whether the sweep also computes the losses and gradients of its rows
    min_blocks_per_sm: int | None  # programs that must fit a multiprocessor, so that the compiler does not aim at more
    hoist: bool  # whether the compiler may move loop invariants out of the sweep's loop, into registers
    num_warps: int
    num_stages: int
