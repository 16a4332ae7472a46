"""The kernels on packed codes compiled for GPUs that are not there: registers, instructions, no atomics, 64-bit offsets."""

import os
import re

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from orthohash_triton.kernels import hamming_distance, hamming_topk, pack_codes

from tests.compiled import Compiled, compile_launches

TARGETS = ["sm_80", "sm_90", "gfx942"]
POPCOUNT = {"sm_80": r"popc\.b32", "sm_90": r"popc\.b32", "gfx942": "v_bcnt_u32_b32"}


def meta(*shape, dtype=torch.uint8):
    return torch.empty(shape, dtype=dtype, device="meta")


def search(queries, gallery, width, k, masked):
    hamming_topk.hamming_topk(
        meta(queries, width), meta(gallery, width), meta(gallery, dtype=torch.bool) if masked else None,
        meta(queries, k, dtype=torch.int32), meta(queries, k, dtype=torch.int64),
    )  # fmt: skip


def check(compiled: Compiled) -> None:
    compiled.check_budget()
    offsets = re.findall(r"tt\.addptr .*, tensor<[x\d]*x(i\d+)>", compiled.asm["ttir"])
    assert offsets
    assert set(offsets) == {"i64"}, f"{compiled.kernel} computes offsets in {set(offsets)}: a large gallery would overflow them"


# One query, a batch, a mask with odd widths and many levels, long codes; and a gallery whose rows 32 bits cannot count.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("queries", "gallery", "width", "masked"),
    [(1, 10**6, 8, False), (256, 10**6, 8, True), (256, 10**6, 32, False), (9, 10**5, 9, True), (3, 10**4, 128, False),
     (2, 2**33, 8, False)],
)  # fmt: skip
def test_search(queries, gallery, width, masked, target):
    compiled = compile_launches(target, lambda: search(queries, gallery, width, 100, masked))
    assert {c.kernel for c in compiled} == {"_count", "_write"}
    for c in compiled:
        check(c)
        assert c.contains(POPCOUNT[target])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("width", [8, 20])
def test_distances(width, target):
    (compiled,) = compile_launches(
        target, lambda: hamming_distance.hamming_distance(meta(100, width), meta(999, width), meta(100, 999, dtype=torch.int32))
    )
    check(compiled)
    assert compiled.contains(POPCOUNT[target])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.bool])
def test_packing(dtype, target):
    packed, signs = meta(1000, 9), meta(1000, 70, dtype=torch.int8)
    for c in compile_launches(target, lambda: pack_codes.pack_codes(meta(1000, 70, dtype=dtype), 0.0, packed)):
        check(c)
    for c in compile_launches(target, lambda: pack_codes.unpack_codes(packed, signs)):
        check(c)


def test_a_query_alone_fills_the_gpu():
    cut = hamming_topk.plan(queries=1, gallery=10**8, words=2, multiprocessors=108)
    assert 3 * 108 <= cut.splits <= 4 * 108
    assert cut.splits * cut.split_tiles * cut.block_n >= 10**8
