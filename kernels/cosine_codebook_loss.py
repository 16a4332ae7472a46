"""Codebook loss on a GPU: loss and gradient in one sweep over the classes, without storing the logits.

The codebook is fixed, so the softmax is attention with K = V = codebook. Let v^ = v / |v|, o_c the +-1 code of class c, s the
logit scale and z_c = (s / sqrt(K)) v^ . o_c. A sweep over the classes keeps, for each row, the running maximum m_i of z_c, the
denominator l_i = sum_c e^(z_c - m_i) and the accumulator acc = sum_c e^(z_c - m_i) o_c. Together they give the loss and its
gradient with respect to v^. Names and recurrence are those of FlashAttention.

  sweep    One program takes a block of rows, a block of bits and a split of the classes, and writes (m_i, l_i, acc).
  finish   One program takes a block of rows, merges the splits in their order, adds the positive classes and applies the
           derivative of v / |v|.

If there are few classes, one program sweeps all of them and finishes its own rows (`fuse_epilogue`), in one launch. Wide rows,
rows that are not whole vectors and sparse targets would spill there, because the epilogue needs v, the code of a positive and
both accumulators at once.

Numerics. Codes are exact in fp16, so only v^ and p = e^(z - m) are rounded. Each is the sum of a high and a low fp16 half, scaled
by powers of two to avoid fp16's subnormals. The two halves are as accurate as a float32 product, and both run on tensor
cores with float32 accumulation. Tensor cores truncate what they accumulate, which over many blocks of classes is a bias, so where
the registers allow it each block starts from zero and float32 units add it to the accumulator. Precision "high" (`p_terms` = 1)
omits the low half of p, and sums the rounded p into l_i, so that rounding moves weight between classes but loses none; logits are
the same for both precisions. Exponentials are powers of two of logits multiplied by log2(e).

Tiles. A block of classes takes as long in the tensor cores as in the arithmetic units, so programs of four warps share a
multiprocessor, and a warp keeps its rows from the logits to the accumulator. The bits are processed in tiles of 64, so that the
product of a block takes few registers. At 128 bits an H100 is 4.6 times as fast as with eight warps and whole rows.

Positive classes. With one id per row, or a sparse (CSR) target, the sweep leaves out the positives of a row and applies no
margin. `finish` adds them in closed form from float32 dot products, so softmax minus target is never computed by cancellation.
The columns of a sparse row ascend, so one pointer per row follows the sweep. With a dense [N, C] target the margin is part of the
sweep, which then also sums q_c o_c and q_c z_c, where q is the smoothed target.

More than MAX_BLOCK_K bits need more accumulators than a program has registers. The alternatives, in units of N C K multiply-adds
with two halves:
  every block of B bits computes all logits again: 2 (K / B + 1);
  one sweep for m_i and l_i, a second one for p: 6, and p must still reach all blocks of bits;
  dot products of a chunk of classes in memory, which all blocks of bits read: 4, and nothing is computed twice.
The last is used: `dots` fills a scratch of SCRATCH numbers (or MIN_CHUNK numbers per row, if that is more), `sweep` reads it and
continues from the state after the previous chunk, and the next chunk overwrites it. For usual batches the scratch stays in L2.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _codebook_dots, _codebook_finish, _codebook_sweep
from ._codebook_arguments import Options, Outputs, Plan, Prepared, Rows, State, Target, TargetKind
from ._device import Device, Family, device_of
from ._sizes import cdiv, next_power_of_2
from .mean import labelled_mean
from .pack_codes import pack_codes

MAX_BLOCK_K = 128  # bits whose gradient accumulates in registers at once
MAX_BLOCK_K_RDNA = 32  # on "rdna" GPUs operands of matrix products take twice the registers
TILE_K = 64  # bits of one tensor-core product
MIN_BLOCK_K = 32  # a word of the codebook; a dot product over 16 bits spills
SCRATCH = 2**23  # dot products in memory at once: 32 MB
MIN_CHUNK = 1024  # fewest classes of a chunk, so that a large batch fills the device; v and its gradient take as much memory
FEW_CLASSES = 256  # up to this many, one program sweeps all classes faster than a second launch starts

MEAN_SCALES_BACKWARD = True  # the backward multiplies by the factor of the mean, so that the host need not read it


def prepare(codebook: Tensor) -> Prepared:
    """Pack an int8 +-1 codebook [C, K]. Callers keep the result, so that each codebook is packed once."""
    classes, bits = codebook.shape
    packed = torch.empty(classes, 4 * cdiv(bits, 32), dtype=torch.uint8, device=codebook.device)
    pack_codes(codebook, 0.0, packed)
    return Prepared(packed.view(torch.int32), codebook.sum(0, dtype=torch.float32))


def plan(rows: int, classes: int, bits: int, kind: TargetKind, backward: bool, wide: bool, device: Device) -> Plan:
    """Choose tiles whose accumulators fit the registers, and split the classes until the device is full.

    Tests compile every choice and allow no spill. `wide`: the latents are float32.
    """
    family = device.family
    max_block_k = MAX_BLOCK_K_RDNA if family == "rdna" else MAX_BLOCK_K
    chunked = bits > max_block_k
    block_k = max_block_k if chunked else max(next_power_of_2(bits), MIN_BLOCK_K)
    k_blocks = cdiv(bits, block_k) if backward else 1
    aligned = bits % 16 == 0  # rows are whole vectors, whose addresses take few registers
    # Sparse rows are not fused, because the loop over their entries needs two more accumulators.
    fuse_epilogue = classes <= FEW_CLASSES and aligned and not chunked and block_k <= TILE_K and kind != "sparse"
    block_m, block_n = _tile(bits, kind, chunked, fuse_epilogue, family)
    chunk = classes
    if chunked:  # rows of the scratch begin at multiples of a tile, for aligned loads
        most = max(SCRATCH // rows, MIN_CHUNK) // _codebook_dots.BLOCK_N
        chunk = min(cdiv(classes, _codebook_dots.BLOCK_N), most) * _codebook_dots.BLOCK_N
    blocks = cdiv(chunk, block_n)
    programs = cdiv(rows, block_m) * k_blocks
    fills_device = cdiv(blocks, max(1, 2 * device.multiprocessors // programs))
    merges_soon = math.ceil(math.sqrt(blocks / 2))  # `finish` merges one split after the other, in half the time of a block
    blocks_per_split = blocks if fuse_epilogue else max(fills_device, merges_soon)
    splits = cdiv(blocks, blocks_per_split)
    # Fused programs are few, and most that sweep a dense target take over a third of the registers in any case.
    dense = kind == "dense" and not chunked and family in ("sm_90", "sm_100")
    roomy = fuse_epilogue or dense or family in ("sm_86", "sm_120")
    min_blocks_per_sm = 2 if roomy else None  # the splits fill a device twice
    hoist = _hoists(bits, kind, chunked, family)
    # Loading the next codes in advance takes so many registers that some would spill.
    full = (family, kind, block_k, chunked, wide) == ("sm_90", "ids", MAX_BLOCK_K, False, True)
    num_stages = 1 if full or family == "rdna" else 2
    return Plan(
        block_m, block_n, block_k, min(TILE_K, block_k), k_blocks, chunked, chunk, splits, blocks_per_split, fuse_epilogue,
        min_blocks_per_sm, hoist, 4, num_stages,
    )  # fmt: skip


def _tile(bits: int, kind: TargetKind, chunked: bool, fuse_epilogue: bool, family: Family) -> tuple[int, int]:
    """Return the tile sizes (BLOCK_M, BLOCK_N) of the sweep.

    Hopper's tensor cores take 64 rows, and read operands that do not change from shared memory instead of registers.
    """
    rdna = family == "rdna"
    if kind == "dense" and bits > TILE_K and not rdna:  # a second accumulator, as wide as the first
        return 16, 32
    if fuse_epilogue or rdna or family == "sm_120":
        return (16, 64) if family == "sm_100" else (32, 32)
    if kind == "dense":
        return (32, 32) if bits % 16 == 0 else (16, 64)
    if bits % 16 != 0:
        return 32, 64
    if family == "sm_90":
        return 64, 32 if bits > 2048 or (chunked and kind == "sparse") else 64
    return 64 if bits <= 64 else 32, 64


def _hoists(bits: int, kind: TargetKind, chunked: bool, family: Family) -> bool:
    """Return whether the compiler may keep loop invariants in registers: False where they would spill.

    These cases were found by compiling every configuration.
    """
    if family in ("cdna", "rdna"):
        return True
    if family == "sm_100":
        return kind != "sparse"
    wide = not chunked and bits > MIN_BLOCK_K
    if family == "sm_90":
        return wide and (kind == "dense" or (kind == "ids" and bits % 16 == 0))
    return wide or kind == "dense"


def loss_and_gradients(
    v: Tensor,  # float [N, K]; batch-normalised on loading if `mean` is given
    mean: Tensor | None,  # [K]
    rstd: Tensor | None,  # [K]
    weight: Tensor | None,  # [K]
    bias: Tensor | None,  # [K]
    target: Tensor,  # int64 [N]; float [N, C]; or, with columns and values, row starts int64 [N + 1]
    columns: Tensor | None,  # int64 [nnz], ascending and unique within a row
    values: Tensor | None,  # float32 [nnz], at least 0
    codes: Prepared,
    *,
    p_terms: int,
    scale: float,
    margin: float,
    angular: bool,
    label_smoothing: float,
    ignore_index: int,
    reduction: Literal["none", "mean", "sum"],
    need_grad: bool,
    need_lse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, the log-sum-exp, and the tensors that the backward needs, in float32.

    Returns:
        loss: a scalar, or [N] for reduction "none".
        lse: [N].
        grad, lse_grad: [N, K], or [0, K] if not needed: gradients of each row's loss and log-sum-exp with respect to the
            normalised row.
        share: what `grad` must still be multiplied with: a scalar for reduction "mean", otherwise [0].
    """
    count, bits = v.shape
    shapes = (count,), (count,), (count if need_grad else 0, bits), (count if need_lse_grad else 0, bits)
    loss, lse, grad, lse_grad = (torch.empty(shape, dtype=torch.float32, device=v.device) for shape in shapes)
    cosine_codebook_loss(
        v, mean, rstd, weight, bias, target, columns, values, codes, loss, lse, grad, lse_grad,
        p_terms=p_terms or (2 if torch.get_float32_matmul_precision() == "highest" else 1), scale=scale, margin=margin,
        angular=angular, label_smoothing=label_smoothing, ignore_index=ignore_index, need_grad=need_grad,
        need_lse_grad=need_lse_grad,
    )  # fmt: skip
    if reduction == "mean":
        loss, share = labelled_mean(loss, _labelled(target, columns, values), ignore_index)
        return loss, lse, grad, lse_grad, share
    return loss if reduction == "none" else loss.sum(), lse, grad, lse_grad, loss.new_empty(0)


def _labelled(target: Tensor, columns: Tensor | None, values: Tensor | None) -> Tensor:
    """Return class ids [N], or for another target whether each row has a positive class, without waiting for the device."""
    if values is not None:
        before = F.pad((values > 0).cumsum(0), (1, 0))  # [nnz + 1]: the number of positives before each entry
        return before[target].diff() > 0
    return target if target.ndim == 1 else target.sum(1) > 0


def cosine_codebook_loss(
    v: Tensor,  # float [N, K]; batch-normalised on loading if `mean` is given
    mean: Tensor | None,  # [K]
    rstd: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    target: Tensor,  # int64 [N]; float [N, C]; or, with columns and values, row starts int64 [N + 1]
    columns: Tensor | None,  # int64 [nnz], ascending and unique within a row
    values: Tensor | None,  # float32 [nnz], at least 0
    codes: Prepared,
    loss: Tensor,  # out: float32 [N]
    lse: Tensor,  # out: float32 [N]
    grad: Tensor,  # out: float32 [N, K], or empty
    lse_grad: Tensor,  # out: float32 [N, K], or empty
    *,
    p_terms: int,
    scale: float,
    margin: float,
    angular: bool,
    label_smoothing: float,
    ignore_index: int,
    need_grad: bool,
    need_lse_grad: bool,
) -> None:
    """Fill loss, log-sum-exp and their gradients with respect to the normalised rows.

    p_terms: fp16 numbers that carry a probability, 2 for float32 accuracy or 1.
    """
    rows, bits = v.shape
    if rows == 0:
        return
    target = target if target.stride(-1) == 1 else target.contiguous()
    total = target.sum(1, dtype=torch.float32) if target.ndim == 2 else None
    given = Rows(v.contiguous(), mean, rstd, weight, bias)
    goal = Target(target, columns, values, total)
    out = Outputs(loss, lse, grad if need_grad else None, lse_grad if need_lse_grad else None)
    options = Options.of(bits, scale, margin, label_smoothing, ignore_index)
    backward = need_grad or need_lse_grad
    device, classes = device_of(v.device), len(codes.words)
    tiles = plan(rows, classes, bits, goal.kind, backward, v.dtype == torch.float32, device)
    state = _empty_state(tiles, rows, bits, goal.kind == "dense", backward, v.device)
    dots = _codebook_dots.Dots(given, tiles.chunk, device) if tiles.chunked else None
    for first in range(0, classes, tiles.chunk):
        end = min(first + tiles.chunk, classes)
        if dots is not None:
            dots.fill(codes, first, end)
        _codebook_sweep.sweep(
            tiles, given, goal, codes, None if dots is None else dots.products, state, out, options, first, end,
            p_terms=p_terms, angular=angular, need_grad=backward,
        )  # fmt: skip
    if not tiles.fuse_epilogue:
        _codebook_finish.finish(tiles.splits, given, goal, codes, state, out, options, angular=angular)


def _empty_state(tiles: Plan, rows: int, bits: int, dense: bool, backward: bool, device: torch.device) -> State:
    """Allocate the state that the sweep fills and `finish` reads."""
    numbers, vectors = (tiles.k_blocks, tiles.splits, rows), (tiles.splits, rows, bits)

    def empty(wanted: bool, shape: tuple[int, ...]) -> Tensor | None:
        return torch.empty(shape, dtype=torch.float32, device=device) if wanted and not tiles.fuse_epilogue else None

    return State(
        m=empty(True, numbers),
        l=empty(True, numbers),
        acc=empty(backward, vectors),
        target_logit=empty(dense, numbers),
        target_acc=empty(dense and backward, vectors),
    )
