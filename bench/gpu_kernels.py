"""Measure a call of every op on a GPU: the time of each kernel, the host's time to issue the call, and the total time.

    python -m bench.gpu_kernels                    # all; appends to bench/results/gpu_kernels.csv
    python -m bench.gpu_kernels --only loss topk   # some
    python -m bench.gpu_kernels --quick            # the first case of each, nothing written

The benchmark has no peers; it shows where the time of a call goes. `pipelined_us` is the time per call when many calls are issued
without waiting, `latency_us` the time of a call with a wait for its result, and `issue_us` the host's time to issue a call. If
`issue_us` equals `pipelined_us`, Python is the bottleneck and a CUDA graph would be faster. `useful` is the rate of the work in
the op's formula, whatever the kernels do: the float operations of the matrix products (4 N C K for a loss with its gradient),
distances, or, for one query, bytes of the gallery.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

import orthohash_triton as oht
from bench import cosine_codebook_loss as loss_bench
from bench import pairwise_likelihood_loss as pairwise_bench
from bench._harness import RESULTS, append_csv, environment
from orthohash_triton.metrics import average_precision
from orthohash_triton.ops.hamming_distance import hamming_distance
from orthohash_triton.ops.hamming_histogram import hamming_histogram
from orthohash_triton.ops.hamming_range import hamming_range
from orthohash_triton.ops.householder import householder_apply
from orthohash_triton.ops.pairwise_likelihood_loss import pairwise_likelihood_loss

SECONDS = 0.3  # approximate duration of the pipelined calls


class Case(NamedTuple):
    """A call to measure, and its work."""

    name: str
    call: Callable[[], Any]
    work: float  # units of work in a call
    unit: str


def codes(count: int, bits: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(count)
    return torch.randint(0, 256, (count, bits // 8), dtype=torch.uint8, device="cuda", generator=generator)


def loss() -> Iterator[Case]:
    shapes = [*loss_bench.GRID, (1024, 100_000, 256)]
    for (rows, classes, bits), precision in [*((shape, "highest") for shape in shapes), (shapes[-2], "high")]:
        v, target, codebook = loss_bench.problem(rows, classes, bits, "cuda")
        v.requires_grad_()

        def step(v=v, target=target, codebook=codebook, precision=precision) -> Any:
            return torch.autograd.grad(oht.cosine_codebook_loss(v, target, codebook, precision=precision), v)

        yield Case(f"cosine_codebook_loss {rows} x {classes} x {bits}, {precision}", step, 4 * rows * classes * bits, "flop")


def norm() -> Iterator[Case]:
    for rows, classes, bits in [(256, 100, 64), (256, 10_000, 128)]:
        latent, target, codebook = loss_bench.problem(rows, classes, bits, "cuda")
        mean, variance, weight, bias = torch.tensor([0.0, 1.0, 1.0, 0.0], device="cuda")[:, None].repeat(1, bits).unbind()
        leaves = latent.requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()

        def step(leaves=leaves, target=target, codebook=codebook, mean=mean, variance=variance) -> Any:
            latent, weight, bias = leaves
            return torch.autograd.grad(oht.orthohash_loss(latent, target, codebook, mean, variance, weight, bias), leaves)

        yield Case(f"orthohash_loss {rows} x {classes} x {bits}", step, 4 * rows * classes * bits, "flop")


def pairwise() -> Iterator[Case]:
    for rows, columns, bits, classes in [(36, 36, 64, 0), (128, 10_000, 64, 0), (1024, 100_000, 64, 0), (1024, 100_000, 64, 80)]:
        z, *rest = pairwise_bench.problem(rows, columns, bits, classes, "cuda")
        z.requires_grad_()

        def step(z=z, rest=rest) -> Any:
            return torch.autograd.grad(pairwise_likelihood_loss(z, *rest, alpha=0.2), z)

        yield Case(
            f"pairwise_likelihood_loss {rows} x {columns} x {bits}, {classes} labels", step, 4 * rows * columns * bits, "flop"
        )


def householder() -> Iterator[Case]:
    for rows, count, bits in [(128, 64, 64), (100_000, 128, 128)]:
        x, upstream = torch.randn(2, rows, bits, device="cuda").unbind()
        leaves = x.clone().requires_grad_(), torch.randn(count, bits, device="cuda", requires_grad=True)

        def step(leaves=leaves, upstream=upstream) -> Any:
            return torch.autograd.grad(householder_apply(*leaves), leaves, upstream)

        yield Case(f"householder_apply {rows} x {count} x {bits}", step, 8 * rows * count * bits, "flop")


def topk() -> Iterator[Case]:
    for queries, gallery, bits, k in [
        (256, 10**6, 64, 100), (1, 10**7, 64, 100), (1, 10**8, 64, 100), (16, 10**7, 64, 100), (256, 10**7, 64, 100),
        (1000, 10**7, 64, 100), (1000, 10**7, 128, 100), (1000, 10**7, 256, 100), (1000, 10**6, 64, 1000),
        (256, 10**6, 64, 10_000),
    ]:  # fmt: skip
        asked, searched = codes(queries, bits), codes(gallery, bits)

        def search(asked=asked, searched=searched, k=k) -> Any:
            return oht.hamming_topk(asked, searched, k)

        unit, work = ("byte", gallery * bits / 8) if queries == 1 else ("distance", queries * gallery)
        yield Case(f"hamming_topk {queries} x {gallery} x {bits}, k = {k}", search, work, unit)


def counts() -> Iterator[Case]:
    for bits in (64, 256):
        asked, searched = codes(1000, bits), codes(10**6, bits)
        yield Case(
            f"hamming_histogram 1000 x 1000000 x {bits}", lambda a=asked, s=searched: hamming_histogram(a, s), 1e9, "distance"
        )
    asked, searched = codes(256, 64), codes(10**6, 64)
    yield Case("hamming_range 256 x 1000000 x 64, radius 16", lambda: hamming_range(asked, searched, 16), 256e6, "distance")
    yield Case("hamming_distance 256 x 1000000 x 64", lambda: hamming_distance(asked, searched), 256e6, "distance")
    latent = torch.randn(10**6, 64, device="cuda")
    yield Case("pack_codes 1000000 x 64", lambda: oht.pack_codes(latent), latent.nbytes, "byte")
    rankings = codes(10_000, 64), codes(60_000, 64)
    labels = (torch.randint(0, 10, (count,), device="cuda") for count in (10_000, 60_000))
    everything = *rankings, *labels
    yield Case("average_precision 10000 x 60000 x 64", lambda: average_precision(*everything), 6e8, "distance")


FAMILIES = {"loss": loss, "norm": norm, "pairwise": pairwise, "householder": householder, "topk": topk, "counts": counts}


def measure(case: Case) -> list[dict[str, Any]]:
    """Return one row for the call and one row for each kernel in it."""
    case.call()
    once = waited_for(case.call)
    calls = max(3, min(300, int(SECONDS / once)))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started = time.perf_counter()
    begin.record()
    for _ in range(calls):
        case.call()
    issued = (time.perf_counter() - started) / calls
    end.record()
    torch.cuda.synchronize()
    pipelined = begin.elapsed_time(end) / 1e3 / calls
    latency = sorted(waited_for(case.call) for _ in range(min(calls, 31)))
    row: dict[str, Any] = {"case": case.name, "kernel": "", "launches": "", "gpu_us": ""}
    row |= {"pipelined_us": pipelined, "latency_us": latency[len(latency) // 2], "issue_us": issued}
    row = {key: round(1e6 * value, 1) if isinstance(value, float) else value for key, value in row.items()}
    row |= {"useful": f"{case.work / pipelined:.3g}", "unit": f"{case.unit}/s"}
    kernels = [dict.fromkeys(row, "") | {"case": case.name} | found for found in kernel_times(case.call)]
    row["gpu_us"] = round(sum(kernel["gpu_us"] for kernel in kernels), 1)
    return [row, *kernels]


def waited_for(call: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def kernel_times(call: Callable[[], Any], calls: int = 3) -> list[dict[str, Any]]:
    """Return the name, the launches and the GPU time per call of each kernel, slowest first."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    found = [event for event in profiled.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    found.sort(key=lambda event: -event.self_device_time_total)
    return [
        {
            "kernel": event.key[:60],
            "launches": round(event.count / calls, 1),
            "gpu_us": round(event.self_device_time_total / calls, 1),
        }
        for event in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first case of each, nothing written")
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="FAMILY")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench.gpu_kernels needs a GPU; python -m bench.gpu_report models one from compiled code")
        return
    machine = {
        key: value for key, value in environment().items() if key in ("date", "gpu", "torch", "triton", "orthohash-triton")
    }
    for family in options.only:
        for case in FAMILIES[family]():
            rows = measure(case)
            print(f"{case.name:<62} pipelined {rows[0]['pipelined_us']:>10} us  latency {rows[0]['latency_us']:>10} us  "
                  f"issue {rows[0]['issue_us']:>8} us  {rows[0]['useful']:>8} {rows[0]['unit']}", flush=True)  # fmt: skip
            for row in rows[1:4]:
                print(f"      {row['gpu_us']:>10} us  x {row['launches']:<4} {row['kernel']}", flush=True)
            if options.quick:
                break
            append_csv(RESULTS / "gpu_kernels.csv", [row | machine for row in rows if row["kernel"] == "" or row["gpu_us"] >= 1])


if __name__ == "__main__":
    main()
