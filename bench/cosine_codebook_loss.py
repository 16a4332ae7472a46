"""Time and memory of the cosine codebook loss, forward and backward, against writing it by hand.

    python -m bench.cosine_codebook_loss            # the grid; appends to bench/results/cosine_codebook_loss.csv
    python -m bench.cosine_codebook_loss --quick    # the smallest problem, nothing written

Peers, in the same run and taking turns: the naive version (normalise, matmul, margin by scatter, cross entropy; the reference of
the tests) with a float32 codebook at hand, and `torch.nn.functional.linear_cross_entropy` where torch has it (without a margin:
it cannot have one).
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import orthohash_triton as oht
from bench._harness import RESULTS, append_csv, environment, peak_extra_memory, percentiles, timings
from orthohash_triton import reference

# (N, C, K): the size of image data sets, the memory-bound middle, instance retrieval (the classes of GLDv2-clean), a million.
GRID = [(64, 10, 16), (256, 100, 64), (256, 1000, 64), (256, 10_000, 128), (256, 81_313, 512), (256, 1_000_000, 128)]
NAIVE_LIMIT = 10**8  # logits; beyond, the peers that keep them are left out


def problem(rows: int, classes: int, bits: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randint(0, 2, (classes, bits), generator=generator, dtype=torch.int8).mul_(2).sub_(1)
    target = torch.randint(0, classes, (rows,), generator=generator)
    v = torch.randn(rows, bits, generator=generator) + codebook[target]
    return v.to(device), target.to(device), codebook.to(device)


def steps(rows: int, classes: int, bits: int, device: str) -> dict[str, Callable[[], torch.Tensor]]:
    """One training step of each peer; all return the gradient of v."""
    v, target, codebook = problem(rows, classes, bits, device)
    v.requires_grad_()

    def gradient(loss):
        return torch.autograd.grad(loss, v)[0]

    found = {"orthohash_triton": lambda: gradient(oht.cosine_codebook_loss(v, target, codebook))}
    if rows * classes <= NAIVE_LIMIT:
        floats = codebook.float()
        found["naive"] = lambda: gradient(reference.cosine_codebook_loss(v, target, floats))
        if hasattr(F, "linear_cross_entropy"):
            found["linear_cross_entropy"] = lambda: gradient(
                F.linear_cross_entropy(math.sqrt(bits) * F.normalize(v), floats / math.sqrt(bits), target)
            )
    return found


def step_of(peer: str, *shape: Any) -> Callable[[], torch.Tensor]:
    return steps(*shape)[peer]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest problem only, nothing written")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", type=int, nargs=3, action="append", metavar=("N", "C", "K"), help="instead of the grid")
    options = parser.parse_args()
    rows = []
    for shape in options.shape or (GRID[:1] if options.quick else GRID):
        peers = steps(*shape, options.device)
        repeats = 5 if options.quick else max(5, min(200, 2 * 10**9 // (shape[0] * shape[1] * shape[2])))
        if "naive" in peers:
            torch.testing.assert_close(peers["orthohash_triton"](), peers["naive"](), rtol=1e-4, atol=1e-7)
        times = {peer: percentiles(seconds) for peer, seconds in timings(peers, repeats).items()}
        for peer, milliseconds in times.items():
            memory = peak_extra_memory(step_of, peer, *shape, options.device)
            ratio = milliseconds["ms_50"] / times["orthohash_triton"]["ms_50"]
            row = {"peer": peer, "rows": shape[0], "classes": shape[1], "bits": shape[2], "repeats": repeats, **milliseconds}
            row |= {"extra_mb": round(memory / 1e6, 1), "time_over_ours": round(ratio, 2)}
            rows.append(row | environment())
            print(f"{shape}  {peer:22} {row['ms_50']:10.2f} ms  {row['extra_mb']:8.1f} MB  {ratio:5.2f} x", flush=True)
    if not options.quick:
        append_csv(RESULTS / "cosine_codebook_loss.csv", rows)


if __name__ == "__main__":
    main()
