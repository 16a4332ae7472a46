"""Run the numerical tests with the vector instructions of other processors.

    python -m tools.cpu_variants             # all numerical tests, in every variant that this processor can run
    python -m tools.cpu_variants --short     # a selection of them, for continuous integration
    python -m tools.cpu_variants --variant avx2

A variant limits the vector instructions of PyTorch (ATEN_CPU_CAPABILITY), oneDNN (ONEDNN_MAX_CPU_ISA), MKL (MKL_CBWR) and Numba
(NUMBA_CPU_NAME, NUMBA_CPU_FEATURES). A variant that this processor cannot run is skipped, and the output says so. Numba compiles
each variant into a cache of its own below build/.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.changed_tests import SPREAD
from tools.modules import ROOT

_AVX2 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "popcnt", "sse4_1", "sse4_2", "ssse3")
_AVX512 = ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
# Names of /proc/cpuinfo that LLVM spells differently.
_LLVM = {"bmi1": "bmi", "sse4_1": "sse4.1", "sse4_2": "sse4.2"}


@dataclass(frozen=True)
class Variant:
    """A processor that the libraries are configured to detect."""

    name: str
    needs: tuple[str, ...]  # flags of /proc/cpuinfo
    environment: Mapping[str, str]


VARIANTS = (
    Variant(
        "baseline",
        (),
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_CBWR": "COMPATIBLE",
            "NUMBA_CPU_NAME": "generic",
            "NUMBA_CPU_FEATURES": "",
        },
    ),
    Variant(
        "avx2",
        _AVX2,
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_CBWR": "AVX2",
            "NUMBA_CPU_NAME": "x86-64-v3",
            "NUMBA_CPU_FEATURES": ",".join(f"+{_LLVM.get(flag, flag)}" for flag in _AVX2),
        },
    ),
    Variant(
        "avx512",
        (*_AVX2, *_AVX512),
        {
            "ATEN_CPU_CAPABILITY": "avx512",
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
            "MKL_CBWR": "AVX512",
            "NUMBA_CPU_NAME": "x86-64-v4",
            "NUMBA_CPU_FEATURES": ",".join(f"+{_LLVM.get(flag, flag)}" for flag in (*_AVX2, *_AVX512)),
        },
    ),
    # No limits, as for users: all instructions of the processor, AVX512_VPOPCNTDQ included.
    Variant("native", (), {}),
)

NUMERICAL = (
    "tests/ops",
    "tests/metrics",
    "tests/search",
    "tests/methods",
    "tests/test_tolerances.py",
    "tests/test_nn.py",
    "tests/test_hash_head.py",
    "tests/test_projections.py",
    "tests/test_rotations.py",
    "tests/test_hierarchy.py",
    "tests/codebooks",
    "tests/train/test_distributed.py",
    "tests/train/test_optimization.py",
)
SHORT = (
    "tests/ops/test_cosine_codebook_loss.py",
    "tests/ops/test_orthohash_loss.py",
    "tests/ops/test_householder.py",
    "tests/ops/test_hamming_topk.py",
    "tests/ops/test_hamming_distance.py",
    "tests/test_tolerances.py",
    "tests/test_nn.py",
    "tests/test_hash_head.py",
    "tests/train/test_distributed.py",
)


def processor_flags() -> set[str]:
    """Return the instruction sets of this processor, as /proc/cpuinfo names them; empty if that file does not exist."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return set()
    lines = information.read_text(encoding="utf-8").splitlines()
    return set(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))


def missing_flags(variant: Variant) -> list[str]:
    """Return the instruction sets that `variant` needs and this processor lacks."""
    return sorted(set(variant.needs) - processor_flags())


def run(variant: Variant, tests: tuple[str, ...], jobs: str) -> int:
    """Run the tests in `variant` and return pytest's exit code."""
    cache = ROOT / "build" / "numba" / variant.name
    environment = os.environ | dict(variant.environment) | {"NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "pytest", "-n", jobs, *SPREAD, *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main(arguments: list[str] | None = None) -> int:
    """Run the tests in the selected variants, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a selection of the numerical tests")
    parser.add_argument("--variant", action="append", choices=[variant.name for variant in VARIANTS], help="instead of all")
    parser.add_argument("-n", "--jobs", default="2", help="the number of processes that run the tests")
    options = parser.parse_args(arguments)
    results: dict[str, str] = {}
    failed = False
    for variant in VARIANTS:
        if options.variant and variant.name not in options.variant:
            continue
        lacks = missing_flags(variant)
        if lacks:
            results[variant.name] = f"skipped: this processor lacks {', '.join(lacks)}"
        else:
            print(f"\n{variant.name}: {dict(variant.environment) or 'no limits'}", flush=True)
            code = run(variant, SHORT if options.short else NUMERICAL, options.jobs)
            results[variant.name] = "passed" if code == 0 else f"FAILED (pytest ended with {code})"
            failed |= code != 0
    print("\n" + "\n".join(f"{name}: {result}" for name, result in results.items()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
