"""Compare the metrics of trained codes, many of which are equal, with ranking every query and counting every code by itself.

    python -m bench.metrics_of_runs runs/demo/16-bits runs/demo/64-bits    # runs of `orthohash demo`
    python -m bench.metrics_of_runs --queries 2000                         # uniform codes, for which nothing may be lost

Labels are the class ids of the run, and sets of two classes (the class and one that follows from it). Times are CPU time of one
thread; both ways take turns in one process. Their average precisions must be equal bit for bit before a time is printed.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch

from bench._harness import RESULTS, append_csv, environment, timings
from orthohash_triton import metrics
from orthohash_triton.runs import load_run

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # codes and labels of queries and gallery
KS = (1, 5, 10, 50, 100, 500, 1000, None)

MEASURED: dict[str, Callable[[Case], Any]] = {
    "mAP": lambda case: metrics.average_precision(*case),
    "mAP@1000": lambda case: metrics.average_precision(*case, k=1000),
    "expected mAP": lambda case: metrics.average_precision(*case, ties="expected"),
    "expected mAP@1000": lambda case: metrics.average_precision(*case, ties="expected", k=1000),
    "evaluate": lambda case: [*metrics.evaluate(*case, k=KS).mean_average_precision.values()],
    "evaluate, expected": lambda case: [*metrics.evaluate(*case, k=KS, ties="expected").mean_average_precision.values()],
    "ndcg@100": lambda case: metrics.ndcg(*case, k=100),
}


@contextlib.contextmanager
def each_by_itself() -> Iterator[None]:
    """Rank equal queries separately, and count equal codes separately."""
    with (
        mock.patch("orthohash_triton.metrics._ranking.equal_queries", return_value=None),
        mock.patch("orthohash_triton.kernels.cpu.average_precision.crowd_of", return_value=None),
    ):
        yield


def plainly(function: Callable[[Case], Any], case: Case) -> Any:
    with each_by_itself():
        return function(case)


def several_classes(labels: np.ndarray) -> np.ndarray:
    """Return sets of two classes, bool [N, C]."""
    classes = np.eye(10, dtype=bool)
    return classes[labels] | classes[(7 * labels + 3) % 10]


def uniform(queries: int) -> Case:
    """Return uniform codes of 64 bits and random labels."""
    generator = np.random.default_rng(0)
    queries_, gallery = (generator.integers(0, 256, (count, 8), dtype=np.uint8) for count in (queries, 60_000))
    return queries_, gallery, generator.integers(0, 10, queries), generator.integers(0, 10, 60_000)


def of_run(path: str, queries: int) -> tuple[str, Case]:
    """Return the name of a run, and its codes and labels."""
    run = load_run(path)
    found = run.queries()
    if found is None:
        raise SystemExit(f"{path} has no queries: evaluate it first with `orthohash evaluate {path}`")
    arrays = found.codes[:queries].numpy(), run.index.codes.numpy(), found.labels[:queries].numpy(), run.gallery_labels.numpy()
    return f"{run.config.dataset}, {run.config.bits} bits", arrays


def rows_of(name: str, labels: str, case: Case, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of one case, after a check that both ways give the same values."""
    for metric, function in MEASURED.items():
        if not np.array_equal(function(case), plainly(function, case)):
            raise SystemExit(f"{name}: {metric} differs from that of single queries and codes: no times are reported")
        calls = {"now": lambda f=function: f(case), "plain": lambda f=function: plainly(f, case)}
        seconds = {way: values[0] for way, values in timings(calls, repeats, clock=time.process_time).items()}
        row = {"codes": name, "labels": labels, "queries": len(case[0]), "gallery": len(case[1]), "metric": metric}
        row |= {"ms": round(1e3 * seconds["now"], 2), "ms_each_by_itself": round(1e3 * seconds["plain"], 2)}
        row["times_faster"] = round(seconds["plain"] / seconds["now"], 2)
        print(f"{name:<24} {labels:<9} {metric:<20} {row['ms']:>9.1f} ms, {row['times_faster']:>6.2f} times faster", flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help="run folders with codes of queries and at most ten classes")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [of_run(path, options.queries) for path in options.runs] or [("uniform, 64 bits", uniform(options.queries))]
    for name, case in cases:
        sets = case[0], case[1], several_classes(case[2]), several_classes(case[3])
        for labels, labelled in (("class ids", case), ("multi-hot", sets)):
            rows = list(rows_of(name, labels, labelled, options.repeats))
            if not options.no_csv:
                append_csv(RESULTS / "metrics_of_runs.csv", [row | environment() for row in rows])


if __name__ == "__main__":
    main()
