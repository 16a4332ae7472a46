"""Compare a gallery that is split over two processes with one index, on a CPU.

    python -m bench.sharded_search                                # 2,000,000 x 64 bits, 256 queries, k = 100
    python -m bench.sharded_search --queries 1 --k 10 --no-csv

Each of two gloo processes with one thread holds half of the codes; `HammingIndex` holds all of them, with one thread and with
two. All answers must be equal before a time is printed. Times are wall times, because two processes have no common CPU clock.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from bench._harness import RESULTS, append_csv, environment, percentiles, timings
from orthohash_triton import HammingIndex, ShardedHammingIndex

RANKS = 2


def peers(one: HammingIndex, index: ShardedHammingIndex, queries: np.ndarray, k: int) -> dict[str, Callable[[], Any]]:
    """Return the searches by name. Every rank calls each of them; rank 0 alone searches the single index."""

    def alone(threads: int) -> Any:
        answer = None
        if dist.get_rank() == 0:
            torch.set_num_threads(threads)
            answer = one.search(queries, k)
            torch.set_num_threads(1)
        dist.barrier()
        return answer

    return {
        f"{RANKS} processes": lambda: index.search(queries, k),
        "one index, 1 thread": lambda: alone(1),
        f"one index, {RANKS} threads": lambda: alone(RANKS),
    }


def run_case(case: dict[str, int], repeats: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    queries, gallery = (
        generator.integers(0, 256, (case[name], case["bits"] // 8), dtype=np.uint8) for name in ("queries", "gallery")
    )
    index, one = ShardedHammingIndex(case["bits"]), HammingIndex(case["bits"])
    index.add_split(gallery)
    if dist.get_rank() == 0:
        one.add(gallery)
    searches = peers(one, index, queries, case["k"])
    answers = [search() for search in searches.values()]
    if dist.get_rank() == 0:
        for answer in answers[1:]:
            if not all(np.array_equal(ours, right) for ours, right in zip(answers[0], answer, strict=True)):
                raise SystemExit("the processes and one index find different neighbours: no times are reported")
    seconds = timings(searches, repeats)
    rows = [{"peer": name, **case, "repeats": repeats, **percentiles(values)} for name, values in seconds.items()]
    for row in rows:
        row["times_one_thread"] = round(rows[1]["ms_50"] / row["ms_50"], 2)
        if dist.get_rank() == 0:
            what = f"{case['gallery']:>9} x {case['bits']:>4} bits, {case['queries']:>5} queries, k = {case['k']:>4}"
            spread = f"[{row['ms_20']:.2f} .. {row['ms_80']:.2f}]"
            print(f"{what}   {row['peer']:<20} {row['ms_50']:>9.2f} ms {spread} {row['times_one_thread']:>6.2f} x", flush=True)
    return rows


def work(rank: int, store: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=rank, world_size=RANKS)
    grid = {"gallery": options.gallery, "bits": options.bits, "queries": options.queries, "k": options.k}
    for values in itertools.product(*grid.values()):
        rows = run_case(dict(zip(grid, values, strict=True)), options.repeats)
        if rank == 0 and not options.no_csv:
            append_csv(RESULTS / "sharded_search.csv", [row | environment() for row in rows])
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=int, nargs="+", default=[2_000_000])
    parser.add_argument("--bits", type=int, nargs="+", default=[64], help="multiples of 8")
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--k", type=int, nargs="+", default=[100])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        mp.spawn(work, (store, options), nprocs=RANKS)


if __name__ == "__main__":
    main()
