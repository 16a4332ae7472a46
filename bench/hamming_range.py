"""Compare the search of all codes within a radius with FAISS.

    python -m bench.hamming_range --quick                       # 1,000,000 x 64 bits, 256 queries, 10 and 1,000 found by each
    python -m bench.hamming_range                               # radii from nothing to everything, one thread
    python -m bench.hamming_range --case 1000000,256,64,110 --threads 2

The rows of every query and their distances must equal those of `faiss.IndexBinaryFlat.range_search` before a time is printed.
Ours are in the order (distance, row), those of FAISS in the order in which it finds them. Codes are uniformly random. Times
are CPU time of this process for one thread, and wall time otherwise.
"""

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
import torch

from bench._harness import RESULTS, append_csv, environment, percentiles, timings
from bench._micro import Call, Microbenchmark, at_most, on_cpu_only, random_codes, same_integers
from bench.hamming_distance import REFERENCE_BYTES
from orthohash_triton.ops.hamming_range import hamming_range
from orthohash_triton.reference.hamming_range import hamming_range as by_definition

Answer = tuple[np.ndarray, np.ndarray, np.ndarray]
OURS = "orthohash_triton"


class Case(NamedTuple):
    gallery: int
    bits: int
    queries: int
    radius: int

    @classmethod
    def parse(cls, text: str) -> "Case":
        return cls(*map(int, text.split(",")))


QUICK = [Case(1_000_000, 64, 256, radius) for radius in (16, 21)]
# Radii at which a query finds about nothing, 10, 1,000, 15 and 130 thousand of a million codes; then everything.
GRID = [
    *(Case(1_000_000, 64, queries, radius) for queries in (1, 16, 256) for radius in (8, 16, 21, 24)),
    *(Case(1_000_000, 64, queries, radius) for queries in (1, 16) for radius in (28, 65)),
    *(Case(1_000_000, 256, queries, radius) for queries in (1, 16, 256) for radius in (64, 94, 104)),
    *(Case(1_000_000, 256, queries, radius) for queries in (1, 16) for radius in (110, 120, 257)),
    Case(10_000_000, 64, 1, 16),
]


def in_order(answer: Answer) -> Answer:
    """Return the answer with the results of each query in the order (distance, row)."""
    lims, distances, ids = (part.astype(np.int64) for part in answer)
    query = np.repeat(np.arange(len(lims) - 1), np.diff(lims))
    order = np.lexsort((ids, distances, query))
    return lims, distances[order], ids[order]


def by_numpy(queries: np.ndarray, gallery: np.ndarray, radius: int) -> Answer:
    """Return the answer computed by NumPy, one query at a time: the rows below the radius in the order (distance, row)."""
    words, lims, distances, ids = gallery.view(np.uint64), [0], [], []
    for query in queries.view(np.uint64):
        row = np.bitwise_count(words ^ query).sum(1, dtype=np.int32)
        (found,) = (row < radius).nonzero()
        found = found[np.argsort(row[found], kind="stable")]
        distances.append(row[found])
        ids.append(found)
        lims.append(lims[-1] + len(found))
    return np.array(lims), np.concatenate(distances), np.concatenate(ids)


def by_faiss(gallery: np.ndarray) -> Any:
    """Return an index of FAISS that holds the codes."""
    import faiss

    index = faiss.IndexBinaryFlat(8 * gallery.shape[1])
    index.add(gallery)
    return index


def make(peer: str, queries: int, gallery: int, bits: int, radius: int, device: str) -> Call:
    """Return the search of a peer for the microbenchmarks."""
    codes = random_codes(queries, gallery, bits, device)
    if peer == OURS:
        return lambda: hamming_range(*codes, radius)
    if peer == "reference":
        at_most(peer, 2 * queries * gallery * bits, REFERENCE_BYTES)
        limits = torch.full((queries,), radius, dtype=torch.int32, device=device)
        return lambda: by_definition(*codes, None, limits)
    on_cpu_only(peer, device)
    query_codes, gallery_codes = (code.numpy() for code in codes)
    if peer == "numpy":
        return lambda: by_numpy(query_codes, gallery_codes, radius)
    index = by_faiss(gallery_codes)
    return lambda: index.range_search(query_codes, radius)


def agree(peer: str, theirs: Any, ours: Any) -> None:
    same_integers(peer, in_order(theirs) if peer == "faiss" else theirs, ours)


def run_case(case: Case, repeats: int, threads: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    queries, gallery = (
        generator.integers(0, 256, (count, case.bits // 8), dtype=np.uint8) for count in (case.queries, case.gallery)
    )
    index = by_faiss(gallery)
    searches = {
        OURS: lambda: hamming_range(queries, gallery, case.radius),
        "faiss": lambda: index.range_search(queries, case.radius),
    }
    ours, theirs = searches[OURS](), in_order(searches["faiss"]())
    if not all(map(np.array_equal, ours, theirs)):
        raise SystemExit(f"faiss and {OURS} find different neighbours: no times are reported")
    seconds = timings(searches, repeats, clock=time.process_time if threads == 1 else time.perf_counter)
    found = len(ours[1]) / case.queries
    print(f"\n{case.gallery:,} x {case.bits} bits, {case.queries} queries, radius {case.radius}: {found:,.1f} found by a query")
    rows = [
        {"peer": name, **case._asdict(), "found_by_a_query": round(found, 1), "repeats": repeats, **percentiles(values)}
        for name, values in seconds.items()
    ]
    for row in rows:
        row["times_faster_than_faiss"] = round(rows[-1]["ms_50"] / row["ms_50"], 2)
        spread = f"[{row['ms_20']:.2f} .. {row['ms_80']:.2f}]"
        rate = case.queries * case.gallery / row["ms_50"] / 1e6
        ratio = row["times_faster_than_faiss"]
        print(f"   {row['peer']:<16} {row['ms_50']:>9.2f} ms {spread} {rate:>6.2f} G/s {ratio:>6.2f} x", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="run two cases only")
    which.add_argument("--case", type=Case.parse, action="append", metavar="N,BITS,QUERIES,RADIUS")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    options = parser.parse_args()

    import faiss

    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    for case in options.case or (QUICK if options.quick else GRID):
        rows = run_case(case, options.repeats, options.threads)
        if not options.no_csv:
            append_csv(RESULTS / "hamming_range.csv", [row | environment() for row in rows])


MICROBENCHMARKS = [
    Microbenchmark(
        op="hamming_range",
        axes=("queries", "gallery", "bits", "radius"),
        shapes=[(16, 10_000, 64, 21), (1, 1_000_000, 64, 16), (16, 1_000_000, 64, 21)],
        smallest=(5, 70, 64, 30),
        peers=(OURS, "reference", "numpy", "faiss"),
        make=make,
        agree=agree,
    )
]

if __name__ == "__main__":
    main()
