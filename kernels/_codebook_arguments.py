"""Argument groups of the kernels of the codebook loss, in the order in which the kernels take them."""

import math
from typing import Literal, NamedTuple

from torch import Tensor

TargetKind = Literal["ids", "dense", "sparse"]


class Rows(NamedTuple):
    """The rows, and the batch normalisation that is applied on loading them."""

    v: Tensor  # float [N, K], contiguous
    mean: Tensor | None  # [K]; None for no normalisation
    rstd: Tensor | None  # [K]
    weight: Tensor | None  # [K]
    bias: Tensor | None  # [K]

    def pointers(self) -> tuple[Tensor | None, ...]:
        """Return the tensors with others in place of an absent weight and bias, which `lengths` tells kernels not to read."""
        weight = self.rstd if self.weight is None else self.weight
        return self.v, self.mean, self.rstd, weight, self.mean if self.bias is None else self.bias

    def lengths(self) -> tuple[int, int, int]:
        """Return K and the lengths of weight and bias, which are K or 0: numbers, so that kernels are not compiled for each."""
        bits = self.v.shape[1]
        return bits, 0 if self.weight is None else bits, 0 if self.bias is None else bits


class Target(NamedTuple):
    """The target of the rows. Its kind follows from which tensors there are; see `kind`."""

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
    """A codebook as the kernels read it."""

    words: Tensor  # int32 [C, ceil(K / 32)]
    column_sum: Tensor  # float32 [K]


class State(NamedTuple):
    """The state of each split after its sweep; None for what is not needed."""

    m: Tensor | None  # [K blocks, splits, N], maximum; equal for all blocks of bits
    l: Tensor | None  # [K blocks, splits, N], denominator
    acc: Tensor | None  # [splits, N, K], codes weighted by their probabilities
    target_logit: Tensor | None  # [K blocks, splits, N], logits weighted by the target
    target_acc: Tensor | None  # [splits, N, K], codes weighted by the target


class Outputs(NamedTuple):
    """What the loss fills; None for a gradient that is not needed."""

    loss: Tensor  # float32 [N]
    lse: Tensor  # float32 [N]
    grad: Tensor | None  # float32 [N, K]
    lse_grad: Tensor | None  # float32 [N, K]

    def pointers(self) -> tuple[Tensor, ...]:
        """Return the tensors with `loss` in place of absent gradients, which `wanted` tells kernels not to store."""
        grad, lse_grad = (self.loss if gradient is None else gradient for gradient in (self.grad, self.lse_grad))
        return self.loss, self.lse, grad, lse_grad

    def wanted(self) -> tuple[int, int]:
        """Return 1 or 0 for each gradient: numbers, so that kernels are not compiled for each combination."""
        return int(self.grad is not None), int(self.lse_grad is not None)


class Options(NamedTuple):
    """The numbers that every row needs."""

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
        """Derive the numbers from the options of the loss."""
        return cls(
            scale, scale / math.sqrt(bits), margin, math.cos(margin), math.sin(margin), math.cos(math.pi - margin),
            label_smoothing, ignore_index,
        )  # fmt: skip


class Plan(NamedTuple):
    """Tile sizes and the split of the work; a pure function of the problem."""

    block_m: int  # rows
    block_n: int  # classes
    block_k: int  # bits of a program's accumulator; a power of two
    tile_k: int  # bits of one tensor-core product
    k_blocks: int
    chunked: bool  # the dot products of a chunk of classes are in memory
    chunk: int  # classes per sweep
    splits: int
    blocks_per_split: int
    fuse_epilogue: bool  # the sweep finishes its own rows
    min_blocks_per_sm: int | None  # programs that must fit a multiprocessor, so that the compiler does not aim at more
    hoist: bool  # whether the compiler may move loop invariants out of the sweep's loop, into registers
    num_warps: int
    num_stages: int
