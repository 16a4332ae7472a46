"""Fit the gallery `trained` of bench/galleries.py to the codes of real runs, and write bench/trained_spread.json.

    orthohash demo --out runs/demo
    orthohash train --dataset wordnet-nouns --bits 64 --epochs 3 --out runs/wordnet64
    python -m bench.fit_galleries "fashion-mnist, 64 bits=runs/demo/64-bits" "wordnet-nouns, 64 bits=runs/wordnet64"

The share of codes at each distance from the nearest word is taken from the run. The other parameters are those of a grid whose
generated gallery, of as many codes around the same words, comes nearest to the run in its number of distinct codes, its number
of codes that occur once, and the share of the gallery that the hundred most frequent codes have. The file also has these figures,
and the k-th distances of the run's queries and of generated ones, which were not fitted.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from bench import galleries
from bench.galleries import SPREADS, Spread
from orthohash_triton import HammingIndex, hamming_distance, hamming_topk, pack_codes

DIRECTIONS = (8, 16, 32, 64, 96)
ZIPF = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0)
STRAY = (0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.08, 0.12, 0.2, 0.4, 1.0)
QUERIES = 1000


def counts(codes: np.ndarray) -> dict[str, float]:
    """Return the number of distinct codes, of codes that occur once, and the share of the 100 most frequent ones."""
    occurrences = np.sort(np.unique(codes.view(np.uint64), return_counts=True)[1])[::-1]
    return {
        "distinct": len(occurrences),
        "single": int((occurrences == 1).sum()),
        "share_of_100": round(float(occurrences[:100].sum() / len(codes)), 4),
    }


def kth_distances(queries: np.ndarray, gallery: np.ndarray) -> dict[str, list[float]]:
    """Return the median, 90th and 99th percentile and the mean of the k-th distances, by k."""
    found = {}
    for k in (1, 10, 100, 1000):
        distances = hamming_topk(queries, gallery, k)[0][:, -1]
        found[f"k = {k}"] = [*np.percentile(distances, (50, 90, 99)).tolist(), round(float(distances.mean()), 3)]
    return found


def generated(words: np.ndarray, spread: Spread, count: int, first: int = 0) -> np.ndarray:
    codes = np.empty((count, words.shape[1]), np.uint64)
    galleries._trained(codes, np.uint64(1), first, *galleries.trained_tables(words, spread))
    return codes.view(np.uint8)


def error(found: dict[str, float], wanted: dict[str, float]) -> float:
    """Return the sum of squared logarithms of the ratios; one is added to counts, so that none is zero."""
    pairs = [(found[name] + 1, wanted[name] + 1) for name in ("distinct", "single")]
    pairs.append((found["share_of_100"] + 1e-3, wanted["share_of_100"] + 1e-3))
    return float(sum(np.log(ours / theirs) ** 2 for ours, theirs in pairs))


def fit(run: Path) -> dict[str, Any]:
    """Return the spread of a run, with the figures by which it can be judged."""
    gallery = HammingIndex.load(run / "index.ibxf").codes.numpy()
    queries = load_file(run / "queries.safetensors")["codes"][:QUERIES]
    codebook = load_file(run / "codebook.safetensors")["codebook"]
    packed = np.asarray(pack_codes(codebook.astype(np.float32)))
    words = np.ascontiguousarray(packed).view(np.uint64)
    nearest = np.asarray(hamming_distance(gallery, packed)).min(1)
    radii = tuple((np.bincount(nearest) / len(nearest)).round(6).tolist())
    wanted = counts(gallery)

    def loss(parameters: tuple[int, float, float]) -> float:
        return error(counts(generated(words, Spread(radii, *parameters), len(gallery))), wanted)

    best = Spread(radii, *min(itertools.product(DIRECTIONS, ZIPF, STRAY), key=loss))
    codes, fresh = (generated(words, best, count, first) for count, first in ((len(gallery), 0), (QUERIES, len(gallery))))
    return {
        "spread": best._asdict(),
        "codes": len(gallery),
        "classes": len(words),
        "run": wanted | kth_distances(queries, gallery),
        "generated": counts(codes) | kth_distances(fresh, codes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="a name in the file, and the folder of a run")
    options = parser.parse_args()
    fitted = {}
    for text in options.runs:
        name, _, run = text.rpartition("=")
        fitted[name] = fit(Path(run))
        print(name, json.dumps(fitted[name], indent=1), flush=True)
    SPREADS.write_text(json.dumps(fitted, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
