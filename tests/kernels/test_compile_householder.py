"""Tests of the Householder kernels compiled for many GPUs: registers, shared memory, tensor cores, no atomics."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from orthohash_triton.kernels import householder as kernel

from tests.compiled import compile_launches
from tests.launches import instead_of_launches

EVERYTHING = bool(os.environ.get("ORTHOHASH_TEST_ALL"))
TARGETS = ["sm_80", "sm_90", "gfx942"] + ["sm_89", "sm_100", "sm_120", "gfx90a", "gfx1100"] * EVERYTHING
TENSOR_CORES = {"sm": r"wgmma.*f32\.f16\.f16|mma\.sync.*f32\.f16\.f16|tcgen05\.mma.*kind::f16",
                "gfx9": r"v_mfma_f32_\w*_f16", "gfx1": r"v_wmma_f32_\w*_f16"}  # fmt: skip

# Every width of a tile (16, 32, 64, 128), with bits that fill it and with a ragged end; more bits than one tile has.
BITS = [12, 16, 24, 32, 50, 64, 100, 128, 300, 512] if EVERYTHING else [64, 300]

HOW = [(1000, torch.float32), (1024, torch.float32), (1000, torch.bfloat16)]  # rows: with and without an incomplete last block


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", BITS)
def test_every_launch(bits, target):
    matrix = meta(bits, bits)

    def every_launch():
        for rows, dtype in HOW if EVERYTHING else HOW[:1]:
            x = meta(rows, bits, dtype=dtype)
            kernel.apply(x, matrix, dtype)
            kernel.apply(x, matrix.T, dtype)
            kernel.outer(x, x, torch.float32)
        reflectors, factor = kernel.reflectors(meta(bits, bits))
        kernel.vectors_gradient(reflectors, reflectors, factor, torch.bfloat16)

    compiled = compile_launches(target, every_launch)
    products = {"_apply_kernel", "_outer_kernel"}
    assert {c.kernel for c in compiled} == products | {"_reflectors_kernel", "_vectors_gradient_kernel"}
    for c in compiled:
        c.check_budget()
        pattern = next(pattern for family, pattern in TENSOR_CORES.items() if target.startswith(family))
        assert c.contains(pattern) or c.kernel not in products, c.kernel


def test_a_sum_over_many_rows_is_split_to_fill_the_device():
    grids = []
    with instead_of_launches(lambda call: grids.append(call.grid)):
        for rows in (100_000, 64, 0):
            kernel.outer(meta(rows, 64), meta(rows, 64), torch.float32)
        kernel.apply(meta(0, 64), meta(64, 64), torch.float32)
    assert grids == [(1, 1, 196), (1, 1, 1)]  # 1,563 blocks of rows, 8 per program
