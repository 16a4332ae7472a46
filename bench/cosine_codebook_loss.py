"""Compare time and memory of the cosine codebook loss, forward and backward, with PyTorch code that is written by hand.

    python -m bench.cosine_codebook_loss            # the grid; appends to bench/results/cosine_codebook_loss.csv
    python -m bench.cosine_codebook_loss --quick    # the smallest problem, nothing written

Runs on the GPU if there is one. The peers take turns in the same run. All of them get the codebook in float32:

    lean                    four lines without options: normalise, multiply, subtract the margin with scatter_add, cross entropy
    lean, TF32              the same with TF32 products on a GPU, whose factors have 10 bits
    naive                   the reference of the tests, with every option
    naive, compiled         the same through torch.compile
    linear_cross_entropy    torch.nn.functional.linear_cross_entropy if torch has it; it has no margin

A peer that would need more than PEER_MEMORY (on a GPU: half of its memory), or that cannot be compiled on this machine, is left
out. Its row contains the reason.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

import orthohash_triton as oht
from bench._harness import environment, percentiles, timings
from bench._losses import labelled_codes as problem
from bench._micro import Microbenchmark, Unavailable, at_most, same_gradients
from bench._steps import Clock, Step, extra_memory, gradient_step, main, memory_for_peers, why_not
from orthohash_triton import reference

# (N, C, K): image data sets, the memory-bound middle, instance retrieval (the classes of GLDv2-clean) with usual and with many
# bits, a million classes.
GRID = [
    (64, 10, 16),
    (256, 100, 64),
    (256, 1000, 64),
    (256, 10_000, 128),
    (256, 81_313, 512),
    (256, 81_313, 2048),
    (256, 1_000_000, 128),
    (1024, 1_000_000, 128),
]
PEER_MEMORY = 4e9  # limit in bytes
COPIES = 4  # approximate number of copies of the logits that peers hold at their peak
MULTIPLICATIONS = 2 * 10**9  # approximate number of (row, code) products in all repeats of a peer
MARGIN = 0.2


def lean(v: torch.Tensor, target: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Compute the loss with the default scale sqrt(K), for which the factor of the matrix product is 1."""
    logits = F.normalize(v) @ codebook.T
    margin = torch.full((len(v), 1), -MARGIN * math.sqrt(v.shape[1]), device=v.device)
    return F.cross_entropy(logits.scatter_add(1, target[:, None], margin), target)


def step_of(peer: str, rows: int, classes: int, bits: int, device: str) -> Step:
    """Return one training step of a peer, which returns the gradient of v."""
    v, target, codebook = problem(rows, classes, bits, device)
    v.requires_grad_()
    floats = codebook.float() if peer != "orthohash_triton" else codebook

    def linear_cross_entropy() -> torch.Tensor:
        return F.linear_cross_entropy(math.sqrt(bits) * F.normalize(v), floats / math.sqrt(bits), target)

    losses = {
        "orthohash_triton": lambda: oht.cosine_codebook_loss(v, target, codebook),
        "lean": lambda: lean(v, target, floats),
        "lean, TF32": lambda: lean(v, target, floats),
        "naive": lambda: reference.cosine_codebook_loss(v, target, floats),
        "naive, compiled": torch.compile(lambda: reference.cosine_codebook_loss(v, target, floats)),
        "linear_cross_entropy": linear_cross_entropy,
    }
    return with_tf32(gradient_step(losses[peer], v)) if peer == "lean, TF32" else gradient_step(losses[peer], v)


def with_tf32(step: Step) -> Step:
    def inside() -> torch.Tensor:
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return step()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    return inside


def needed_memory(rows: int, classes: int, bits: int) -> int:
    """Return about how many bytes a peer needs for its logits and its float32 codebook."""
    return 4 * (COPIES * rows * classes + classes * bits)


def peers(rows: int, classes: int, bits: int, device: str) -> tuple[dict[str, Step], dict[str, str]]:
    """Return the peers that run here, and why the others do not."""
    steps, left_out = {"orthohash_triton": step_of("orthohash_triton", rows, classes, bits, device)}, {}
    needed = needed_memory(rows, classes, bits)
    for peer in ("lean", *(["lean, TF32"] if device != "cpu" else []), "naive", "naive, compiled", "linear_cross_entropy"):
        if needed > memory_for_peers(device, PEER_MEMORY):
            left_out[peer] = f"left out: needs about {needed / 1e9:.1f} GB"
        elif peer == "linear_cross_entropy" and not hasattr(F, "linear_cross_entropy"):
            left_out[peer] = f"left out: torch {torch.__version__} does not have it"
        else:
            step = step_of(peer, rows, classes, bits, device)
            cause = why_not(step) if peer == "naive, compiled" else None
            steps, left_out = (steps | {peer: step}, left_out) if cause is None else (steps, left_out | {peer: cause})
    return steps, left_out


def measure(rows: int, classes: int, bits: int, device: str, repeats: int | None, clock: Clock) -> list[dict[str, Any]]:
    steps, left_out = peers(rows, classes, bits, device)
    repeats = repeats or max(5 if device == "cpu" else 20, min(200, MULTIPLICATIONS // (rows * classes * bits)))
    if "naive" in steps:
        for peer in set(steps) & {"orthohash_triton", "lean"}:
            torch.testing.assert_close(steps[peer](), steps["naive"](), rtol=1e-4, atol=1e-7)
    times = {peer: percentiles(seconds) for peer, seconds in timings(steps, repeats, clock=clock).items()}
    found = []
    for peer in (*steps, *left_out):
        row: dict[str, Any] = {"peer": peer, "rows": rows, "classes": classes, "bits": bits, "device": device, "repeats": repeats}
        row |= dict.fromkeys(("ms_20", "ms_50", "ms_80", "extra_mb", "time_over_ours"), "") | {"note": left_out.get(peer, "")}
        if peer in steps:
            row |= times[peer]
            row["extra_mb"] = round(extra_memory(step_of, steps[peer], peer, rows, classes, bits, device) / 1e6, 1)
            row["time_over_ours"] = round(times[peer]["ms_50"] / times["orthohash_triton"]["ms_50"], 2)
            shown = f"{row['ms_50']:10.2f} ms  {row['extra_mb']:8.1f} MB  {row['time_over_ours']:5.2f} x"
        print(f"({rows}, {classes}, {bits})  {peer:22} {shown if peer in steps else row['note']}", flush=True)
        found.append(row | environment())
    return found


def make(peer: str, rows: int, classes: int, bits: int, device: str) -> Step:
    """Return the step of a peer for the microbenchmarks, which leave torch.compile to the long comparison."""
    if peer != "orthohash_triton":
        at_most(peer, needed_memory(rows, classes, bits), memory_for_peers(device, PEER_MEMORY))
    if peer == "linear_cross_entropy" and not hasattr(F, "linear_cross_entropy"):
        raise Unavailable(f"torch {torch.__version__} has no linear_cross_entropy")
    return step_of(peer, rows, classes, bits, device)


def agree(peer: str, theirs: torch.Tensor, ours: torch.Tensor) -> None:
    if peer != "linear_cross_entropy":  # it has no margin
        same_gradients(peer, theirs, ours)


MICROBENCHMARKS = [
    Microbenchmark(
        op="cosine_codebook_loss",
        axes=("rows", "classes", "bits"),
        shapes=GRID[:4],
        smallest=(9, 5, 16),
        peers=("orthohash_triton", "naive", "lean", "linear_cross_entropy"),
        make=make,
        agree=agree,
    )
]

if __name__ == "__main__":
    main(__doc__, "cosine_codebook_loss.csv", GRID, ("N", "C", "K"), measure)
