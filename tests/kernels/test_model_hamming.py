"""Tests of the upper bound of the search's throughput on an H100, modelled from compiled code (see bench/gpu_model.py)."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from bench.gpu_model import GPUS, compile_scan, model
from tests.sass import RATES, main_loop

H100 = GPUS["H100"]


def popcount_bound(bits: int) -> float:
    """Return the distances per clock and multiprocessor if a population count of every word were the only work."""
    return RATES["popc"] / (bits / 32)


def test_popcount_scan():
    found = model("sm_90", queries=31, gallery=10**7, bits=64)
    assert (found.cut.path, found.compiled.spilled) == ("popcount", 0)
    assert 1 / found.clocks > popcount_bound(64) / 1.2


def test_popcount_scan_of_long_codes():
    """Carry-save adders halve the popcounts of eight words."""
    found = model("sm_90", queries=31, gallery=10**7, bits=256)
    assert found.compiled.spilled == 0
    assert 1 / found.clocks > 1.5 * popcount_bound(256)


@pytest.mark.parametrize(("bits", "gain"), [(64, 2.5), (128, 4), (256, 4)])
def test_tensor_core_scan(bits, gain):
    found = model("sm_90", queries=1000, gallery=10**7, bits=bits)
    assert (found.cut.path, found.compiled.spilled) == ("dot", 0)
    assert 1 / found.clocks > gain * popcount_bound(bits)


@pytest.mark.parametrize("bits", [64, 192, 256, 1024])
def test_one_query_reads_in_128_bits(bits):
    compiled, cut = compile_scan("sm_90", queries=1, gallery=10**7, bits=bits)
    assert (cut.path, compiled.spilled) == ("bandwidth", 0)
    loop, _ = main_loop(compiled.sass())
    loads = [i.split()[0] for i in loop.instructions if i.startswith("LDG")]
    # Long codes reload the words of their query: four scalars for every four loads of the gallery.
    scalars = [load for load in loads if ".128" not in load]
    assert len(loads) > len(scalars)
    assert not scalars or (bits > 512 and len(scalars) <= len(loads) - len(scalars))


@pytest.mark.parametrize("queries", [1, 4])
def test_few_queries_wait_for_memory_alone(queries):
    """The computation would not be the bottleneck even if it could use only half of the time of the memory reads."""
    found = model("sm_90", queries=queries, gallery=10**8, bits=64)
    computed = H100.multiprocessors * H100.clock / found.clocks
    read = H100.bandwidth / 8 * queries
    assert computed > read * (2 if queries == 1 else 1)
