"""Tests of range search and histograms compiled for many GPUs: registers, instructions, no atomics, 64-bit offsets."""

import os
import re

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from orthohash_triton.kernels import hamming_histogram, hamming_range
from orthohash_triton.kernels._scan import Scan

from tests.compiled import Compiled, compile_launches

TARGETS = ["sm_80", "sm_90", "gfx942"]
if os.environ.get("ORTHOHASH_TEST_ALL") == "1":
    TARGETS += ["sm_100", "gfx1100"]


def meta(*shape, dtype=torch.uint8):
    return torch.empty(shape, dtype=dtype, device="meta")


def check(compiled: Compiled) -> None:
    compiled.check_budget()
    assert compiled.contains(r"popc\.b32" if compiled.target.startswith("sm_") else "v_bcnt_u32_b32")
    offsets = re.findall(r"tt\.addptr .*, tensor<[x\d]*x(i\d+)>", compiled.asm["ttir"])
    assert offsets
    assert set(offsets) == {"i64"}, f"{compiled.kernel} computes offsets in {set(offsets)}: a large gallery would overflow them"


def search(queries, gallery, width, masked):
    """Run the passes of `hamming_range` with an answer of 1,000 codes, because meta tensors have no number of results."""
    limits = meta(queries, dtype=torch.int32)
    scan = Scan(meta(queries, width), meta(gallery, width), meta(gallery, dtype=torch.bool) if masked else None)
    lims, slots = hamming_range.places(scan, limits)
    hamming_range.in_order(scan, limits, lims, slots, 1000, 8 * width)


# One query, a batch, a mask with odd widths, long codes; and a gallery with more rows than 32 bits can count.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("queries", "gallery", "width", "masked"),
    [(1, 10**6, 8, False), (256, 10**6, 8, True), (9, 10**5, 9, True), (3, 10**4, 512, False), (2, 2**33, 8, False)],
)
def test_range(queries, gallery, width, masked, target):
    compiled = compile_launches(target, lambda: search(queries, gallery, width, masked))
    assert {c.kernel for c in compiled} == {"_count", "_write"}
    for c in compiled:
        check(c)


def count(queries, gallery, width, labels, shared):
    totals = [meta(queries, 8 * width + 1, dtype=torch.int64) for _ in range(2)]
    words = [meta(size, labels, dtype=torch.int64) for size in (queries, gallery)] if labels else []
    hamming_histogram.hamming_histogram(
        meta(queries, width), meta(gallery, width), totals[0], *words, *totals[1 : len(words)], shared=shared
    )


# One query, a batch, labels as sets and as numbers with odd widths, the longest codes; more rows than 32 bits can count.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("queries", "gallery", "width", "labels", "shared"),
    [(1, 10**6, 8, 0, False), (64, 10**6, 8, 2, True), (9, 10**5, 9, 1, False), (3, 10**4, 512, 0, False),
     (2, 2**33, 32, 0, False)],
)  # fmt: skip
def test_histogram(queries, gallery, width, labels, shared, target):
    (compiled,) = compile_launches(target, lambda: count(queries, gallery, width, labels, shared))
    check(compiled)
    assert compiled.shared == 0, "counters stay in registers"
