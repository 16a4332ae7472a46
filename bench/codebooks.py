"""Measure the smallest distance between codes of each method's codebooks, and the time to make them.

python -m bench.codebooks [--large]
"""

import argparse
import time

import torch

from orthohash_triton import codebooks
from orthohash_triton.codebooks._minimum_distance import largest_possible_distance, published_distance

from ._harness import RESULTS, append_csv, environment

SIZES = [(classes, bits) for classes in (10, 21, 80, 100, 196, 555, 1000) for bits in (16, 32, 48, 64, 128)]
LARGE = [(10_000, 128), (40_000, 128)]
METHODS = ("hadamard", "bernoulli", "max_hamming", "minimum_distance", "semantic")


def superclasses(classes: int) -> torch.Tensor:
    """Return similarities of classes in groups of five: 0.5 within a group, -0.1 between groups, plus noise."""
    group = torch.arange(classes) // 5
    similarity = -0.1 + 0.6 * (group[:, None] == group).float()
    similarity += 0.1 * torch.randn(classes, classes, generator=torch.Generator().manual_seed(0))
    return ((similarity + similarity.T) / 2).clamp(-1, 1).fill_diagonal_(1)


def relative_error(codebook: torch.Tensor, similarity: torch.Tensor) -> float:
    """Return the squared error of the cosines against `similarity`, relative to that of the "minimum_distance" codebook."""
    start = codebooks.make_codebook(*codebook.shape, method="minimum_distance")
    ours, theirs = (float((similarity - c.float() @ c.float().T / c.shape[1]).square().sum()) for c in (codebook, start))
    return ours / theirs


def measure(classes: int, bits: int, method: str) -> dict[str, object] | None:
    if method == "hadamard" and (bits & (bits - 1) or classes > 2 * bits):
        return None
    similarity = superclasses(classes) if method == "semantic" else None
    started, started_cpu = time.perf_counter(), time.process_time()
    codebook = codebooks.make_codebook(classes, bits, method=method, similarity=similarity)
    seconds, seconds_cpu = time.perf_counter() - started, time.process_time() - started_cpu
    return {
        "classes": classes,
        "bits": bits,
        "method": method,
        "min_distance": codebooks.codebook_min_distance(codebook),
        "published_distance": published_distance(classes, bits),
        "upper_bound": largest_possible_distance(classes, bits),
        "similarity_error": "" if similarity is None else round(relative_error(codebook, similarity), 3),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(seconds_cpu, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="run max_hamming with 10,000 and 40,000 classes only")
    large = parser.parse_args().large
    codebooks.make_codebook(100, 16, method="minimum_distance")  # compiles
    for classes, bits in LARGE if large else SIZES:
        for method in ("max_hamming",) if large else METHODS:
            row = measure(classes, bits, method)
            if row is not None:
                print(*row.values(), flush=True)
                append_csv(RESULTS / "codebooks.csv", [row | environment()])


if __name__ == "__main__":
    main()
