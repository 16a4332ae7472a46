"""A model of the throughput of the search kernels on GPUs, from the machine code that Triton and ptxas generate.

    python -m bench.gpu_model                 # writes bench/results/gpu_model_hamming.csv

No kernel is run. The instructions of the loop that scans the gallery are counted by pipe (tests/sass.py). The busiest pipe
determines the clocks per distance, and the memory bandwidth is a second limit. Latency, occupancy and the steps after the scan
are ignored, so a GPU will be slower. The figures are upper bounds of the throughput, and show which pipe is the bottleneck.
"""

import argparse
import csv
import importlib.metadata
from collections import Counter
from typing import Any, NamedTuple

import torch
from orthohash_triton.kernels import hamming_topk

from bench._harness import RESULTS
from tests.compiled import DEVICES, Compiled, compile_launches
from tests.sass import RATES, cycles, main_loop, mix

LABEL = "modelled from compiled code, not run"


class GPU(NamedTuple):
    """The properties of a GPU that limit the throughput."""

    target: str
    multiprocessors: int
    clock: float  # Hz; assumed sustained clocks for H100 and B200
    bandwidth: float  # bytes per second


GPUS = {
    "A100": GPU("sm_80", 108, 1.41e9, 2.039e12),
    "H100": GPU("sm_90", 132, 1.755e9, 3.35e12),
    "B200": GPU("sm_100", 148, 1.85e9, 8.0e12),
}


class Model(NamedTuple):
    """The modelled cost of a scan."""

    compiled: Compiled
    cut: hamming_topk.Plan
    instructions: float  # per distance
    clocks: float  # of a multiprocessor, per distance
    pipe: str  # the busiest pipe


def compile_scan(target: str, queries: int, gallery: int, bits: int, k: int = 100) -> tuple[Compiled, hamming_topk.Plan]:
    """Compile the scan of one search, and return it with its plan."""
    cut = hamming_topk.plan(queries, gallery, bits // 32, k, DEVICES[target])
    words = torch.empty(queries, bits // 32, dtype=torch.int32, device="meta")
    nearest = words.new_empty(queries, -(-gallery // cut.span), dtype=torch.int16)
    (compiled,) = compile_launches(
        target, lambda: hamming_topk.scan(words, words.new_empty(gallery, bits // 32), None, nearest, cut)
    )
    return compiled, cut


def model(target: str, queries: int, gallery: int, bits: int, k: int = 100) -> Model:
    """Return the bottleneck of a scan. On tensor cores the work at the end of every span is included."""
    compiled, cut = compile_scan(target, queries, gallery, bits, k)
    loop, span_end = main_loop(compiled.sass())
    instructions, words = mix(loop), bits // 32
    if cut.path == "dot":
        distances = compiled.constexprs["ROWS"] * compiled.constexprs["BLOCK_M"] / compiled.warps  # of one warp
        instructions["multiply-adds"] = round(distances) * 32 * compiled.constexprs["WIDTH"]  # sm_100 code has no tile sizes
        tiles = cut.span // cut.rows
        instructions.subtract(mix(span_end))
        instructions = Counter({pipe: count * tiles for pipe, count in instructions.items()}) + mix(span_end)
        distances *= tiles
    else:
        # Carry-save adders reduce the number of population counts, see kernels/_distances.py.
        popcounts = words - words // 8 * 4 - words % 8 // 4 if words <= 16 else words
        distances = 32 * instructions["popc"] / popcounts
    busy = cycles(instructions, target)
    pipe = max(busy, key=busy.__getitem__)
    return Model(compiled, cut, 32 * instructions["issue"] / distances, busy[pipe] / distances, pipe)


def row(name: str, queries: int, bits: int, gallery: int = 10**7, k: int = 100) -> dict[str, Any]:
    """Return one row of the results: the plan, the cost and the modelled throughput of a search."""
    gpu = GPUS[name]
    found = model(gpu.target, queries, gallery, bits, k)
    computed = gpu.multiprocessors * gpu.clock / found.clocks
    read = gpu.bandwidth / (bits / 8) * queries  # each code is read once: programs that use it share it in the cache
    popcount = gpu.multiprocessors * gpu.clock * RATES["popc"] / (bits / 32)
    return {
        "what": LABEL,
        "gpu": name,
        "target": gpu.target,
        "path": found.cut.path,
        "bits": bits,
        "queries": queries,
        "gallery": gallery,
        "k": k,
        "span": found.cut.span,
        "registers": found.compiled.registers,
        "spilled_bytes": found.compiled.spilled,
        "instructions_per_distance": round(found.instructions, 2),
        "clocks_per_distance": round(found.clocks, 4),
        "limit": found.pipe if computed < read else "memory bandwidth",
        "giga_distances_per_second": round(min(computed, read) / 1e9),
        "times_one_popcount_a_word": round(min(computed, read) / popcount, 2),
        "distances_taken_twice": f"{100 * k * found.cut.span / gallery:.2g} %",
        "triton": importlib.metadata.version("triton"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    cases = [(queries, bits) for bits in (64, 128, 256, 512, 1024) for queries in (1, 31, 1000)]
    rows = [row(name, queries, bits) for name in ("A100", "H100") for queries, bits in cases]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "gpu_model_hamming.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for line in rows:
        print("  ".join(f"{value}" for key, value in line.items() if key not in ("what", "triton")))


if __name__ == "__main__":
    main()
