"""Tests of the pairwise likelihood kernels compiled for many GPUs: registers, shared memory, instructions, no atomics.

Each test compiles the choice of `plan` for a number of dimensions and a kind of labels. With ORTHOHASH_TEST_ALL=1 the tests cover
every kind, size and target, and all kernels with and without gradients.
"""

import itertools
import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from orthohash_triton.kernels import _pairwise_prepare, _pairwise_sweep
from orthohash_triton.kernels import pairwise_likelihood_loss as kernel

from tests.compiled import DEVICES, compile_launches

EVERYTHING = bool(os.environ.get("ORTHOHASH_TEST_ALL"))
TARGETS = ["sm_80", "sm_90", "sm_100", "gfx942", "gfx1100"] + (["sm_120", "gfx90a"] if EVERYTHING else [])
TENSOR_CORES = {
    "sm_80": r"mma\.sync.*f32\.f16\.f16",
    "sm_90": r"wgmma.*f32\.f16\.f16|mma\.sync.*f32\.f16\.f16",
    "sm_100": r"tcgen05\.mma.*kind::f16|mma\.sync.*f32\.f16\.f16",
    "sm_120": r"mma\.sync.*f32\.f16\.f16",
    "gfx90a": r"v_mfma_f32_\w*f16",
    "gfx942": r"v_mfma_f32_\w*_f16",
    "gfx1100": r"v_wmma_f32_16x16x16_f16",
}

# Every tile size of `plan`, complete and incomplete: the fewest dimensions, dimensions that fill no tile, and the most.
BITS = [8, 16, 32, 64, 128, 200, 256, 512, 2048]
REPRESENTATIVE = {(16, "ids"), (64, "ids"), (64, "jaccard"), (128, "jaccard"), (256, "squared_cosine"), (512, "ids")}
KINDS = ["ids", "any", "jaccard", "squared_cosine"]


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def target(rows, kind):
    return meta(rows, dtype=torch.int64) if kind == "ids" else meta(rows, 80)


def options(kind):
    similarity = "any" if kind == "ids" else kind
    return dict(alpha=0.5, positive_weight=None, balanced=True, similarity=similarity, ignore_index=-100)


def run_loss(bits, kind, need_grad=True):
    sides = meta(256, bits), target(256, kind), meta(100_000, bits), target(100_000, kind)
    kernel.loss_and_gradient(*sides, reduction="mean", need_grad=need_grad, **options(kind))


def run_columns(bits, kind):
    """Compute the gradient of 256 rows of a bank, from the columns multiplied by a gradient."""
    sides = meta(100_000, bits), target(100_000, kind), meta(256, bits), target(256, kind)
    kernel.column_gradient(*sides, meta(100_000), meta(3), **options(kind))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("bits", "kind"), [(bits, kind) for bits in BITS for kind in KINDS])
def test_sweep(bits, kind, target):
    if (bits, kind) not in REPRESENTATIVE and not EVERYTHING:
        pytest.skip("ORTHOHASH_TEST_ALL=1 compiles this one too")

    def every_launch():
        run_columns(bits, kind)
        run_loss(bits, kind, need_grad=False)
        if EVERYTHING:
            run_loss(bits, kind)

    compiled = compile_launches(target, every_launch)
    assert {c.kernel for c in compiled} - {"_pack_kernel"} == {
        "_prepare_kernel",
        "_count_kernel",
        "_weigh_kernel",
        "_sweep_kernel",
        "_finish_kernel",
    }
    for c in compiled:
        c.check_budget()
        assert c.contains(TENSOR_CORES[target]) or c.kernel != "_sweep_kernel"


def test_products_take_no_float32_multiplications():
    """Three products of halves for the inner products and three for the gradient, all on tensor cores."""
    (sweep,) = (c for c in compile_launches("sm_80", lambda: run_columns(64, "ids")) if c.kernel == "_sweep_kernel")
    tiles = _pairwise_sweep.plan(256, 100_000, 64, True, DEVICES["sm_80"])
    multiplications = 2 * 3 * tiles.block_m * tiles.block_n * tiles.block_k
    in_one = 16 * 8 * 16
    assert sweep.sass().count("HMMA.16816.F32") == multiplications // in_one // tiles.num_warps
    assert not sweep.contains(r"tf32")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16])
def test_packing(dtype, target):
    compiled = compile_launches(target, lambda: _pairwise_prepare.labels(meta(256, 80, dtype=dtype)))
    assert [c.kernel for c in compiled] == ["_pack_kernel"]
    for c in compiled:
        c.check_budget()


def test_every_launch_of_the_plan_is_compiled_above():
    """The tiles that `plan` picks over all numbers of dimensions are those of BITS."""

    def chosen(bits, need_grad, target):
        plan = _pairwise_sweep.plan(256, 100_000, bits, need_grad, DEVICES[target])
        return plan.block_m, plan.block_n, plan.block_k, plan.tile_k, plan.one_tile, plan.num_warps, plan.num_stages

    for options in itertools.product((False, True), TARGETS):
        compiled = {chosen(bits, *options) for bits in BITS}
        assert {chosen(bits, *options) for bits in [*range(1, 70), *range(120, 2049, 8), 129, 257, 513]} <= compiled
