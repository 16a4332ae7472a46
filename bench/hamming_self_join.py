"""Compare the search of all pairs of near codes with FAISS.

    python -m bench.hamming_self_join --quick          # 1,000,000 x 256 bits within 2 bits
    python -m bench.hamming_self_join                  # radii 0 to 16, 64 and 256 bits, and codes of which many are equal
    python -m bench.hamming_self_join --case 1000000,256,4,planted --no-peers

The pairs must equal those of `faiss.IndexBinaryMultiHash` (with b bits a table, and one table more than the radius, which then
misses nothing) before a time is printed. Kinds of codes: "planted" are uniformly random, with a thousand codes that have `radius`
bits of another one flipped; "trained" lie around random centres, most of them equal to another code, as trained codes do. Times
are CPU time of this process for one thread, and wall time otherwise.
"""

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
import torch

from bench._harness import RESULTS, append_csv, environment, percentiles, timings
from bench._micro import Call, Microbenchmark, at_most, on_cpu_only, same_integers
from bench.hamming_distance import REFERENCE_BYTES
from orthohash_triton.ops.hamming_self_join import hamming_self_join
from orthohash_triton.reference.hamming_self_join import hamming_self_join as by_definition

Answer = tuple[np.ndarray, np.ndarray]
OURS = "orthohash_triton"
_PLANTED = 1000
_CENTRES, _FLIPPED = 10, 0.02
_FAISS_TABLE_BITS = 15
_FAISS_ROWS = 100_000


class Case(NamedTuple):
    rows: int
    bits: int
    radius: int
    kind: str

    @classmethod
    def parse(cls, text: str) -> "Case":
        rows, bits, radius, kind = text.split(",")
        return cls(int(rows), int(bits), int(radius), kind)


QUICK = [Case(1_000_000, 256, 2, "planted")]
GRID = [
    *(Case(1_000_000, 256, radius, "planted") for radius in (0, 2, 4, 8, 16)),
    *(Case(1_000_000, 64, radius, "planted") for radius in (0, 2, 4, 8)),
    *(Case(100_000, 256, radius, "planted") for radius in (2, 8, 16)),
    *(Case(30_000, 64, radius, "trained") for radius in (0, 2)),
]


def codes_of(case: Case) -> np.ndarray:
    """Return the codes of a case, uint8 [N, B]; the same at every call."""
    generator = np.random.default_rng(0)
    if case.kind == "trained":
        centres = generator.integers(0, 2, (_CENTRES, case.bits), dtype=np.uint8)
        flips = generator.random((case.rows, case.bits)) < _FLIPPED
        return np.packbits(centres[generator.integers(0, _CENTRES, case.rows)] ^ flips, axis=1, bitorder="little")
    codes = generator.integers(0, 256, (case.rows, case.bits // 8), dtype=np.uint8)
    planted = min(_PLANTED, case.rows // 2)
    flips = np.zeros((planted, case.bits), np.uint8)
    for row in flips:
        row[generator.permutation(case.bits)[: case.radius]] = 1
    codes[-planted:] = codes[:planted] ^ np.packbits(flips, axis=1, bitorder="little")
    return codes


def by_numpy(codes: np.ndarray, radius: int) -> Answer:
    """Return the answer computed by NumPy, one code at a time."""
    words, pairs, distances = codes.view(np.uint64), [], []
    for i, code in enumerate(words):
        row = np.bitwise_count(words[i + 1 :] ^ code).sum(1, dtype=np.int32)
        (found,) = (row <= radius).nonzero()
        pairs.append(np.stack((np.full(len(found), i), found + i + 1), 1))
        distances.append(row[found])
    return np.concatenate(pairs), np.concatenate(distances)


def by_faiss(codes: np.ndarray, radius: int) -> Answer:
    """Return the answer of FAISS: an index is built, searched with all codes, and the pairs i < j are put in order."""
    import faiss

    bits = 8 * codes.shape[1]
    index = faiss.IndexBinaryMultiHash(bits, radius + 1, min(_FAISS_TABLE_BITS, bits // (radius + 1)))
    index.nflip = 0
    index.add(codes)
    lims, distances, ids = index.range_search(codes, radius + 1)
    first = np.repeat(np.arange(len(codes)), np.diff(lims.astype(np.int64)))
    kept = first < ids
    order = np.lexsort((ids[kept], first[kept]))
    pairs = np.stack((first[kept], ids[kept]), 1)[order]
    return pairs, distances[kept][order].astype(np.int32)


def make(peer: str, rows: int, bits: int, radius: int, device: str) -> Call:
    """Return the join of a peer for the microbenchmarks."""
    array = codes_of(Case(rows, bits, radius, "planted"))
    codes = torch.from_numpy(array).to(device)
    if peer == OURS:
        return lambda: hamming_self_join(codes, radius)
    if peer == "reference":
        at_most(peer, 2 * rows * rows * bits, REFERENCE_BYTES)
        return lambda: by_definition(codes, radius + 1)
    on_cpu_only(peer, device)
    at_most(peer, rows * rows * bits // 8, REFERENCE_BYTES)
    return lambda: by_numpy(array, radius) if peer == "numpy" else by_faiss(array, radius)


def agree(peer: str, theirs: Any, ours: Any) -> None:
    same_integers(peer, theirs, ours)


def run_case(case: Case, repeats: int, threads: int, peers: bool) -> list[dict[str, Any]]:
    codes = codes_of(case)
    joins: dict[str, Any] = {OURS: lambda: hamming_self_join(codes, case.radius)}
    if peers and case.rows <= _FAISS_ROWS:
        joins["faiss MultiHash"] = lambda: by_faiss(codes, case.radius)
    pairs, distances = joins[OURS]()
    for name in [name for name in joins if name != OURS]:
        if not all(map(np.array_equal, joins[name](), (pairs, distances))):
            raise SystemExit(f"{name} and {OURS} find different pairs: no times are reported")
    seconds = timings(joins, repeats, clock=time.process_time if threads == 1 else time.perf_counter)
    print(f"\n{case.rows:,} x {case.bits} bits, {case.kind}, radius {case.radius}: {len(pairs):,} pairs")
    rows = [
        {"peer": name, **case._asdict(), "pairs": len(pairs), "repeats": repeats, "threads": threads, **percentiles(values)}
        for name, values in seconds.items()
    ]
    for row in rows:
        print(f"   {row['peer']:<16} {row['ms_50']:>10.2f} ms [{row['ms_20']:.2f} .. {row['ms_80']:.2f}]", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="run one case only")
    which.add_argument("--case", type=Case.parse, action="append", metavar="N,BITS,RADIUS,KIND")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true", help="time ours only")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    for case in options.case or (QUICK if options.quick else GRID):
        rows = run_case(case, options.repeats, options.threads, not options.no_peers)
        if not options.no_csv:
            append_csv(RESULTS / "hamming_self_join.csv", [row | environment() for row in rows])


MICROBENCHMARKS = [
    Microbenchmark(
        op="hamming_self_join",
        axes=("rows", "bits", "radius"),
        shapes=[(10_000, 64, 2), (10_000, 256, 8), (1_000_000, 256, 2)],
        smallest=(70, 64, 2),
        peers=(OURS, "reference", "numpy", "faiss"),
        make=make,
        agree=agree,
    )
]

if __name__ == "__main__":
    main()
