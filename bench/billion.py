"""Build and search a billion codes on a CPU, and a tenth of them in a mapped file and in two processes.

    python -m bench.billion --quick                     # a million codes instead of a billion
    python -m bench.billion                             # 10^9 x 64 bits: 8 GB of codes, and the structures
    python -m bench.billion --only memory --kinds uniform --codes 100000000

Each case runs in a fresh process, whose peak of the resident memory is reported. Codes are made in place (bench/galleries.py):

- uniform: no structure helps, so that a search is a scan; nothing is built.
- trained: 10,000 classes whose codes lie around their words as those of the demonstration do.
- planted: uniform codes with near-duplicates. Queries are near-duplicates, and all codes within 2 bits are wanted.

Times are wall times with --threads threads (2). `scan_ms` is the scan of the same codes for the same queries in the same run, and
answers must be equal bit for bit before a time is printed. Processes of a group have one thread each.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from bench import galleries
from bench._harness import RESULTS, _peak, append_csv, environment, percentiles, timings
from bench._search_peers import same
from bench._sublinear_rows import Row, made
from orthohash_triton import HammingIndex, ShardedHammingIndex

PART = 2**26  # codes that are made at a time
CASES = {"uniform": [(1, 100), (64, 100)], "trained": [(1, 100), (64, 100), (1, 1)], "planted": [(1, None), (64, None)]}
RADIUS = 2


def filled(kind: str, count: int, total: int, first: int = 0) -> HammingIndex:
    """Return an index that holds `count` codes of a gallery of `total`, from row `first` on."""
    index = HammingIndex(64)
    part = np.empty((min(PART, count), 8), np.uint8)
    for start in range(0, count, len(part)):
        rows = part[: min(len(part), count - start)]
        galleries.fill(kind, rows, first=first + start, total=total)
        index.add(rows)
    return index


def centres_of(kind: str) -> np.ndarray | None:
    """Return the centres that a user would give: the words of the classes, if there are any."""
    return made(kind, 1, 64, 1).centres


def build(index: Any, kind: str) -> None:
    """Build the structures that the searches of a kind of codes can use."""
    if kind == "trained":
        index.build(centres_of(kind))
    if kind == "planted":
        index.build(radius=RADIUS)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def searches(index: Any, kind: str, count: int, repeats: int) -> list[Row]:
    """Return a row for each number of queries and k, or radius: the index and the scan of it."""
    rows = []
    for queries, k in CASES[kind]:
        asked = galleries.queries(kind, queries, 64, total=count)

        def search(plan: str, asked: np.ndarray = asked, k: int | None = k) -> Callable[[], Any]:
            def run() -> Any:
                index.plan = plan
                return index.search(asked, k) if k else index.range_search(asked, RADIUS, inclusive=True)

            return run

        calls = {"ours": search("auto"), "scan": search("scan")}
        if not same(calls["ours"](), calls["scan"]()):
            raise SystemExit(f"{kind}, {queries} queries, k = {k}: the index and the scan give different answers")
        seconds = timings(calls, repeats)
        ours, scan = percentiles(seconds["ours"]), percentiles(seconds["scan"])
        row: Row = {"queries": queries, "k": k or "", "radius": "" if k else RADIUS, **ours, "scan_ms": scan["ms_50"]}
        index.plan = "auto"
        row["times_scan"] = round(scan["ms_50"] / ours["ms_50"], 2)
        row["plan"] = str(explained(index, asked, k))
        rows.append(row)
    return rows


def explained(index: Any, queries: np.ndarray, k: int | None) -> str:
    if not hasattr(index, "explain"):
        return ""
    plan = index.explain(queries, k) if k else index.explain(queries, radius=RADIUS, inclusive=True)
    met = (plan.entries_met + plan.candidates) / max(len(queries) - plan.given_up, 1)
    return plan.plan if plan.plan == "scan" else f"{plan.plan}, {met:,.1f} met by a query, {plan.given_up} gave up"


def in_memory(kind: str, count: int, options: argparse.Namespace) -> list[Row]:
    """One index in memory."""
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    index = filled(kind, count, count)
    filling = time.perf_counter() - started
    return [{"where": "memory", "fill_s": round(filling, 2), **row} for row in built(index, kind, count, options.repeats)]


def built(index: Any, kind: str, count: int, repeats: int) -> list[Row]:
    """Build the structures of an index, and return the rows of its searches."""
    before, started = resident(), time.perf_counter()
    build(index, kind)
    cost = {"build_s": round(time.perf_counter() - started, 2)}
    held = len(index.shard) if isinstance(index, ShardedHammingIndex) else len(index)
    cost["structure_bytes_per_code"] = round((resident() - before) / held, 2)
    return [cost | row for row in searches(index, kind, count, repeats)]


def mapped(kind: str, count: int, options: argparse.Namespace) -> list[Row]:
    """An index in a file that is mapped, with its structures in a file beside it."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "gallery.ibxf"
        index = filled(kind, count, count)
        started = time.perf_counter()
        build(index, kind)
        building = time.perf_counter() - started
        index.save(path)
        del index
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / count
        before, started = resident(), time.perf_counter()
        index = HammingIndex.load(path, mmap=True)
        opened = {"where": "mapped file", "fill_s": round(time.perf_counter() - started, 3), "build_s": round(building, 2)}
        opened["structure_bytes_per_code"] = round(size - 8, 2)
        rows = [opened | row for row in searches(index, kind, count, options.repeats)]
        print(f"   opened with {(resident() - before) / 1e6:,.0f} MB in memory", flush=True)
        return rows


def two_processes(kind: str, count: int, options: argparse.Namespace) -> list[Row]:
    """Half of the codes in each of two processes of a gloo group."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as store:
        ranks = [context.Process(target=_rank, args=(rank, store, kind, count, options, sender)) for rank in range(2)]
        for process in ranks:
            process.start()
        sender.close()
        try:
            rows = receiver.recv()
        except EOFError:
            raise SystemExit("a process of the group failed") from None
        for process in ranks:
            process.join()
    return rows


def _rank(rank: int, store: str, kind: str, count: int, options: argparse.Namespace, sender: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=rank, world_size=2)
    first, last = count * rank // 2, count * (rank + 1) // 2
    started = time.perf_counter()
    index = ShardedHammingIndex.from_shard(filled(kind, last - first, count, first))
    filling = time.perf_counter() - started
    rows = built(index, kind, count, options.repeats)
    peak = torch.tensor(_peak())
    dist.all_reduce(peak)
    if rank == 0:
        facts = {"where": "two processes", "fill_s": round(filling, 2), "peak_gb": round(int(peak) / 1e9, 2)}
        sender.send([facts | row for row in rows])
    dist.destroy_process_group()


WHERE = {"memory": (in_memory, 1.0), "mapped": (mapped, 0.1), "processes": (two_processes, 0.1)}


def _case(where: str, kind: str, count: int, options: argparse.Namespace, sender: Any) -> None:
    try:
        rows = WHERE[where][0](kind, count, options)
        sender.send([{"codes": kind, "gallery": count, "bits": 64} | {"peak_gb": round(_peak() / 1e9, 2)} | row for row in rows])
    except BaseException:
        sender.send(traceback.format_exc())


def run(where: str, kind: str, count: int, options: argparse.Namespace) -> list[Row]:
    """Run a case in a fresh process and return its rows."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_case, args=(where, kind, count, options, sender))
    process.start()
    sender.close()
    try:
        rows = receiver.recv()
    except EOFError:
        process.join()
        rows = f"the process ended with exit code {process.exitcode}"
    process.join()
    if isinstance(rows, str):
        raise SystemExit(f"{where}, {kind}: {rows}")
    return rows


COLUMNS = (
    *("where", "codes", "gallery", "bits", "queries", "k", "radius", "ms_20", "ms_50", "ms_80", "scan_ms", "times_scan"),
    *("fill_s", "build_s", "structure_bytes_per_code", "peak_gb", "plan"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, default=10**9, help="codes in memory; a tenth in a file and in two processes")
    parser.add_argument("--quick", action="store_true", help="a million codes, nothing written")
    parser.add_argument("--only", nargs="+", choices=WHERE, default=[*WHERE])
    parser.add_argument("--kinds", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="folder for the mapped file, which is deleted at the end")
    options = parser.parse_args()
    count = 10**6 if options.quick else options.codes
    for where in options.only:
        for kind in options.kinds:
            for row in run(where, kind, int(count * WHERE[where][1]), options):
                row = {name: row[name] for name in COLUMNS}
                print("  ".join(f"{name} {value}" for name, value in row.items() if value != ""), flush=True)
                if not options.quick:
                    append_csv(RESULTS / "billion.csv", [row | environment() | {"threads": options.threads}])


if __name__ == "__main__":
    main()
