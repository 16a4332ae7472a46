"""A report of the kernels' registers, occupancy and main-loop bottleneck on GPUs, modelled from their machine code.

    python -m bench.gpu_report         # or: make gpu-report; writes bench/results/gpu_static.{md,csv,png}

Every figure is modelled from compiled code; no kernel is run. The instructions of the main loop are counted by pipe in the
machine code (tests/sass.py). The busiest pipe determines the clocks per unit of work (a distance, a logit, a pair), and memory
bandwidth is a second limit. Latency, occupancy and everything outside the loop are ignored, so a GPU will be slower.
"""

import argparse
import csv
import importlib.metadata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from orthohash_triton.kernels import hamming_histogram, hamming_range, householder

from bench._harness import RESULTS
from bench.gpu_model import GPUS, LABEL, model
from tests.compiled import Compiled, collect_launches
from tests.kernels import configurations
from tests.kernels.configurations import meta
from tests.sass import FP16_RATE, INT8_RATE, RATES, Stretch, cycles, main_loop, mix

TABLE, PAGE, PLOT = (RESULTS / f"gpu_static.{kind}" for kind in ("csv", "md", "png"))
MI300X = dict(target="gfx942", compute_units=304, clock=2.1e9, bandwidth=5.3e12, fp16=1307e12, int8=2614e12)
# Limits of a multiprocessor: resident warps, registers and blocks, and bytes of shared memory by target.
WARPS, REGISTERS, BLOCKS = 64, 65_536, 32
SHARED = {"sm_80": 167_936, "sm_90": 233_472, "sm_100": 233_472}
SOURCES = """\
- Arithmetic a clock and multiprocessor: NVIDIA, CUDA C++ Programming Guide, "Throughput of native arithmetic instructions"
  (population counts 16, special functions 16, 32-bit integer and logic 64, shuffles 32, float32 64 on 8.0 and 128 from 9.0 on);
  10.0 is taken to be as 9.0.
- Tensor cores, dense, fp16 into float32 and int8: data sheets of A100 (312 TFLOPS, 624 TOPS), H100 SXM (989, 1,979), B200 (2,250,
  4,500), AMD Instinct MI300X (1,307, 2,615).
- Memory: the same data sheets: 2.04, 3.35, 8.0 and 5.3 TB/s. Clocks: 1.41 GHz (A100's boost), 1.755 and 1.85 GHz (assumed).
"""


class Case(NamedTuple):
    """A launch to report on, with its work per unit: a distance, a logit or a pair."""

    name: str
    kernel: str
    call: Callable[[], Any]
    unit: str
    units: Callable[[dict[str, Any]], int]  # units of a program in one iteration of the main loop
    fp16: Callable[[dict[str, Any]], int]  # multiply-adds on tensor cores per unit
    useful: int  # additions and multiplications of a unit in the formula, whatever the kernel does
    traffic: float  # bytes of memory traffic per unit


class Scan(NamedTuple):
    queries: int
    bits: int


def _loss(rows: int, classes: int, bits: int, parts: int) -> Case:
    """Return the case of a training step of the codebook loss. `parts` is the number of fp16 parts of a factor."""
    return Case(
        f"loss {rows} x {classes:,} x {bits}" + (", high" if parts == 1 else ""),
        "_sweep_kernel",
        lambda: configurations.run_loss(bits, rows, classes, "ids", parts, torch.float32, 0, False, 0.0, True, False),
        "logit",
        lambda c: c["BLOCK_M"] * c["BLOCK_N"],
        lambda c: 2 * c["P_TERMS"] * c["BLOCK_K"],
        4 * bits,
        bits / 8 / rows,
    )


SCANS = [Scan(1, 64), Scan(31, 64), Scan(31, 256), Scan(1000, 64), Scan(1000, 256)]
CASES = [
    _loss(256, 10_000, 64, 2),
    _loss(256, 10_000, 128, 2),
    _loss(1024, 1_000_000, 128, 1),
    Case(
        "pairwise 1,024 x 100,000 x 64",
        "_sweep_kernel",
        lambda: configurations.run_pairwise(64, 1024, 100_000, "ids", "rows"),
        "pair",
        lambda c: c["BLOCK_M"] * c["BLOCK_N"],
        lambda c: 6 * c["BLOCK_K"],
        4 * 64,
        4 * 64 / 1024,
    ),
    Case(
        "rotation 65,536 x 128",
        "_apply_kernel",
        lambda: householder.apply(meta(65_536, 128), meta(128, 128), torch.float32),
        "multiply-add",
        lambda c: c["BLOCK_M"] * c["BLOCK_N"] * c["BLOCK_K"],
        lambda c: 3,
        2,
        8 / 128,
    ),
    Case(
        "histogram 64 x 1e6 x 64",
        "_count",
        lambda: hamming_histogram.hamming_histogram(
            meta(64, 8, dtype=torch.uint8), meta(10**6, 8, dtype=torch.uint8), meta(64, 65, dtype=torch.int64)
        ),
        "distance",
        lambda c: c["LANES"] * c["BATCH"],
        lambda c: 0,
        2 * 64,
        8 / 64,
    ),
    Case(
        "range 256 x 1e6 x 64",
        "_count",
        lambda: hamming_range.places(
            configurations.Scan(meta(256, 8, dtype=torch.uint8), meta(10**6, 8, dtype=torch.uint8)), meta(256, dtype=torch.int32)
        ),
        "distance",
        lambda c: c["BLOCK_M"] * c["BLOCK_N"],
        lambda c: 0,
        2 * 64,
        8 / 256,
    ),
]


def occupancy(compiled: Compiled) -> float:
    """Return the fraction of a multiprocessor's warps that can be resident at once."""
    if compiled.target.startswith("gfx"):
        waves = min(8, 512 // (-(-compiled.registers // 8) * 8))  # waves of 64 lanes per SIMD
        blocks = min(4 * waves // compiled.warps, 65_536 // max(compiled.shared, 1))
        return min(1.0, blocks * compiled.warps / 32)
    registers = -(-compiled.registers * 32 // 256) * 256 * compiled.warps
    shared = SHARED[compiled.target] // (compiled.shared + 1024)
    return min(REGISTERS // registers, shared, BLOCKS, WARPS // compiled.warps) * compiled.warps / WARPS


def compile_case(case: Case, target: str) -> Compiled:
    launch = next(seen for seen in collect_launches(target, case.call) if seen.kernel == case.kernel)
    return launch.compile(target)


def loop_of(case: Case, compiled: Compiled) -> tuple[Counter[str], float]:
    """Return the instructions of one warp in the main loop by pipe, and the units that they compute."""
    loop, _ = main_loop(compiled.sass())
    counts = mix(loop)
    units = case.units(compiled.constexprs) / compiled.warps * _unrolled(loop, case, compiled)
    counts["fp16"] = round(case.fp16(compiled.constexprs) * units)
    counts["multiply-adds"] = 0
    return counts, units


def _unrolled(loop: Stretch, case: Case, compiled: Compiled) -> int:
    """Return how often the compiler unrolled the loop over words, derived from its number of population counts."""
    popcounts = loop.count("POPC")
    if not popcounts:
        return 1
    each = case.units(compiled.constexprs) / (32 * compiled.warps)  # population counts per word
    return max(1, round(popcounts / each / compiled.constexprs["WORDS"]))


def rows() -> list[dict[str, Any]]:
    """Return the rows of the report, one per kernel and GPU."""
    found = []
    for name, gpu in GPUS.items():
        for scan in SCANS:
            result = model(gpu.target, scan.queries, 10**7, scan.bits)
            found.append(
                _row(name, f"scan {scan.queries} x 1e7 x {scan.bits}", result.compiled, "distance", result.instructions,
                     result.clocks, result.pipe, 2 * scan.bits, scan.bits / 8 / scan.queries)
            )  # fmt: skip
        for case in CASES:
            compiled = compile_case(case, gpu.target)
            counts, units = loop_of(case, compiled)
            busy = cycles(counts, gpu.target)
            pipe = max(busy, key=busy.__getitem__)
            found.append(
                _row(name, case.name, compiled, case.unit, 32 * counts["issue"] / units, busy[pipe] / units, pipe, case.useful,
                     case.traffic, shares=_shares(busy, busy[pipe]))
            )  # fmt: skip
    for case in CASES:
        found.append(_row("MI300X", case.name, compile_case(case, "gfx942"), case.unit))
    return found


def _shares(busy: dict[str, float], most: float) -> str:
    """Return the time that each pipe is busy, in percent of the busiest one, as text."""
    shares = sorted(((round(100 * clocks / most), pipe) for pipe, clocks in busy.items()), reverse=True)
    return " ".join(f"{pipe} {share}" for share, pipe in shares[:5] if share)


def _row(
    name: str, case: str, compiled: Compiled, unit: str, instructions: float | None = None, clocks: float | None = None,
    pipe: str = "", useful: int = 0, traffic: float = 0.0, shares: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Return one row of the report. Figures that are not known for a GPU stay empty."""
    row = {
        "what": LABEL,
        "gpu": name,
        "target": compiled.target,
        "case": case,
        "kernel": compiled.kernel,
        "registers": compiled.registers,
        "spilled_bytes": compiled.spilled,
        "shared_bytes": compiled.shared,
        "occupancy_percent": round(100 * occupancy(compiled)),
        "unit": unit,
        "instructions_per_unit": "",
        "clocks_per_unit": "",
        "limit": "",
        "pipes_percent": shares,
        "giga_units_per_second": "",
        "memory_giga_units_per_second": "",
        "useful_operations_per_unit": useful or "",
        "bytes_per_unit": traffic or "",
        "triton": importlib.metadata.version("triton"),
    }
    if clocks is not None:
        gpu = GPUS[name]
        computed, read = gpu.multiprocessors * gpu.clock / clocks, gpu.bandwidth / traffic
        row |= {
            "instructions_per_unit": float(f"{instructions:.4g}"),
            "clocks_per_unit": float(f"{clocks:.4g}"),
            "limit": pipe if computed < read else "memory bandwidth",
            "giga_units_per_second": float(f"{min(computed, read) / 1e9:.3g}"),
            "memory_giga_units_per_second": float(f"{read / 1e9:.3g}"),
        }
    return row


_COLUMNS = {
    "case": "case",
    "gpu": "GPU",
    "kernel": "kernel",
    "registers": "registers",
    "spilled_bytes": "spilled B",
    "shared_bytes": "shared B",
    "occupancy_percent": "occupancy %",
    "unit": "unit",
    "instructions_per_unit": "instr. / unit",
    "limit": "limit",
    "pipes_percent": "pipes, % of the busiest",
    "giga_units_per_second": "G units / s",
    "memory_giga_units_per_second": "memory alone",
}


def page(found: list[dict[str, Any]]) -> str:
    """Return the report as Markdown."""
    lines = [
        "# Kernels on GPUs, from their machine code",
        "",
        f"All of it is **{LABEL}**: `make gpu-report`, Triton {found[0]['triton']}. `bench/gpu_report.py` says what",
        "it means, `gpu_static.csv` has the same figures. A GPU will be slower: nothing here knows latency or occupancy.",
        "",
        "| " + " | ".join(_COLUMNS.values()) + " |",
        "|" + " --- |" * len(_COLUMNS),
    ]
    lines += ["| " + " | ".join(str(row[name]).replace("_", r"\_") for name in _COLUMNS) + " |" for row in found]
    lines += [
        "",
        "Ceilings:",
        "",
        "| GPU | G popcounts / s | fp16 T multiply-adds / s | int8 T multiply-adds / s | memory TB/s |",
    ]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, gpu in GPUS.items():
        clocks = gpu.multiprocessors * gpu.clock
        numbers = clocks * RATES["popc"] / 1e9, clocks * FP16_RATE[gpu.target] / 1e12, clocks * INT8_RATE[gpu.target] / 1e12
        lines.append(f"| {name} | " + " | ".join(f"{number:,.0f}" for number in numbers) + f" | {gpu.bandwidth / 1e12:.2f} |")
    lines.append(f"| MI300X | | {MI300X['fp16'] / 2e12:,.0f} | {MI300X['int8'] / 2e12:,.0f} | {MI300X['bandwidth'] / 1e12:.2f} |")
    return "\n".join([*lines, "", "Sources of the throughputs:", "", SOURCES])


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """Draw a roofline of each GPU: useful operations per second against useful operations per byte of memory traffic."""
    figure, axes = plt.subplots(1, len(GPUS), figsize=(12, 4.6), layout="constrained", sharey=True)
    cases = list(dict.fromkeys(row["case"] for row in found))
    colours = plt.get_cmap("tab20").colors
    for axis, (name, gpu) in zip(axes, GPUS.items(), strict=True):
        clocks = gpu.multiprocessors * gpu.clock
        intensities = [1, 1e6]
        axis.plot(intensities, [gpu.bandwidth * x for x in intensities], color="black", linewidth=1)
        for label, rate in (
            ("fp16", 2 * FP16_RATE[gpu.target]),
            ("int8", 2 * INT8_RATE[gpu.target]),
            ("popc", 64 * RATES["popc"]),
        ):
            axis.axhline(clocks * rate, color="grey", linewidth=0.8, linestyle="--")
            axis.text(1.2, clocks * rate * 1.06, label, fontsize=7, color="grey")
        for row in found:
            if row["gpu"] == name:
                useful = row["useful_operations_per_unit"]
                at = useful / row["bytes_per_unit"], row["giga_units_per_second"] * 1e9 * useful
                axis.plot(*at, "o", markersize=5, color=colours[cases.index(row["case"]) % 20], label=row["case"])
        axis.set(xscale="log", yscale="log", xlim=(1, 1e6), ylim=(1e12, 1e16), title=name, xlabel="operations a byte of memory")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("useful operations / s")
    axes[-1].legend(fontsize=6, loc="lower right")
    figure.suptitle(f"{LABEL}; an operation is an addition or multiplication of the +-1 (or real) product", fontsize=9)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Compute the report, and write its table, page and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    found = rows()
    RESULTS.mkdir(exist_ok=True)
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    PAGE.write_text(page(found))
    plot(found, PLOT)
    for row in found:
        print("  ".join(str(row[name]) for name in _COLUMNS))


if __name__ == "__main__":
    main()
