"""Tests of the loss kernels compiled for many GPUs: registers, shared memory, instructions, no atomics.

Each test compiles the choice of `plan` for a number of bits, a precision and a kind of target. Of the other options (latents,
margin, with and without gradients) it uses those that need most registers. With ORTHOHASH_TEST_ALL=1 it uses all of them.
"""

import itertools
import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from orthohash_triton.kernels import batch_norm
from orthohash_triton.kernels import cosine_codebook_loss as kernel

from tests.compiled import DEVICES, compile_launches

EVERYTHING = bool(os.environ.get("ORTHOHASH_TEST_ALL"))
TARGETS = ["sm_80", "sm_90", "sm_100", "gfx942"]
TENSOR_CORES = {
    "sm_80": r"mma\.sync.*f32\.f16\.f16",
    "sm_90": r"wgmma.*f32\.f16\.f16|mma\.sync.*f32\.f16\.f16",
    "sm_100": r"tcgen05\.mma.*kind::f16|mma\.sync.*f32\.f16\.f16",
    "gfx942": r"v_mfma_f32_\w*_f16",
}

# Every size of a slice that `plan` knows, and all paths through chunks: bits that fill no slice, that fill no word, and the most.
# Rows of 24, 50, 100 and 300 bits are not whole vectors.
BITS = [8, 16, 24, 32, 48, 50, 64, 100, 112, 128, 256, 300, 400, 512, 600, 2048]
KINDS = ["ids", "dense", "sparse"]
FEW, MANY = 100, 100_000  # classes: one launch, which finishes its own rows; several parts
HOW = {  # latents and their normalisation: how a sweep loads its rows
    "float32": (torch.float32, 0),
    "float16, normalised": (torch.float16, 2),
    "bfloat16, normalised, affine": (torch.bfloat16, 4),
}

# (bits, kind, p_terms, classes): the widest of each tile, in the mode with most accumulators, and tiles that once spilled.
REPRESENTATIVE = {
    (8, "dense", 2, FEW), (8, "sparse", 2, MANY), (50, "ids", 2, FEW), (50, "ids", 1, MANY),
    (100, "ids", 2, MANY), (100, "dense", 2, MANY), (300, "ids", 2, MANY),
    (64, "ids", 2, FEW), (64, "dense", 2, FEW), (64, "ids", 1, MANY), (64, "sparse", 2, MANY),
    (128, "ids", 1, MANY), (128, "dense", 1, MANY), (128, "sparse", 1, MANY), (256, "ids", 2, MANY), (400, "ids", 2, MANY),
    (512, "dense", 2, MANY), (600, "sparse", 1, MANY), (2048, "ids", 2, MANY),
}  # fmt: skip


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def run_loss(bits, kind, p_terms, classes, how="bfloat16, normalised, affine", angular=True, backward=True):
    rows = 256
    dtype, affine = HOW[how]
    columns = values = None
    target = meta(rows, dtype=torch.int64)
    if kind == "dense":
        target = meta(rows, classes)
    if kind == "sparse":
        target, columns, values = meta(rows + 1, dtype=torch.int64), meta(999, dtype=torch.int64), meta(999)
    norm = [meta(bits) if i < affine else None for i in range(4)]
    prepared = kernel.Prepared(meta(classes, (bits + 31) // 32, dtype=torch.int32), meta(bits))
    kernel.cosine_codebook_loss(
        meta(rows, bits, dtype=dtype), *norm, target, columns, values, prepared,
        meta(rows), meta(rows), meta(rows, bits), meta(rows, bits),
        p_terms=p_terms, scale=bits**0.5 / 2, margin=0.2, angular=angular, label_smoothing=0.1, ignore_index=-100,
        need_grad=backward, need_lse_grad=backward,
    )  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("bits", "kind", "p_terms", "classes"), list(itertools.product(BITS, KINDS, [1, 2], [FEW, MANY])))
def test_sweep_and_finish(bits, kind, p_terms, classes, target):
    if (bits, kind, p_terms, classes) not in REPRESENTATIVE and not EVERYTHING:
        pytest.skip("ORTHOHASH_TEST_ALL=1 compiles this one too")

    def every_launch():
        run_loss(bits, kind, p_terms, classes)
        if EVERYTHING:
            for rest in itertools.product(HOW, [False, True], [False, True]):
                run_loss(bits, kind, p_terms, classes, *rest)

    compiled = compile_launches(target, every_launch)
    chunked = bits > kernel.MAX_BLOCK_K
    names = {"_halves_kernel", "_dots_kernel", "_sweep_kernel", "_finish_kernel"} if chunked else {"_sweep_kernel"}
    assert {c.kernel for c in compiled} - {"_finish_kernel"} == names - {"_finish_kernel"}
    for c in compiled:
        c.check_budget()
        multiplies = c.kernel == "_sweep_kernel" and (c.constexprs["NEED_GRAD"] or not chunked)
        assert c.contains(TENSOR_CORES[target]) or not (multiplies or c.kernel == "_dots_kernel")


@pytest.mark.parametrize("classes", [FEW, MANY])
def test_launches(classes):
    """Few classes take one launch, many take two."""
    names = [c.kernel for c in compile_launches("sm_80", lambda: run_loss(64, "ids", 2, classes))]
    assert names == ["_sweep_kernel"] if classes == FEW else names == ["_sweep_kernel", "_finish_kernel"]


def test_every_launch_of_the_plan_is_compiled_above():
    """The tiles that `plan` picks over all numbers of bits are those of BITS."""

    def chosen(bits, classes, kind, arch):
        plan = kernel.plan(256, classes, bits, kind, True, False, DEVICES[arch])
        tiles = plan.block_m, plan.block_n, plan.block_k, plan.chunked, plan.fuse_epilogue
        return *tiles, plan.min_blocks_per_sm, plan.hoist, plan.num_warps, plan.num_stages

    numbers_of_bits = [*range(1, 70), *range(120, 2049, 8), 129, 257, 513]
    for kind, arch in itertools.product(KINDS, TARGETS):
        compiled = {chosen(bits, classes, kind, arch) for bits in BITS for classes in (FEW, MANY)}
        for classes in (1, FEW, 5000, MANY):
            assert {chosen(bits, classes, kind, arch) for bits in numbers_of_bits} <= compiled


@pytest.mark.parametrize("target", TARGETS)
def test_batch_norm(target):
    latent, column = meta(256, 64), meta(64)

    def every_kernel():
        batch_norm.statistics(latent, 1, 1e-5)
        batch_norm.sums(latent, meta(256), latent, column, column)
        batch_norm.input_gradient(latent, meta(), latent, column, column, column, column, column, 0.5)

    compiled = compile_launches(target, every_kernel)
    assert len(compiled) == 3
    for c in compiled:
        c.check_budget()
