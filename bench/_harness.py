"""Shared parts of the benchmarks: timing on a noisy machine, peak memory, a description of the machine, CSV files."""

import csv
import importlib.metadata
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("orthohash-triton", "torch", "triton", "numba", "numpy", "faiss-cpu")


def timings(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[], Any] | None = None,
) -> dict[str, list[float]]:
    """Return the sorted seconds of `repeats` calls of each function, after one call that is not measured.

    The functions take turns, A B A B, so that a machine that slows down slows all of them. `clock=time.process_time` measures the
    CPU time of this process over all its threads, which other programs disturb less than the wall time. `before` is called before
    every measured call and is not measured; it can bring the caches into the same state for all functions.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            if before is not None:
                before()
            started = clock()
            function()
            seconds[name].append(clock() - started)
    return {name: sorted(values) for name, values in seconds.items()}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the 20th, 50th and 80th percentile of times in milliseconds, as ms_20, ms_50 and ms_80."""
    if len(seconds) == 1:
        cuts = [seconds[0]] * 9
    else:
        cuts = statistics.quantiles(seconds, n=10, method="inclusive")
    return {f"ms_{percent}": round(1e3 * cuts[percent // 10 - 1], 4) for percent in (20, 50, 80)}


def peak_extra_memory(make: Callable[..., Callable[[], Any]], *arguments: Any) -> int:
    """Return by how many bytes the second call of `make(*arguments)()` in a fresh process raises the peak of its memory.

    The first call allocates what a process allocates once (compiled code, thread pools, buffers of libraries) and is not counted.
    `make` must be a function of a module, because the process is spawned: the threads of torch do not survive a fork.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure_peak, args=(make, arguments, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the measured function ended its process with exit code {child.exitcode}") from None
    finally:
        child.join()


def _measure_peak(make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...], sender: Any) -> None:
    function = make(*arguments)
    function()
    before = _reset_peak()
    function()
    sender.send(_peak() - before)


def _reset_peak() -> int:
    """Reset the peak of the memory and return the memory in use; return the peak where the system cannot reset it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def environment() -> dict[str, str]:
    """Return the machine, the versions and the date as columns of a result."""
    import torch

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = ""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": cpu_model(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **versions,
    }


def cpu_model() -> str:
    """Return the name of the processor and, on x86, the vector instructions that determine how fast bits are counted."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in information.read_text().splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = [flag for flag in ("avx2", "avx512_vpopcntdq") if flag in fields.get("flags", "").split()]
    name = fields.get("model name", platform.machine())
    family = f" family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    return f"{name}{family} {' '.join(flags)}".strip()


def results_file(name: str, device: str) -> Path:
    """Return the file of a benchmark's results; results of a GPU have a separate file."""
    return RESULTS / (name if device == "cpu" else name.replace(".csv", "_gpu.csv"))


def append_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append `rows`, which have the same columns, to the CSV file `path`, whose first line names the columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(rows[0])
    known = None
    if path.exists() and path.stat().st_size:
        with path.open(newline="") as file:
            known = next(csv.reader(file))
        if known != columns:
            raise ValueError(f"{path} has the columns {known}, the new rows have {columns}; move the old file away")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if known is None:
            writer.writeheader()
        writer.writerows(rows)
