"""Tests of rankings compiled for many GPUs: registers, no shared memory, no atomics, 64-bit offsets, clocks per pair."""

import os
import re

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from orthohash_triton.kernels.average_precision import Rankings

from tests.compiled import compile_launches
from tests.sass import cycles, main_loop, mix

# Queries, gallery, bytes, words of labels, whether labels are sets, number of limits.
USUAL = (10_000, 60_000, 8, 1, False, 1)
CASES = [USUAL, (1000, 10**6, 18, 2, True, 4)]  # also distances in blocks, sets of many classes, all limits of a launch
TARGETS = ["sm_80", "sm_90", "gfx942"]
if os.environ.get("ORTHOHASH_TEST_ALL") == "1":
    TARGETS += ["sm_100", "gfx1100"]
    CASES += [(9, 10**5, 16, 1, False, 1), (1000, 10**5, 32, 2, True, 2), (3, 10**4, 512, 1, False, 4)]


def meta(*shape, dtype=torch.int64):
    return torch.empty(shape, dtype=dtype, device="meta")


def rank(queries, gallery, width, words, shared, limits):
    rankings = Rankings(queries, meta(gallery, width, dtype=torch.uint8), meta(gallery, words), meta(limits), shared=shared)
    sums = meta(limits, queries, dtype=torch.float64), meta(limits, queries)
    counts = [meta(queries, 8 * width + 1) for _ in range(2)]
    rankings.rank(meta(queries, width, dtype=torch.uint8), meta(queries, words), *sums, *counts)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rank(case, target):
    compiled = compile_launches(target, lambda: rank(*case))
    assert [c.kernel for c in compiled] == ["_count", "_sum_precisions"]
    for c in compiled:
        c.check_budget()
        assert c.shared == 0, "counters stay in registers"
        assert c.contains(r"popc\.b32" if target.startswith("sm_") else "v_bcnt_u32_b32")
        assert set(re.findall(r"tt\.addptr .*, tensor<[x\d]*x(i\d+)>", c.asm["ttir"])) == {"i64"}


@pytest.mark.parametrize(("kernel", "most"), [("_count", 0.7), ("_sum_precisions", 3.0)])
def test_clocks_a_pair(kernel, most):
    """The clocks of a multiprocessor per pair of 64-bit codes are modelled. Sorting in PyTorch took 100 on an H100."""
    compiled = compile_launches("sm_90", lambda: rank(*USUAL))
    (found,) = [c for c in compiled if c.kernel == kernel]
    loop, _ = main_loop(found.sass())
    assert loop.count("POPC") >= 2 * found.constexprs["BATCH"], "a batch of codes"
    pairs = 32 * found.constexprs["BATCH"]  # pairs of one warp
    assert max(cycles(mix(loop), "sm_90").values()) / pairs < most
