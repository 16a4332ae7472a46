"""Compare time and memory of the pairwise likelihood of a batch and a bank with PyTorch code that is written by hand.

    python -m bench.pairwise_likelihood_loss            # the grid; appends to bench/results/pairwise_likelihood_loss.csv
    python -m bench.pairwise_likelihood_loss --quick    # the smallest problem, nothing written

Runs on the GPU if there is one. Each step computes the loss and the gradient of z; the bank is fixed. The peers take turns:

    lean              three lines without options: the product, softplus(theta) - s theta, the mean
    naive             the reference of the tests, with every option
    naive, compiled   the same through torch.compile

A peer that would need more than PEER_MEMORY (on a GPU: half of its memory), or that cannot be compiled on this machine, is left
out. Its row contains the reason.
"""

from typing import Any

import torch
import torch.nn.functional as F

from bench._harness import environment, percentiles, timings
from bench._micro import Microbenchmark, at_most, same_gradients
from bench._steps import Clock, Step, extra_memory, gradient_step, main, memory_for_peers, why_not
from orthohash_triton.ops.pairwise_likelihood_loss import pairwise_likelihood_loss
from orthohash_triton.reference.pairwise_likelihood_loss import pairwise_likelihood_loss as reference

# (N, M, K, C): mini-batches of HashNet, a bank of all training codes (10,000 of NUS-WIDE or COCO; 100,000 of ImageNet100), few
# and many bits, one class a row; then many classes a row (C > 0 of them). C = 0: class ids.
GRID = [
    (36, 36, 64, 0),
    (128, 10_000, 64, 0),
    (128, 10_000, 64, 80),
    (1024, 100_000, 16, 0),
    (1024, 100_000, 64, 0),
    (1024, 100_000, 64, 80),
    (1024, 100_000, 256, 0),
]
PEER_MEMORY = 8e9  # limit in bytes
COPIES = 6  # approximate number of copies of the matrix of pairs that peers hold at their peak
MULTIPLICATIONS = 2 * 10**10  # approximate number of (row, column, bit) products in all repeats of a peer
CLASSES = 100  # number of classes for class ids

PEERS = ["lean", "naive", "naive, compiled"]


def problem(rows: int, columns: int, bits: int, classes: int, device: str) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def labels(count: int) -> torch.Tensor:
        if classes:
            return torch.rand(count, classes, generator=generator) < 3 / classes
        return torch.randint(0, CLASSES, (count,), generator=generator)

    z, bank = (torch.randn(count, bits, generator=generator).tanh() for count in (rows, columns))
    return tuple(x.to(device) for x in (z, labels(rows), bank, labels(columns)))


def lean(z: torch.Tensor, target: torch.Tensor, bank: torch.Tensor, bank_target: torch.Tensor, alpha: float) -> torch.Tensor:
    similar = target[:, None] == bank_target if target.ndim == 1 else target.float() @ bank_target.float().T > 0
    theta = alpha * z @ bank.T
    return (F.softplus(theta) - similar * theta).mean()


def step_of(peer: str, rows: int, columns: int, bits: int, classes: int, device: str) -> Step:
    """Return one training step of a peer, which returns the gradient of z."""
    z, *rest = problem(rows, columns, bits, classes, device)
    z.requires_grad_()
    alpha = 10 / bits
    losses = {
        "orthohash_triton": lambda: pairwise_likelihood_loss(z, *rest, alpha=alpha),
        "lean": lambda: lean(z, *rest, alpha),
        "naive": lambda: reference(z, *rest, alpha=alpha),
        "naive, compiled": torch.compile(lambda: reference(z, *rest, alpha=alpha)),
    }
    return gradient_step(losses[peer], z)


def peers(shape: tuple[int, int, int, int], device: str, wanted: list[str]) -> tuple[dict[str, Step], dict[str, str]]:
    """Return the steps of the wanted peers that run here, and the reasons why the others do not."""
    steps, left_out = {"orthohash_triton": step_of("orthohash_triton", *shape, device)}, {}
    needed = 4 * COPIES * shape[0] * shape[1]
    for peer in wanted:
        if needed > memory_for_peers(device, PEER_MEMORY):
            left_out[peer] = f"left out: needs about {needed / 1e9:.1f} GB"
            continue
        step = step_of(peer, *shape, device)
        cause = why_not(step) if peer == "naive, compiled" else None
        steps, left_out = (steps | {peer: step}, left_out) if cause is None else (steps, left_out | {peer: cause})
    return steps, left_out


def measure(
    rows: int, columns: int, bits: int, classes: int, device: str, repeats: int | None, clock: Clock, wanted: list[str]
) -> list[dict[str, Any]]:
    shape = rows, columns, bits, classes
    steps, left_out = peers(shape, device, wanted)
    repeats = repeats or max(3 if device == "cpu" else 20, min(200, MULTIPLICATIONS // (rows * columns * bits)))
    expected = steps["orthohash_triton"]()
    for step in steps.values():
        torch.testing.assert_close(step(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    times = {peer: percentiles(seconds) for peer, seconds in timings(steps, repeats, clock=clock).items()}
    found = []
    for peer in (*steps, *left_out):
        row: dict[str, Any] = {"peer": peer, "rows": rows, "columns": columns, "bits": bits, "classes": classes}
        row |= {"device": device, "repeats": repeats, "clock": clock.__name__}
        row |= dict.fromkeys(("ms_20", "ms_50", "ms_80", "extra_mb", "time_over_ours"), "") | {"note": left_out.get(peer, "")}
        shown = row["note"]
        if peer in steps:
            row |= times[peer]
            row["extra_mb"] = round(extra_memory(step_of, steps[peer], peer, *shape, device) / 1e6, 1)
            row["time_over_ours"] = round(times[peer]["ms_50"] / times["orthohash_triton"]["ms_50"], 2)
            shown = f"{row['ms_50']:10.2f} ms  {row['extra_mb']:8.1f} MB  {row['time_over_ours']:5.2f} x"
        print(f"({rows}, {columns}, {bits}, {classes})  {peer:18} {shown}", flush=True)
        found.append(row | environment())
    return found


def make(peer: str, rows: int, columns: int, bits: int, classes: int, device: str) -> Step:
    """Return the step of a peer for the microbenchmarks, which leave torch.compile to the long comparison."""
    if peer != "orthohash_triton":
        at_most(peer, 4 * COPIES * rows * columns, memory_for_peers(device, PEER_MEMORY))
    return step_of(peer, rows, columns, bits, classes, device)


MICROBENCHMARKS = [
    Microbenchmark(
        op="pairwise_likelihood_loss",
        axes=("rows", "columns", "bits", "classes"),
        shapes=GRID[:3],
        smallest=(9, 11, 16, 0),
        peers=("orthohash_triton", "naive", "lean"),
        make=make,
        agree=same_gradients,
    )
]

if __name__ == "__main__":
    main(__doc__, "pairwise_likelihood_loss.csv", GRID, ("N", "M", "K", "C"), measure, PEERS)
