"""Mean average precision over a whole gallery: counted from packed codes, against the sort that papers' code does.

    python -m bench.average_precision --queries 10000 --gallery 60000 --bits 64

The sort gets unpacked codes as float32 (a matrix product gives the distances) and a sample of the queries; its time is scaled up.
"""

import argparse
import time

import torch

from orthohash_triton.metrics import mean_average_precision


def by_sorting(query_signs: torch.Tensor, signs: torch.Tensor, query_labels: torch.Tensor, labels: torch.Tensor) -> float:
    total = 0.0
    ranks = torch.arange(1, len(signs) + 1)
    for chunk, chunk_labels in zip(query_signs.split(100), query_labels.split(100), strict=True):
        order = (chunk @ signs.T).argsort(dim=1, descending=True, stable=True)
        relevant = labels[order] == chunk_labels[:, None]
        hits = relevant.cumsum(dim=1)
        total += float(((hits.double() / ranks * relevant).sum(dim=1) / hits[:, -1].clamp(min=1)).sum())
    return total / len(query_signs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--gallery", type=int, default=60_000)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--sample", type=int, default=200, help="queries that the sort gets")
    options = parser.parse_args()

    torch.manual_seed(0)
    sizes = (options.queries, options.gallery)
    query_codes, codes = (torch.randint(0, 256, (n, options.bits // 8), dtype=torch.uint8) for n in sizes)
    query_labels, labels = (torch.randint(0, options.classes, (n,)) for n in sizes)
    sample = slice(min(options.sample, options.queries))
    signs = [
        2.0 * (packed[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten(1) - 1
        for packed in (query_codes[sample], codes)
    ]
    mean_average_precision(query_codes[:2], codes, query_labels[:2], labels)  # compiles

    started = time.perf_counter()
    sorted_value = by_sorting(*signs, query_labels[sample], labels)
    sorted_seconds = (time.perf_counter() - started) * options.queries / len(query_labels[sample])
    sampled_value = mean_average_precision(query_codes[sample], codes, query_labels[sample], labels)
    print(f"{options.queries} queries x {options.gallery} codes of {options.bits} bits, {torch.get_num_threads()} threads")
    print(f"sorting, scaled from {len(query_labels[sample])} queries: {sorted_seconds:8.2f} s")
    for name, keywords in {"stable": {}, "stable, k=1000": {"k": 1000}, "expected": {"ties": "expected"}}.items():
        started = time.perf_counter()
        mean_average_precision(query_codes, codes, query_labels, labels, **keywords)
        seconds = time.perf_counter() - started
        print(f"counting, {name:32}: {seconds:8.2f} s  {sorted_seconds / seconds:6.1f} times faster")
    print(f"largest difference on the sample: {abs(sorted_value - sampled_value):.1e}")


if __name__ == "__main__":
    main()
