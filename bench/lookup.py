"""Compare the lookup by substrings with the scan and with FAISS's IndexBinaryMultiHash for all codes within a radius.

    python -m bench.lookup                     # 1,000,000 codes; about five minutes
    python -m bench.lookup --gallery 10000000 --peers none

One thread; CPU time of the process, the least of several calls that take turns. IndexBinaryMultiHash is built with every setting
that guarantees all answers and may pay, and the fastest one takes part. All answers are equal before a time is printed.
`met` of a row is the mean number of buckets and codes that a query looks at, `buckets` of them buckets.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch

from bench import galleries
from bench._harness import RESULTS, append_csv, environment, timings
from orthohash_triton import hamming_range
from orthohash_triton.search._lookup import Lookup

CASES = [  # kind, bits, radius
    ("planted", 256, 2),
    ("planted", 256, 8),
    ("planted", 256, 16),
    ("uniform", 64, 2),
    ("uniform", 64, 4),
    ("uniform", 64, 8),
    ("trained", 64, 2),
    ("trained", 64, 4),
    ("trained", 64, 8),
    ("tied", 64, 4),
    ("shared", 64, 4),
]
SCANNED = 100  # queries whose time the scan is measured with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cases", default="", help="only cases whose name, such as planted-256-8, contains this")
    parser.add_argument("--peers", choices=("all", "none"), default="all")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    for kind, bits, radius in CASES:
        if options.cases in f"{kind}-{bits}-{radius}":
            row = measured(kind, bits, radius, options)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            if not options.no_csv:
                append_csv(RESULTS / "lookup.csv", [{**row, **environment()}])


def measured(kind: str, bits: int, radius: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return a row of the table: what was built, what the queries met, and the microseconds a query takes."""
    count = options.gallery
    codes = galleries.make(kind, count, bits)
    queries = galleries.queries(kind, options.queries, bits, total=count)
    gallery, asked = torch.from_numpy(codes), torch.from_numpy(queries)
    started = time.process_time()
    lookup = Lookup.build(gallery, radius)
    build = time.process_time() - started
    found = lookup.within(asked, radius + 1)
    few = asked[:SCANNED]
    expected = hamming_range(few, gallery, radius, inclusive=True)
    here = lookup.within(few, radius + 1)
    if not all(torch.equal(ours, right) for ours, right in zip(here[:3], expected, strict=True)):
        raise SystemExit("the lookup and the scan disagree: no times are reported")
    searches: dict[str, Callable[[], Any]] = {
        "lookup": lambda: lookup.within(asked, radius + 1),
        "scan": lambda: hamming_range(few, gallery, radius, inclusive=True),
    }
    if options.peers == "all":
        searches |= fastest_multihash(codes, queries, radius, found.lims.numpy())
    seconds = timings(searches, options.repeats, clock=time.process_time)
    micros = {name: 1e6 * times[0] / (len(few) if name == "scan" else len(asked)) for name, times in seconds.items()}
    peers = {name: value for name, value in micros.items() if name not in ("lookup", "scan")}
    best = min(peers, key=peers.__getitem__) if peers else ""
    return {
        "kind": kind,
        "bits": bits,
        "radius": radius,
        "codes": count,
        "queries": len(asked),
        "tables": len(lookup.tables.starts),
        "buckets": lookup.buckets(radius),
        "met": round(float(found.met.double().mean()), 1),
        "answers": round(len(found.ids) / len(asked), 1),
        "build_s": round(build, 2),
        "bytes_per_code": round(lookup.nbytes / count, 1),
        "lookup_us": round(micros["lookup"], 2),
        "scan_us": round(micros["scan"], 2),
        "times_scan": round(micros["scan"] / micros["lookup"], 1),
        "multihash_us": round(peers[best], 2) if best else "",
        "times_multihash": round(peers[best] / micros["lookup"], 1) if best else "",
        "multihash": best,
    }


def multihash_settings(bits: int, radius: int, count: int) -> list[str]:
    """Return settings "hashes x bits, flips" of IndexBinaryMultiHash with which it finds all codes within the radius."""
    enough = max(8, count.bit_length())
    settings = []
    for flips in range(3):
        hashes = math.ceil((radius + 1) / (flips + 1))
        widest = bits // hashes
        for width in sorted({min(widest, enough), min(widest, enough + 4), min(widest, 32) if flips == 0 else 0} - {0}):
            expected = count * 2.0**-width * sum(math.comb(width, flip) for flip in range(flips + 1)) * hashes
            if expected < count / 100:  # else its queries take longer than a scan, up to minutes
                settings.append(f"{hashes} x {width}, {flips}")
    return settings


def fastest_multihash(codes: np.ndarray, queries: np.ndarray, radius: int, lims: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Return the search of the IndexBinaryMultiHash whose setting takes the least time, by its setting."""
    fastest: dict[str, Callable[[], Any]] = {}
    least = math.inf
    for setting in multihash_settings(8 * codes.shape[1], radius, len(codes)):
        search = multihash(setting, codes, queries, radius, lims)
        started = time.process_time()
        search()
        seconds = time.process_time() - started
        if seconds < least:
            least, fastest = seconds, {setting: search}
    return fastest


def multihash(setting: str, codes: np.ndarray, queries: np.ndarray, radius: int, lims: np.ndarray) -> Callable[[], Any]:
    """Return the search of an IndexBinaryMultiHash, whose answers are checked against the numbers of those of the lookup."""
    hashes, width, flips = (int(part) for part in setting.replace(",", " x").split(" x "))
    index = faiss.IndexBinaryMultiHash(8 * codes.shape[1], hashes, width)
    index.add(codes)
    index.nflip = flips

    def search() -> Any:
        return index.range_search(queries, radius + 1)

    if not np.array_equal(search()[0], lims):
        raise SystemExit(f"IndexBinaryMultiHash {setting} and the lookup disagree: no times are reported")
    return search


if __name__ == "__main__":
    main()
