"""Exact Hamming search on a CPU against FAISS and NumPy, in one run and one thread.

    python -m bench.hamming_topk --quick                        # the headline: 1,000,000 x 64 bits, 256 queries, k = 100
    python -m bench.hamming_topk                                # the whole grid, some minutes
    python -m bench.hamming_topk --queries 1 --k 10 --bits 256

Every peer's distances and row numbers must equal ours before a time is printed (NumPy's partial sort knows no order of ties: its
distances). Codes are uniformly random. Times are CPU time of this process, or wall time with --threads above 1.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch

from bench._harness import RESULTS, append_csv, environment, percentiles, timings
from orthohash_triton.ops.hamming_topk import hamming_topk

Search = Callable[[], tuple[np.ndarray, np.ndarray]]


def by_numpy(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Popcount, then a partial sort, query by query."""
    words = gallery.view(np.uint64)
    nearest = []
    for query in queries.view(np.uint64):
        distances = np.bitwise_count(words ^ query).sum(1, dtype=np.int32)
        found = np.argpartition(distances, k - 1)[:k]
        found = found[np.lexsort((found, distances[found]))]
        nearest.append((distances[found], found))
    distances, ids = map(np.stack, zip(*nearest, strict=True))
    return distances, ids


def peers(queries: np.ndarray, gallery: np.ndarray, k: int) -> dict[str, Search]:
    searches: dict[str, Search] = {"orthohash_triton": lambda: hamming_topk(queries, gallery, k)}
    for variant in ("hc", "mc"):
        searches[f"faiss {variant}"] = lambda variant=variant: faiss.knn_hamming(queries, gallery, k, variant=variant)
    if len(queries) <= 16:
        searches["numpy"] = lambda: by_numpy(queries, gallery, k)
    return searches


def check(searches: dict[str, Search]) -> None:
    answers = {name: search() for name, search in searches.items()}
    distances, ids = answers["orthohash_triton"]
    for name, (peer_distances, peer_ids) in answers.items():
        if not np.array_equal(distances, peer_distances) or (name != "numpy" and not np.array_equal(ids, peer_ids)):
            raise SystemExit(f"{name} and orthohash_triton find different neighbours: no times are reported")


def run_case(case: dict[str, int], repeats: int, single: bool) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    queries, gallery = (
        generator.integers(0, 256, (case[name], case["bits"] // 8), dtype=np.uint8) for name in ("queries", "gallery")
    )
    searches = peers(queries, gallery, case["k"])
    check(searches)
    seconds = timings(searches, repeats, clock=time.process_time if single else time.perf_counter)
    rows = [{"peer": name, **case, "repeats": repeats, **percentiles(values)} for name, values in seconds.items()]
    best = min(row["ms_50"] for row in rows if row["peer"].startswith("faiss"))
    for row in rows:
        row["times_faster_than_faiss"] = round(best / row["ms_50"], 2)
        rate = case["queries"] * case["gallery"] / row["ms_50"] / 1e6
        what = f"{case['gallery']:>9} x {case['bits']:>4} bits, {case['queries']:>4} queries, k = {case['k']:>4}"
        spread = f"[{row['ms_20']:.2f} .. {row['ms_80']:.2f}]"
        ratio = row["times_faster_than_faiss"]
        print(f"{what}   {row['peer']:<16} {row['ms_50']:>9.2f} ms {spread} {rate:>6.2f} G/s {ratio:>6.2f} x", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the headline case alone")
    parser.add_argument("--gallery", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--bits", type=int, nargs="+", help="multiples of 64")
    parser.add_argument("--queries", type=int, nargs="+")
    parser.add_argument("--k", type=int, nargs="+")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    grid = {
        "gallery": options.gallery,
        "bits": options.bits or ([64] if options.quick else [64, 128, 256]),
        "queries": options.queries or ([256] if options.quick else [1, 16, 256]),
        "k": options.k or ([100] if options.quick else [10, 100, 1000]),
    }
    for values in itertools.product(*grid.values()):
        rows = run_case(dict(zip(grid, values, strict=True)), options.repeats, options.threads == 1)
        if not options.no_csv:
            append_csv(RESULTS / "hamming_topk.csv", [row | environment() for row in rows])


if __name__ == "__main__":
    main()
