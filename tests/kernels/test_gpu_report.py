"""Tests of the kernels' main loops against the committed report of bench/gpu_report.py, so that growth is noticed."""

import csv
import importlib.metadata
import os

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")
pytest.importorskip("matplotlib")

from bench.gpu_model import GPUS, model
from bench.gpu_report import CASES, LABEL, PAGE, PLOT, SCANS, TABLE, compile_case, loop_of, page

with TABLE.open(newline="") as file:
    COMMITTED = list(csv.DictReader(file))
NAMES = list(GPUS) if os.environ.get("ORTHOHASH_TEST_ALL") == "1" else ["H100"]
GROWTH = 1.02


def committed(name, case):
    (row,) = (row for row in COMMITTED if (row["gpu"], row["case"]) == (name, case))
    if row["triton"] != importlib.metadata.version("triton"):
        pytest.skip(f"the report is of Triton {row['triton']}")
    return row


def check(row, compiled, instructions):
    assert compiled.spilled <= int(row["spilled_bytes"])
    before = float(row["instructions_per_unit"])
    assert instructions <= GROWTH * before, (
        f"the main loop of {row['kernel']} ({row['case']}, {row['gpu']}) grew from {before} to {instructions:.4g} instructions a "
        f"{row['unit']}. If that is meant: make gpu-report"
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_main_loop(case, name):
    compiled = compile_case(case, GPUS[name].target)
    counts, units = loop_of(case, compiled)
    check(committed(name, case.name), compiled, 32 * counts["issue"] / units)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: f"{scan.queries} x {scan.bits}")
def test_scan(scan, name):
    found = model(GPUS[name].target, scan.queries, 10**7, scan.bits)
    check(committed(name, f"scan {scan.queries} x 1e7 x {scan.bits}"), found.compiled, found.instructions)


def test_the_page_is_the_table():
    rows = [{name: _number(value) for name, value in row.items()} for row in COMMITTED]
    assert page(rows) == PAGE.read_text()
    assert all(row["what"] == LABEL for row in COMMITTED)
    assert PLOT.stat().st_size < 300_000


def _number(value):
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value
