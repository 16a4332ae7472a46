"""Tests of the kernels that search filed codes, compiled for many GPUs: registers, instructions, no atomics, 64-bit offsets."""

import os
import re

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from orthohash_triton.kernels import _filed

from tests.compiled import Compiled, compile_launches
from tests.kernels.configurations import filing, meta
from tests.kernels.test_compile_hamming import check, popcount

TARGETS = ["sm_80", "sm_90", "gfx942"]
if os.environ.get("ORTHOHASH_TEST_ALL") == "1":
    TARGETS += ["sm_100", "gfx1100"]


def compiled_steps(target: str, centres: int, words: int, codes: int) -> dict[str, Compiled]:
    """Compile the steps of a search of 100 queries, with 1,000 entries and positions, by the names of their kernels."""

    def steps() -> None:
        search = _filed.Search(meta(100, 4 * words, dtype=torch.uint8), filing(codes, centres, words))
        radii = meta(100, dtype=torch.int32)
        search.bounds(radii, 10)
        search.count(radii)
        runs, part = search.runs(radii), _filed.Part(0, 100, 0, 1000, 60)
        found = search.measure(runs, part, radii)
        search.keep_nearest(found, runs, part, radii, radii, 10)
        ends, lims = _filed.ends_of_counts(found, runs, part)
        answer = meta(100, 10, dtype=torch.int32), meta(100, 10, dtype=torch.int64)
        search.nearest_first(search.keys(found, ends, part), lims, part.longest, *answer)

    return {c.kernel: c for c in compile_launches(target, steps)}


# Few centres and one word pair; more centres than a program takes at a time, an odd number of words, and 64-bit positions.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("centres", "words", "codes"), [(10, 2, 10**6), (1000, 9, 2**33)])
def test_steps(centres, words, codes, target):
    compiled = compiled_steps(target, centres, words, codes)
    assert compiled.keys() == {"_distances", "_bounds", "_count_entries", "_runs", "_measure", "_keep_nearest", "_keys", "_sort"}
    for c in compiled.values():
        check(c)
    assert compiled["_measure"].contains(popcount(target))
    # Loads of different widths would move values between threads if a thread had more than two of them.
    for name in ("_runs", "_measure", "_keys"):
        assert compiled[name].shared == 0
        assert not re.search(r"\bbar\.sync\b|s_barrier", compiled[name].code)
