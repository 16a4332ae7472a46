"""Tests of the kernels on packed codes compiled for many GPUs: registers, instructions, no atomics, 64-bit offsets."""

import itertools
import os
import re

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from orthohash_triton.kernels import _scan, hamming_distance, hamming_topk, pack_codes
from orthohash_triton.kernels._device import A100, Device
from orthohash_triton.kernels._distances import group_of

from tests.compiled import DEVICES, Compiled, compile_launches

TARGETS = ["sm_80", "sm_90", "gfx942"]
ALL_TARGETS = [*TARGETS, "sm_100", "gfx1100"] if os.environ.get("ORTHOHASH_TEST_ALL") == "1" else TARGETS
POPCOUNT = {"sm": r"popc\.b32", "gfx": "v_bcnt_u32_b32"}
MATRIX = {"sm_80": r"mma\.sync\.aligned\.m16n8k32.*s8\.s8", "sm_90": r"wgmma\.mma_async.*s8\.s8", "sm_100": r"tcgen05\.mma.*i8",
          "gfx942": "v_mfma_i32"}  # fmt: skip


def meta(*shape, dtype=torch.uint8):
    return torch.empty(shape, dtype=dtype, device="meta")


def search(queries, gallery, width, k, masked):
    hamming_topk.hamming_topk(
        meta(queries, width), meta(gallery, width), meta(gallery, dtype=torch.bool) if masked else None, None,
        meta(queries, k, dtype=torch.int32), meta(queries, k, dtype=torch.int64),
    )  # fmt: skip


def check(compiled: Compiled) -> None:
    compiled.check_budget()
    offsets = re.findall(r"tt\.addptr .*, tensor<[x\d]*x(i\d+)>", compiled.asm["ttir"])
    assert offsets
    assert set(offsets) == {"i64"}, f"{compiled.kernel} computes offsets in {set(offsets)}: a large gallery would overflow them"


def popcount(target: str) -> str:
    return POPCOUNT[target.rstrip("0123456789").rstrip("_")]


# One query; few with a mask; a batch on tensor cores; the same with a mask and six words; an odd number of words; long codes; a
# gallery with more rows than 32 bits can count; the largest k that one program sorts, and a larger one; and more than half of a
# gallery.
SEARCHES = {
    "bandwidth": (1, 10**6, 8, 100, False),
    "popcount, mask": (16, 10**6, 8, 100, True),
    "dot": (1000, 10**6, 32, 100, False),
    "dot, mask": (100, 10**5, 24, 10, True),
    "popcount, odd": (9, 10**5, 9, 100, True),
    "bandwidth, long": (3, 10**4, 128, 10, False),
    "bandwidth, large": (2, 2**33, 8, 100, False),
    "popcount, 1024": (9, 10**6, 8, 1024, False),
    "popcount, many": (9, 10**6, 16, 1025, False),
    "count": (32, 10**4, 8, 6000, True),
}


@pytest.mark.parametrize("target", ALL_TARGETS)
@pytest.mark.parametrize("case", SEARCHES)
def test_search(case, target):
    launches = compile_launches(target, lambda: search(*SEARCHES[case]))
    for c in launches:
        check(c)
    compiled = {c.kernel: c for c in launches}
    path = case.split(",")[0]
    if path == "count":
        assert compiled.keys() == {"_count", "_write"}
        assert all(c.contains(popcount(target)) for c in compiled.values())
        return
    scan = "_nearest_by_dot" if path == "dot" and target != "gfx1100" else "_nearest_by_popcount"
    chosen = {"_first_smallest"} if case == "popcount, many" else {"_nearest_first"}
    assert compiled.keys() - {"_candidates"} == {scan, "_span_distances"} | chosen
    assert compiled[scan].contains(MATRIX[target] if scan == "_nearest_by_dot" else popcount(target))
    assert compiled["_span_distances"].contains(popcount(target))


@pytest.mark.parametrize("arch", ["sm_80", "sm_100", "gfx942"])
def test_plans(arch):
    """A span is a whole number of tiles, and the k spans that are scored again are at most half of the gallery."""
    device = Device(arch, 108, DEVICES[arch].warp_size)
    paths = set()
    for queries, gallery, words, k in itertools.product(
        (1, 3, 5, 31, 32, 5000), (1, 100, 10**4, 10**6, 10**9, 2**33), (1, 2, 3, 6, 8, 20, 64), (1, 100, 10**5)
    ):
        cut = hamming_topk.plan(queries, gallery, words, k, device)
        paths.add(cut.path)
        if cut.path == "count":
            assert 2 * k * 4 * device.warp_size > gallery
            continue
        tile = cut.rows * (1 if cut.path == "dot" else group_of(words))
        assert cut.span % tile == 0
        assert 2 * k * cut.span <= gallery
        assert cut.programs >= (2 if cut.path == "dot" else 16) * 108
    assert paths == {"bandwidth", "popcount", "dot", "count"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("width", [8, 20])
def test_distances(width, target):
    (compiled,) = compile_launches(
        target, lambda: hamming_distance.hamming_distance(meta(100, width), meta(999, width), meta(100, 999, dtype=torch.int32))
    )
    check(compiled)
    assert compiled.contains(popcount(target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.bool])
def test_packing(dtype, target):
    packed, signs = meta(1000, 9), meta(1000, 70, dtype=torch.int8)
    for c in compile_launches(target, lambda: pack_codes.pack_codes(meta(1000, 70, dtype=dtype), 0.0, packed)):
        check(c)
    for c in compile_launches(target, lambda: pack_codes.unpack_codes(packed, signs)):
        check(c)


def test_a_query_alone_fills_the_gpu():
    cut = _scan.plan(queries=1, gallery=10**8, words=2, device=A100)
    assert 3 * 108 <= cut.splits <= 4 * 108
    assert cut.splits * cut.split_tiles * cut.block_n >= 10**8
