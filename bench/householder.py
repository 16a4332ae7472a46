"""Compare the time of a product of Householder reflections, forward and backward, with a chain and with torch's product.

    python -m bench.householder            # the grid; appends to bench/results/householder.csv
    python -m bench.householder --quick    # the smallest problem, nothing written

Runs on the GPU if there is one. The peers take turns in the same run:

    chain                   the reference: one reflection after the other, in blocks of rows, because autograd keeps the rows
                            after every reflection
    torch                   torch.linalg.householder_product, one matrix product, and autograd. It takes vectors that begin with
                            zeros and a one, at most K of them, so that it multiplies another matrix with the same work

A step returns the gradients of the rows and of the vectors. The answers of `chain` are compared before a time is printed.
"""

from collections.abc import Callable
from typing import Any

import torch

from bench._harness import environment, percentiles, timings
from bench._micro import Microbenchmark, Unavailable
from bench._steps import Clock, main
from orthohash_triton.ops.householder import householder_apply
from orthohash_triton.reference import householder as reference

# (N, M, K): the batches of H2Q, a whole data set of codes, and few reflections of many dimensions.
GRID = [(128, 16, 16), (128, 64, 64), (128, 128, 128), (10_000, 64, 64), (100_000, 128, 128), (10_000, 8, 512)]
CHAIN_ROWS = 2048  # rows per block of the chain
MULTIPLICATIONS = 10**9  # approximate number of (row, vector) products in all repeats of a peer

Gradients = Callable[[], tuple[torch.Tensor, ...]]


def torch_product(x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return x Q, where Q is the product of the reflections along the columns of `vectors`.T below its diagonal."""
    count, bits = vectors.shape
    below = vectors.T.tril(-1) + torch.eye(bits, count, dtype=x.dtype, device=x.device)
    tau = 2 / below.square().sum(0)
    padding = below.new_zeros(bits, bits - count)  # reflections that do nothing: the product has as many columns as vectors
    product = torch.linalg.householder_product(torch.cat((below, padding), 1), torch.cat((tau, padding[0])))
    return x @ product


def step_of(peer: str, rows: int, count: int, bits: int, device: str) -> Gradients:
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(2, rows, bits, generator=generator).to(device)
    x.requires_grad_()
    vectors = torch.randn(count, bits, generator=generator).to(device).requires_grad_()
    function = {"orthohash_triton": householder_apply, "chain": reference.householder_apply, "torch": torch_product}[peer]
    at_once = CHAIN_ROWS if peer == "chain" else rows

    def step() -> tuple[torch.Tensor, ...]:
        of_x, of_vectors = [], torch.zeros_like(vectors)
        for x_block, g_block in zip(x.split(at_once), g.split(at_once), strict=True):
            gradients = torch.autograd.grad(function(x_block, vectors), (x_block, vectors), g_block)
            of_x.append(gradients[0])
            of_vectors += gradients[1]
        if x.is_cuda:
            torch.cuda.synchronize()
        return *of_x, of_vectors

    return step


def joined(gradients: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of the rows [N, K], whose blocks are joined, and that of the vectors [M, K]."""
    *of_x, of_vectors = gradients
    return torch.cat(of_x), of_vectors


def measure(rows: int, count: int, bits: int, device: str, repeats: int | None, clock: Clock) -> list[dict[str, Any]]:
    steps = {peer: step_of(peer, rows, count, bits, device) for peer in ("orthohash_triton", "chain", "torch")}
    repeats = repeats or max(5, min(100, MULTIPLICATIONS // (rows * count * bits)))
    agree("chain", steps["chain"](), steps["orthohash_triton"]())
    times = {peer: percentiles(seconds) for peer, seconds in timings(steps, repeats, clock=clock).items()}
    found = []
    for peer, milliseconds in times.items():
        ratio = round(milliseconds["ms_50"] / times["orthohash_triton"]["ms_50"], 2)
        print(f"({rows}, {count}, {bits})  {peer:18} {milliseconds['ms_50']:10.2f} ms  {ratio:6.2f} x", flush=True)
        row: dict[str, Any] = {"peer": peer, "rows": rows, "reflections": count, "bits": bits, "device": device}
        found.append(row | {"repeats": repeats, **milliseconds, "time_over_ours": ratio} | environment())
    return found


def make(peer: str, rows: int, count: int, bits: int, device: str) -> Gradients:
    """Return the step of a peer for the microbenchmarks."""
    if peer == "torch" and count > bits:
        raise Unavailable(f"torch.linalg.householder_product takes at most {bits} reflections of {bits} dimensions")
    return step_of(peer, rows, count, bits, device)


def agree(peer: str, theirs: tuple[torch.Tensor, ...], ours: tuple[torch.Tensor, ...]) -> None:
    """Compare the gradients of the chain; those of `torch` belong to another matrix."""
    if peer == "chain":
        for mine, other in zip(joined(ours), joined(theirs), strict=True):
            assert (mine - other).abs().max() < 1e-5 * other.abs().max(), f"{peer} and orthohash_triton differ"


MICROBENCHMARKS = [
    Microbenchmark(
        op="householder",
        axes=("rows", "reflections", "bits"),
        shapes=GRID[:4],
        smallest=(9, 5, 16),
        peers=("orthohash_triton", "chain", "torch"),
        make=make,
        agree=agree,
    )
]

if __name__ == "__main__":
    main(__doc__, "householder.csv", GRID, ("N", "M", "K"), measure)
