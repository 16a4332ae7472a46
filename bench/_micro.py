"""The microbenchmarks: what a module of bench/ declares about its op, and the command that compares the peers of one op.

A module `bench/<op>.py` holds the shapes and the peers of an op once, as `MICROBENCHMARKS`. Two programs read them:

- `pytest bench/ --benchmark-only` (bench/test_ops.py) times every peer with pytest-benchmark, one group for each op and shape;
- `python -m bench.<op>` times peers in turns, which cancels the drift of a machine, and appends the result to a CSV file.
"""

import argparse
import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench._harness import append_csv, environment, percentiles, results_file, timings

OURS = "orthohash_triton"
Call = Callable[[], Any]


class Unavailable(Exception):
    """A peer cannot run on this machine, or would need too much memory for this shape; the message says why."""


@dataclass(frozen=True)
class Microbenchmark:
    """One op, the shapes at which it is timed, and the peers that compute the same answer."""

    op: str
    axes: tuple[str, ...]  # the names of the numbers of a shape
    shapes: Sequence[tuple[int, ...]]
    smallest: tuple[int, ...]  # a shape that takes all peers less than a second, for the tests
    peers: tuple[str, ...]  # the first is OURS
    make: Callable[..., Call]  # make(peer, *shape, device) prepares the inputs and returns the call that is timed
    agree: Callable[[str, Any, Any], None]  # agree(peer, answer, our_answer) raises AssertionError where they differ

    def call(self, peer: str, shape: tuple[int, ...], device: str) -> Call:
        """Return the call of `peer` that is timed; on a GPU it ends when the device has finished.

        Raises:
            Unavailable: the peer cannot run here.
        """
        try:
            run = self.make(peer, *shape, device)
        except ImportError as error:
            raise Unavailable(f"{peer}: {error.name or error} is not installed") from None
        return run if device == "cpu" else lambda: _finished(run())

    def check(self, peer: str, shape: tuple[int, ...], device: str) -> Call:
        """Return the call of `peer`, after its answer was compared with ours.

        Raises:
            Unavailable: the peer cannot run here.
            AssertionError: the answers differ.
        """
        run = self.call(peer, shape, device)
        if peer != OURS:
            self.agree(peer, run(), self.call(OURS, shape, device)())
        return run


def _finished(answer: Any) -> Any:
    torch.cuda.synchronize()
    return answer


def all_microbenchmarks() -> list[Microbenchmark]:
    """Return what the modules of bench/ declare. A module is an op's benchmark if it defines MICROBENCHMARKS."""
    found: list[Microbenchmark] = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        source = Path(__file__).with_name(f"{module.name}.py").read_text(encoding="utf-8")
        if "\nMICROBENCHMARKS = " in source and not module.name.startswith("_"):
            found += importlib.import_module(f"bench.{module.name}").MICROBENCHMARKS
    return found


# Inputs and comparisons that several ops share -------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def random_codes(queries: int, gallery: int, bits: int, device: str) -> tuple[Tensor, Tensor]:
    """Return uniformly random codes of queries and gallery, uint8 [Q, B] and [N, B]."""
    generator = np.random.default_rng(0)
    codes = (generator.integers(0, 256, (count, bits // 8), dtype=np.uint8) for count in (queries, gallery))
    query_codes, gallery_codes = (torch.from_numpy(array).to(device) for array in codes)
    return query_codes, gallery_codes


def signs(codes: Tensor) -> Tensor:
    """Return +-1 [N, K] of packed codes uint8 [N, B]: float16 on a GPU, float32 on a CPU; products of both are exact."""
    bit = 2 ** torch.arange(8, dtype=torch.uint8, device=codes.device)
    dtype = torch.float16 if codes.is_cuda else torch.float32
    return torch.cat([((part[:, :, None] & bit) > 0).flatten(1).to(dtype) * 2 - 1 for part in codes.split(2**22)])


def on_cpu_only(peer: str, device: str) -> None:
    """Raise Unavailable for a peer that has no implementation on a GPU."""
    if device != "cpu":
        raise Unavailable(f"{peer} runs on the CPU only")


def at_most(peer: str, needed: float, limit: float) -> None:
    """Raise Unavailable for a peer that would need more than `limit` bytes."""
    if needed > limit:
        raise Unavailable(f"{peer} would need about {needed / 1e9:.1f} GB")


def same_integers(peer: str, theirs: Any, ours: Any) -> None:
    """Compare arrays or tensors of integers, or tuples of them, element by element."""
    for mine, other in zip(*(answer if isinstance(answer, tuple) else (answer,) for answer in (ours, theirs)), strict=True):
        mine, other = (part.cpu().numpy() if isinstance(part, Tensor) else np.asarray(part) for part in (mine, other))
        assert np.array_equal(mine, other), f"{peer} and {OURS} give different answers"


def same_gradients(peer: str, theirs: Tensor, ours: Tensor) -> None:
    """Compare gradients: float32 sums in different orders agree to 1e-4 of the value and 1e-5 of the largest value."""
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5 * float(ours.abs().max()), msg=lambda m: f"{peer}: {m}")


# Command line of ops without a program of their own --------------------------------------------------------------------------


def main(description: str | None, microbenchmark: Microbenchmark) -> None:
    """Time the peers in turns at each shape, print the medians and append them to `bench/results/<op>.csv`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    axes = microbenchmark.axes
    parser.add_argument("--quick", action="store_true", help="run the first shape only and write nothing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", type=int, nargs=len(axes), action="append", metavar=axes, help="run these shapes instead")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    for shape in options.shape or microbenchmark.shapes[: 1 if options.quick else None]:
        rows = compare(microbenchmark, tuple(shape), options.device, options.repeats)
        if not options.quick:
            append_csv(results_file(f"{microbenchmark.op}.csv", options.device), [row | environment() for row in rows])


def compare(microbenchmark: Microbenchmark, shape: tuple[int, ...], device: str, repeats: int) -> list[dict[str, Any]]:
    """Return one row for each peer: the shape, percentiles of its time in milliseconds, and the ratio of its median to ours."""
    calls: dict[str, Call] = {}
    notes: dict[str, str] = {}
    for peer in microbenchmark.peers:
        try:
            calls[peer] = microbenchmark.check(peer, shape, device)
        except Unavailable as error:
            notes[peer] = str(error)
    times = {peer: percentiles(seconds) for peer, seconds in timings(calls, repeats).items()}
    sizes = dict(zip(microbenchmark.axes, shape, strict=True))
    rows = []
    for peer in microbenchmark.peers:
        row: dict[str, Any] = {"peer": peer, **sizes, "device": device, "repeats": repeats}
        row |= dict.fromkeys(("ms_20", "ms_50", "ms_80", "time_over_ours"), "") | {"note": notes.get(peer, "")}
        if peer in times:
            row |= times[peer] | {"time_over_ours": round(times[peer]["ms_50"] / times[OURS]["ms_50"], 2)}
        shown = f"{row['ms_50']:10.3f} ms  {row['time_over_ours']:6.2f} x" if peer in times else row["note"]
        print(f"{microbenchmark.op} {shape}  {peer:20} {shown}", flush=True)
        rows.append(row)
    return rows
