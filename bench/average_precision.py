"""Compare the mean average precision of whole rankings with sorting in NumPy and PyTorch.

    python -m bench.average_precision                       # 10,000 x 60,000 of 64 bits, uniform and clustered codes
    python -m bench.average_precision --threads 1           # CPU time: for a machine that runs other programs
    python -m bench.average_precision --device cuda         # codes, and the sorts of PyTorch, on a GPU
    python -m bench.average_precision --queries 1000 --gallery 1000000 --bits 128 --no-csv

Ties are ranked by position. The peers get the first queries only (--sample), and their times are scaled to all queries. Their
answer must equal ours on the sample to 1e-9 before a time is printed. NumPy uses one thread, torch as many as --threads says.

- numpy: for each query, the bits of the XOR summed in 64-bit integers, a stable argsort, a cumulative sum of the relevance.
- numpy uint8: the same with distances as bytes, which NumPy sorts by radix; the fastest loop that we found.
- torch: blocks of 100 queries, distances by a product of +-1 matrices, as in the code of most papers, and a stable argsort.

Clustered codes resemble trained ones: each class has a random code, and each bit of an item differs from it with a chance of
5 %.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench._harness import append_csv, environment, percentiles, results_file, timings
from bench._micro import OURS, Call, Microbenchmark, on_cpu_only
from orthohash_triton.metrics import average_precision

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # codes and labels of queries and gallery


def by_numpy(case: Case, dtype: type) -> np.ndarray:
    queries, gallery, query_labels, labels = case
    words, ranks = gallery.view(np.uint64), np.arange(1, len(gallery) + 1)
    values = []
    for query, label in zip(queries.view(np.uint64), query_labels, strict=True):
        distances = np.bitwise_count(words ^ query).sum(axis=1, dtype=dtype)
        relevant = labels[np.argsort(distances, kind="stable")] == label
        hits = relevant.cumsum()
        values.append((hits / ranks * relevant).sum() / max(hits[-1], 1))
    return np.array(values)


def by_torch(case: Case, device: str) -> np.ndarray:
    query_signs, signs = (torch.from_numpy(2.0 * np.unpackbits(codes, axis=1) - 1).float().to(device) for codes in case[:2])
    query_labels, labels = (torch.from_numpy(array).to(device) for array in case[2:])
    ranks = torch.arange(1, len(labels) + 1, device=device)
    values = []
    for chunk, chunk_labels in zip(query_signs.split(100), query_labels.split(100), strict=True):
        order = (chunk @ signs.T).argsort(dim=1, descending=True, stable=True)
        relevant = labels[order] == chunk_labels[:, None]
        hits = relevant.cumsum(dim=1)
        values.append((hits.double() / ranks * relevant).sum(dim=1) / hits[:, -1].clamp(min=1))
    return torch.cat(values).cpu().numpy()


def make_case(codes: str, queries: int, gallery: int, bits: int, classes: int) -> Case:
    generator = np.random.default_rng(0)
    query_labels, labels = (generator.integers(0, classes, count) for count in (queries, gallery))
    if codes == "uniform":
        packed = [generator.integers(0, 256, (count, bits // 8), dtype=np.uint8) for count in (queries, gallery)]
    else:
        centres = generator.integers(0, 2, (classes, bits), dtype=np.uint8)
        flipped = [generator.random((len(of), bits)) < 0.05 for of in (query_labels, labels)]
        packed = [np.packbits(centres[of] ^ flips, axis=1) for of, flips in zip((query_labels, labels), flipped, strict=True)]
    return packed[0], packed[1], query_labels, labels


def in_threads(threads: int, function: Callable[..., Any], *arguments: Any) -> Any:
    torch.set_num_threads(threads)
    return function(*arguments)


def ours(case: Case, device: str) -> np.ndarray:
    return average_precision(*(torch.from_numpy(array).to(device) for array in case)).cpu().numpy()


def check(sample: Case, peers: dict[str, Callable[[], np.ndarray]], device: str) -> None:
    expected = ours(sample, device).mean()
    for name, peer in peers.items():
        difference = abs(peer().mean() - expected)
        if not difference < 1e-9:
            raise SystemExit(f"{name} and orthohash_triton differ by {difference:.1e}: no times are reported")


def make(peer: str, queries: int, gallery: int, bits: int, device: str) -> Call:
    """Return the metric by a peer for the microbenchmarks: clustered codes of ten classes."""
    case = make_case("clustered", queries, gallery, bits, 10)
    if peer == OURS:
        return lambda: ours(case, device)
    if peer == "torch":
        return lambda: by_torch(case, device)
    on_cpu_only(peer, device)
    return lambda: by_numpy(case, np.uint64 if peer == "numpy" else np.uint8)


def agree(peer: str, theirs: np.ndarray, ours: np.ndarray) -> None:
    assert abs(theirs.mean() - ours.mean()) < 1e-9, f"{peer} and {OURS} differ"


MICROBENCHMARKS = [
    Microbenchmark(
        op="average_precision",
        axes=("queries", "gallery", "bits"),
        shapes=[(100, 10_000, 64), (100, 60_000, 64)],
        smallest=(5, 70, 64),
        peers=(OURS, "numpy", "numpy uint8", "torch"),
        make=make,
        agree=agree,
    )
]


def run_case(codes: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    shape = {name: getattr(options, name) for name in ("queries", "gallery", "bits", "classes")}
    case = make_case(codes, **shape)
    count = min(options.sample, options.queries)
    sample = (case[0][:count], case[1], case[2][:count], case[3])
    peers = {
        "numpy": lambda: by_numpy(sample, np.uint64),
        "numpy uint8": lambda: by_numpy(sample, np.uint8),
        "torch": lambda: in_threads(options.threads, by_torch, sample, options.device),
    }
    check(sample, peers, options.device)
    on_cpu = options.device == "cpu"
    variants = {
        f"orthohash_triton, {threads} thread{'s'[: threads > 1]}" if on_cpu else "orthohash_triton, GPU": (
            lambda threads=threads: in_threads(threads, ours, case, options.device)
        )
        for threads in (sorted({1, options.threads}) if on_cpu else [options.threads])
    }
    clock = time.process_time if options.threads == 1 and on_cpu else time.perf_counter
    seconds = timings(peers | variants, options.repeats, clock=clock)
    rows = []
    for name, values in seconds.items():
        scaled = [value * (options.queries / count if name in peers else 1) for value in values]
        row = {
            "peer": name,
            "codes": codes,
            **shape,
            "repeats": options.repeats,
            "sample": count if name in peers else options.queries,
        }
        rows.append(row | percentiles(scaled))
    medians = {row["peer"]: row["ms_50"] for row in rows}
    for row in rows:
        for peer in ("numpy", "numpy uint8") if on_cpu else ("numpy", "numpy uint8", "torch"):
            row[f"times_faster_than_{peer.replace(' ', '_')}"] = round(medians[peer] / row["ms_50"], 1)
        ratios = f"{row['times_faster_than_numpy']:>7.1f} x {row['times_faster_than_numpy_uint8']:>7.1f} x"
        print(f"{codes:<10} {row['peer']:<28} {row['ms_50'] / 1e3:>9.3f} s {ratios}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--gallery", type=int, default=60_000)
    parser.add_argument("--bits", type=int, default=64, help="a multiple of 64")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--codes", nargs="+", default=["uniform", "clustered"], choices=["uniform", "clustered"])
    parser.add_argument("--sample", type=int, default=100, help="number of queries that the peers get")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    options = parser.parse_args()

    shape = f"{options.queries} queries x {options.gallery} codes of {options.bits} bits, {options.classes} classes"
    print(f"{shape}; times faster than\n{'':>53}numpy  numpy uint8")
    for codes in options.codes:
        rows = run_case(codes, options)
        if not options.no_csv:
            append_csv(results_file("average_precision.csv", options.device), [row | environment() for row in rows])


if __name__ == "__main__":
    main()
