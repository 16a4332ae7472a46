"""Shared parts of the benchmarks of differentiable ops: the command line, training steps, and the memory of one step."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench._harness import append_csv, peak_extra_memory, results_file

Step = Callable[[], torch.Tensor]
Clock = Callable[[], float]


def gradient_step(loss: Callable[[], torch.Tensor], x: torch.Tensor) -> Step:
    """Return a function that computes `loss` and the gradient of `x`, and waits for the GPU."""

    def step() -> torch.Tensor:
        gradient = torch.autograd.grad(loss(), x)[0]
        if x.is_cuda:
            torch.cuda.synchronize()
        return gradient

    return step


def why_not(step: Step) -> str | None:
    """Return None if `step` runs, otherwise the reason why torch.compile cannot compile it here, such as no C++ compiler."""
    try:
        step()
    except Exception as error:  # the tool chain of torch.compile can raise any exception
        return f"left out: {type(error).__name__}: {str(error).strip().splitlines()[0]:.100}"
    return None


def memory_for_peers(device: str, on_cpu: float) -> float:
    """Return how many bytes a peer may need: half of the memory of a GPU, `on_cpu` on a CPU."""
    return on_cpu if device == "cpu" else torch.cuda.get_device_properties(device).total_memory / 2


def extra_memory(make: Callable[..., Step], step: Step, *arguments: Any) -> int:
    """Return by how many bytes `step` raises the peak memory of the GPU, or of a process on a CPU.

    `step` is `make(*arguments)`. The last of `arguments` is the device.
    """
    if arguments[-1] == "cpu":
        return peak_extra_memory(make, *arguments)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def main(
    description: str | None,
    file_name: str,
    grid: Sequence[tuple[int, ...]],
    axes: tuple[str, ...],
    measure: Callable[..., list[dict[str, Any]]],
    peers: Sequence[str] | None = None,
) -> None:
    """Run the command line of a benchmark: measure each shape of the grid and append the rows to the file of results.

    `measure` is called as `measure(*shape, device, repeats, clock)`, and with the chosen `peers` as a last argument if given.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run the smallest problem only and write nothing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", type=int, nargs=len(axes), action="append", metavar=axes, help="run these shapes instead")
    parser.add_argument("--repeats", type=int, help="steps of each peer; by default, larger problems run fewer")
    parser.add_argument("--cpu-time", action="store_true", help="use one thread and measure CPU time: for a busy machine")
    if peers:
        parser.add_argument("--peer", choices=peers, action="append", help="run these peers only")
    options = parser.parse_args()
    if options.cpu_time:
        torch.set_num_threads(1)
    clock = time.process_time if options.cpu_time else time.perf_counter
    wanted = [options.peer or list(peers)] if peers else []
    for shape in options.shape or (grid[:1] if options.quick else grid):
        rows = measure(*shape, options.device, 5 if options.quick else options.repeats, clock, *wanted)
        if not options.quick:
            append_csv(results_file(file_name, options.device), rows)
