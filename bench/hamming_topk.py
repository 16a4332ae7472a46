"""Compare exact Hamming search with FAISS, usearch, NumPy and PyTorch.

    python -m bench.hamming_topk --quick                        # the headline: 1,000,000 x 64 bits, 256 queries, k = 100
    python -m bench.hamming_topk                                # the README's cases, one thread
    python -m bench.hamming_topk --threads 2 --case 10000000,64,1,100 --case 10000000,64,256,100
    python -m bench.hamming_topk --grid                         # one size varied at a time, other kinds of codes: half an hour
    python -m bench.hamming_topk --device cuda                  # on a GPU, against PyTorch, and FAISS if it has GPU indexes

The distances and row numbers of every peer must equal ours before a time is printed. usearch, NumPy's partial sort, PyTorch's
topk and FAISS on a GPU do not order ties, so that only their distances are compared. On a GPU the gallery is in the memory of
the GPU; queries and answers are in host memory. PyTorch multiplies +-1 codes in float16, which is exact and takes 16 times
the memory of the gallery. Codes are uniformly random, clustered (100 centres, every bit flipped with probability 0.05, like
trained codes), or tied (all equal). Times are CPU time of this process for one thread, and wall time otherwise. Two limits of
the CPU are measured in the same run: reading the gallery from memory once, and scoring it from the first-level cache for each
query in turn.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from bench._harness import append_csv, environment, percentiles, results_file, timings
from bench._limits import memory_seconds, scoring_rate
from bench._micro import Microbenchmark, Unavailable, at_most, random_codes, same_integers, signs
from bench.hamming_distance import REFERENCE_BYTES
from orthohash_triton.ops.hamming_topk import hamming_topk
from orthohash_triton.reference.hamming_topk import hamming_topk as by_definition

Search = Callable[[], Any]
OURS = "orthohash_triton"
_UNORDERED = ("numpy", "usearch", "torch", "faiss gpu")  # peers that do not order ties
_UNORDERED_PAIRS = 2 * 10**7  # limit for these peers, which hold 16 bytes per pair or sort all pairs


class Case(NamedTuple):
    gallery: int
    bits: int
    queries: int
    k: int
    codes: str = "uniform"

    @classmethod
    def parse(cls, text: str) -> "Case":
        gallery, bits, queries, k, *codes = text.split(",")
        return cls(int(gallery), int(bits), int(queries), int(k), *codes)


HEADLINE = Case(1_000_000, 64, 256, 100)
README = [
    *(Case(1_000_000, bits, queries, 100) for bits in (64, 128, 256) for queries in (1, 16, 256)),
    Case(1_000_000, 64, 256, 10),
    Case(1_000_000, 64, 256, 1000),
    Case(10_000_000, 64, 1, 100),
    Case(10_000_000, 64, 256, 100),
]
GPU = [
    *(Case(10_000_000, 64, queries, 100) for queries in (1, 16, 256, 1000)),
    *(Case(10_000_000, bits, 1000, 100) for bits in (128, 256)),
    *(Case(1_000_000, 64, queries, 100) for queries in (1, 256)),
    *(Case(1_000_000, 64, 1000, k) for k in (10, 1000)),
    Case(100_000_000, 64, 1, 100),
    HEADLINE._replace(codes="clustered"),
]
GRID = [
    *(HEADLINE._replace(gallery=n, queries=q) for n in (100_000, 1_000_000, 10_000_000) for q in (1, 16, 256)),
    HEADLINE._replace(gallery=100_000_000, queries=1),
    *(HEADLINE._replace(bits=bits, queries=q) for bits in (32, 128, 256, 512, 1024) for q in (1, 256)),
    HEADLINE._replace(queries=1000),
    *(HEADLINE._replace(k=k, queries=q) for k in (1, 10, 1000, 10_000) for q in (1, 256)),
    *(HEADLINE._replace(codes=codes, k=k) for codes in ("clustered", "tied") for k in (10, 100, 1000)),
]


def make_codes(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of queries and gallery, uint8 [Q, B] and [N, B]."""
    generator = np.random.default_rng(0)
    width, counts = case.bits // 8, (case.queries, case.gallery)
    if case.codes == "tied":
        code = generator.integers(0, 256, (1, width), dtype=np.uint8)
        return tuple(np.repeat(code, count, axis=0) for count in counts)
    if case.codes == "clustered":
        centres = generator.integers(0, 256, (100, width), dtype=np.uint8)
        return tuple(_near(generator, centres, count) for count in counts)
    return tuple(generator.integers(0, 256, (count, width), dtype=np.uint8) for count in counts)


def _near(generator: np.random.Generator, centres: np.ndarray, count: int) -> np.ndarray:
    flips = generator.random((count, 8 * centres.shape[1]), dtype=np.float32) < 0.05
    return centres[generator.integers(0, len(centres), count)] ^ np.packbits(flips, axis=1, bitorder="little")


def by_numpy(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and rows [Q, k] by population counts and a partial sort for each query."""
    word = np.uint64 if gallery.shape[1] % 8 == 0 else np.uint32
    words = gallery.view(word)
    nearest = []
    for query in queries.view(word):
        distances = np.bitwise_count(words ^ query).sum(1, dtype=np.int32)
        found = np.argpartition(distances, k - 1)[:k]
        found = found[np.lexsort((found, distances[found]))]
        nearest.append((distances[found], found))
    distances, ids = map(np.stack, zip(*nearest, strict=True))
    return distances, ids


def by_usearch(queries: np.ndarray, gallery: np.ndarray, k: int, threads: int) -> Search:
    from usearch.index import MetricKind, ScalarKind, search

    def run() -> tuple[np.ndarray, np.ndarray]:
        found = search(gallery, queries, k, MetricKind.Hamming, exact=True, threads=threads, dtype=ScalarKind.B1)
        return np.atleast_2d(found.distances).astype(np.int32), np.atleast_2d(found.keys).astype(np.int64)

    return run


def peers_on_cpu(queries: np.ndarray, gallery: np.ndarray, k: int, threads: int) -> dict[str, Search]:
    import faiss

    faiss.omp_set_num_threads(threads)
    searches: dict[str, Search] = {OURS: lambda: hamming_topk(queries, gallery, k)}
    for variant in ("hc", "mc"):
        searches[f"faiss {variant}"] = lambda variant=variant: faiss.knn_hamming(queries, gallery, k, variant=variant)
    if queries.shape[0] * gallery.shape[0] <= _UNORDERED_PAIRS:
        searches["numpy"] = lambda: by_numpy(queries, gallery, k)
        try:
            searches["usearch"] = by_usearch(queries, gallery, k, threads)
        except ImportError:
            print("usearch is not installed: pip install usearch")
    return searches


def peers_on_gpu(queries: np.ndarray, gallery: np.ndarray, k: int, device: str) -> dict[str, Search]:
    codes = torch.from_numpy(gallery).to(device)

    def ours() -> tuple[np.ndarray, np.ndarray]:
        distances, ids = hamming_topk(torch.from_numpy(queries).to(device), codes, k)
        return distances.cpu().numpy(), ids.cpu().numpy()

    searches: dict[str, Search] = {OURS: ours}
    if 2 * codes.numel() * 8 < torch.cuda.mem_get_info()[0] / 2:
        searches["torch"] = by_torch(queries, codes, k)
    try:
        import faiss
    except ImportError:
        faiss = None
    if hasattr(faiss, "GpuIndexBinaryFlat") and k <= 2048:
        index = faiss.GpuIndexBinaryFlat(faiss.StandardGpuResources(), 8 * gallery.shape[1])
        index.add(gallery)
        searches["faiss gpu"] = lambda: index.search(queries, k)
    else:
        print("no FAISS with GPU indexes here, or k is more than they take")
    return searches


def by_torch(queries: np.ndarray, gallery: torch.Tensor, k: int) -> Search:
    """Return a search that multiplies +-1 codes, takes the best of every block, and then the best of those."""
    of_gallery, block = signs(gallery), 2**31 // (2 * len(queries))  # a block's products take at most 2 GB

    def run() -> tuple[np.ndarray, np.ndarray]:
        of_queries, best = signs(torch.from_numpy(queries).to(gallery.device)), []
        for first in range(0, len(gallery), block):
            found = (of_queries @ of_gallery[first : first + block].T).topk(min(k, len(gallery) - first), dim=1)
            best.append((found.values, found.indices + first))
        products, ids = (torch.cat(parts, dim=1) for parts in zip(*best, strict=True))
        products, order = products.topk(k, dim=1)
        return ((of_queries.shape[1] - products) / 2).int().cpu().numpy(), ids.gather(1, order).cpu().numpy()

    return run


def make(peer: str, queries: int, gallery: int, bits: int, k: int, device: str) -> Search:
    """Return the search of a peer for the microbenchmarks, from codes that lie on `device`."""
    codes = random_codes(queries, gallery, bits, device)
    if peer == OURS:
        return lambda: hamming_topk(*codes, k)
    if peer == "reference":
        at_most(peer, 2 * queries * gallery * bits, REFERENCE_BYTES)
        return lambda: by_definition(*codes, k)
    query_codes, gallery_codes = (code.cpu().numpy() for code in codes)
    if peer == "torch":
        at_most(peer, 4 * gallery * bits, REFERENCE_BYTES)
        return by_torch(query_codes, codes[1], k)
    if device == "cpu":
        searches = peers_on_cpu(query_codes, gallery_codes, k, torch.get_num_threads())
    else:
        searches = peers_on_gpu(query_codes, gallery_codes, k, device)
    if peer not in searches:
        raise Unavailable(f"{peer} is not installed, has no implementation on {device}, or would need too much memory")
    return searches[peer]


def agree(peer: str, theirs: Any, ours: Any) -> None:
    """Compare distances, and the rows too where the peer orders ties by row."""
    parts = 1 if peer in _UNORDERED else 2
    same_integers(peer, tuple(theirs[:parts]), tuple(ours[:parts]))


MICROBENCHMARKS = [
    Microbenchmark(
        op="hamming_topk",
        axes=("queries", "gallery", "bits", "k"),
        shapes=[(16, 10_000, 64, 100), (1, 1_000_000, 64, 100), (16, 1_000_000, 64, 100), (256, 1_000_000, 64, 100)],
        smallest=(5, 70, 64, 7),
        peers=(OURS, "reference", "faiss hc", "faiss mc", "faiss gpu", "numpy", "usearch", "torch"),
        make=make,
        agree=agree,
    )
]


def check(searches: dict[str, Search]) -> None:
    answers = {name: search() for name, search in searches.items()}
    distances, ids = answers[OURS]
    for name, (peer_distances, peer_ids) in answers.items():
        ordered = name not in _UNORDERED
        if not np.array_equal(distances, peer_distances) or (ordered and not np.array_equal(ids, peer_ids)):
            raise SystemExit(f"{name} and {OURS} find different neighbours: no times are reported")


def run_case(case: Case, repeats: int, threads: int, device: str) -> list[dict[str, Any]]:
    queries, gallery = make_codes(case)
    on_gpu = device != "cpu"
    k = min(case.k, case.gallery)
    searches = peers_on_gpu(queries, gallery, k, device) if on_gpu else peers_on_cpu(queries, gallery, k, threads)
    check(searches)
    clock = time.process_time if threads == 1 and not on_gpu else time.perf_counter
    # Reading a gallery that fits the cache of the CPU brings it there for each peer.
    seconds = timings(searches, repeats, clock=clock, before=None if on_gpu else gallery.max)
    rows = [{"peer": name, **case._asdict(), "repeats": repeats, **percentiles(values)} for name, values in seconds.items()]
    rivals = ("faiss", "torch") if on_gpu else ("faiss",)
    best = {rival: min((row["ms_50"] for row in rows if row["peer"].startswith(rival)), default=math.nan) for rival in rivals}
    limits = {"read_once_ms": "", "score_from_cache_ms": ""}
    if not on_gpu and gallery.nbytes % 8 == 0:
        limits["read_once_ms"] = round(1e3 * memory_seconds(gallery.reshape(-1).view(np.uint64)), 4)
        if case.bits % 64 == 0:
            rate = scoring_rate(case.bits) * min(threads, case.queries if case.queries > 1 else threads)
            limits["score_from_cache_ms"] = round(1e3 * case.queries * case.gallery / rate, 4)
    print(f"\n{case.gallery:,} x {case.bits} bits, {case.queries} queries, k = {case.k}, {case.codes} codes  {limits}")
    for row in rows:
        row |= {f"times_faster_than_{rival}": round(ms / row["ms_50"], 2) for rival, ms in best.items()} | limits
        rate = case.queries * case.gallery / row["ms_50"] / 1e6
        spread = f"[{row['ms_20']:.2f} .. {row['ms_80']:.2f}]"
        ratios = "  ".join(f"{ms / row['ms_50']:>6.2f} x {rival}" for rival, ms in best.items())
        print(f"   {row['peer']:<16} {row['ms_50']:>9.2f} ms {spread} {rate:>6.2f} G/s {ratios}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="run the headline case only")
    which.add_argument("--grid", action="store_true", help="vary one size at a time")
    which.add_argument("--case", type=Case.parse, action="append", metavar="N,BITS,QUERIES,K[,CODES]")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    usual = README if options.device == "cpu" else GPU
    cases = options.case or ([HEADLINE] if options.quick else GRID if options.grid else usual)
    for case in cases:
        rows = run_case(case, options.repeats, options.threads, options.device)
        if not options.no_csv:
            append_csv(results_file("hamming_topk.csv", options.device), [row | environment() for row in rows])


if __name__ == "__main__":
    main()
