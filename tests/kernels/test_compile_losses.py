"""The loss kernels compiled for GPUs that are not there: registers, shared memory, instructions, no atomics."""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from orthohash_triton.kernels import batch_norm
from orthohash_triton.kernels import cosine_codebook_loss as kernel

from tests.compiled import compile_launches

TARGETS = ["sm_80", "sm_90", "gfx942"]
TENSOR_CORES = {
    "sm_80": r"mma\.sync.*f32\.f16\.f16",
    "sm_90": r"wgmma.*f32\.f16\.f16|mma\.sync.*f32\.f16\.f16",
    "gfx942": r"v_mfma_f32_\w*_f16",
}

# (bits, dense, parts): every tile of the plan once, in the mode that takes more registers, and one that once spilled.
REPRESENTATIVE = {(16, True, 2), (64, False, 2), (64, True, 2), (128, False, 2), (256, False, 2), (512, False, 1),
                  (512, False, 2), (512, True, 2), (2048, False, 2)}  # fmt: skip


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def run_loss(bits, dense, parts, dtype=torch.float32):
    rows, classes = 256, 1000
    target = meta(rows, classes) if dense else meta(rows, dtype=torch.int64)
    prepared = kernel.Prepared(meta(classes, (bits + 31) // 32, dtype=torch.int32), meta(bits))
    kernel.cosine_codebook_loss(
        meta(rows, bits, dtype=dtype), meta(bits), meta(bits), meta(bits), meta(bits), target, prepared,
        meta(rows), meta(rows), meta(rows, bits), meta(rows, bits),
        parts=parts, scale=8.0, margin=0.2, angular=False, label_smoothing=0.1, ignore_index=-100,
        need_grad=True, need_lse_grad=True,
    )  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("bits", [16, 64, 128, 256, 512, 2048])
def test_sweep_and_finish(bits, dense, parts, target):
    if (bits, dense, parts) not in REPRESENTATIVE and not os.environ.get("ORTHOHASH_TEST_ALL"):
        pytest.skip("ORTHOHASH_TEST_ALL=1 compiles this one too")
    compiled = compile_launches(target, lambda: run_loss(bits, dense, parts))
    assert {c.kernel for c in compiled} == {"_sweep_kernel", "_finish_kernel"}
    for c in compiled:
        c.check_budget()
    sweep = next(c for c in compiled if c.kernel == "_sweep_kernel")
    assert sweep.contains(TENSOR_CORES[target])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_latents(dtype, target):
    for c in compile_launches(target, lambda: run_loss(64, False, 2, dtype)):
        c.check_budget()


@pytest.mark.parametrize("target", TARGETS)
def test_batch_norm(target):
    latent, column = meta(256, 64), meta(64)

    def every_kernel():
        batch_norm.statistics(latent)
        batch_norm.sums(latent, latent, column, column)
        batch_norm.input_gradient(latent, latent, column, column, column, meta(2, 64))

    compiled = compile_launches(target, every_kernel)
    assert len(compiled) == 3
    for c in compiled:
        c.check_budget()
