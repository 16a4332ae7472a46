"""The measurements of `python -m bench.sublinear`: an index, the scan and other searches, timed once their answers are equal."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import _search_peers as peers_of
from bench import galleries
from bench._harness import percentiles, timings
from orthohash_triton import HammingIndex, hamming_range, hamming_topk

OURS = "orthohash_triton"
SCAN = "scan"
Row = dict[str, Any]


class Case(NamedTuple):
    """One comparison. `wanted` is how many times as fast as the scan the index should be."""

    row: str
    codes: str
    gallery: int
    bits: int
    queries: int
    k: int | str = ""
    radius: int | str = ""
    wanted: float | str = ""


class Data(NamedTuple):
    """A gallery, queries for it, and centres for its codes."""

    gallery: np.ndarray
    queries: np.ndarray
    centres: np.ndarray | None = None


def made(kind: str, gallery: int, bits: int, queries: int, *, with_centres: bool = True, **options: Any) -> Data:
    """Return a gallery of a kind of bench/galleries.py with the centres that fit it, and queries."""
    centres = None
    if kind == "trained" and with_centres:
        classes = options.get("classes", galleries.CLASSES)
        centres = galleries.words_of_classes(classes, bits).view(np.uint8).reshape(classes, -1)
    if kind == "equidistant":
        centres = galleries.equidistant_centres(bits)
    return Data(
        galleries.make(kind, gallery, bits, **options), galleries.queries(kind, queries, bits, total=gallery, **options), centres
    )


def filed(data: Data, radius: int | None = None) -> tuple[HammingIndex, float]:
    """Return an index whose structures are built, with tables for `radius` if it is given, and the CPU seconds of building."""
    index = HammingIndex(8 * data.gallery.shape[1])
    index.add(data.gallery)
    started = time.process_time()
    index.build(data.centres, radius)
    return index, round(time.process_time() - started, 3)


def stored_bytes(index: HammingIndex) -> float:
    """Return the bytes per code of the files of an index: its codes and, beside them, what was built for them."""
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "gallery.ibxf")
        return round(sum(path.stat().st_size for path in Path(folder).iterdir()) / index.ntotal, 1)


def clock_of(threads: int) -> Callable[[], float]:
    """Return the clock of a measurement: CPU time for one thread, which other programs disturb less, and otherwise wall time."""
    return time.process_time if threads == 1 else time.perf_counter


def nearest_rows(
    case: Case, data: Data, *, repeats: int, threads: int = 1, peers: tuple[str, ...] = (), index: HammingIndex | None = None
) -> list[Row]:
    """Return a row for the index, the scan and each peer: the k nearest codes of all queries."""
    build_s: float | str = ""
    if index is None:
        index, build_s = filed(data)
    k, queries = int(case.k), data.queries
    right = hamming_topk(queries, data.gallery, k)
    searches = {OURS: lambda: index.search(queries, k), SCAN: lambda: hamming_topk(queries, data.gallery, k)}
    if not peers_of.same(searches[OURS](), right):
        raise SystemExit(f"{case}: the index and the scan give different answers; no times are reported")
    facts: dict[str, Row] = {
        OURS: {"recall": 1.0, "build_s": build_s, "bytes_per_code": stored_bytes(index), "note": explained(index, queries, k=k)},
        SCAN: {"recall": 1.0, "bytes_per_code": data.gallery.shape[1]},
    }
    notes: dict[str, str] = {}
    for peer in peers:
        try:
            built = peers_of.nearest(peer, data.gallery, queries, k)
        except peers_of.NotHere as reason:
            notes[peer] = str(reason)
            continue
        answer = built.search()
        if peer in peers_of.EXACT and not peers_of.same(answer[: 1 + (peer in peers_of.ORDERED)], right):
            raise SystemExit(f"{case}: {peer} and the scan give different answers; no times are reported")
        found = peers_of.recall(answer[0], right[0])
        facts[peer] = {"recall": round(found, 4), "build_s": built.build_s, "bytes_per_code": built.bytes_per_code}
        searches[peer] = built.search
    return _rows(case, timings(searches, repeats, clock=clock_of(threads)), facts, notes)


def range_rows(
    case: Case, data: Data, *, repeats: int, threads: int = 1, peers: tuple[str, ...] = (), index: HammingIndex | None = None
) -> list[Row]:
    """Return a row for the index, the scan and each peer: all codes within a radius, inclusive."""
    build_s: float | str = ""
    if index is None:
        index, build_s = filed(data, int(case.radius))
    limit, queries = int(case.radius) + 1, data.queries
    searches: dict[str, Callable[[], Any]] = {
        OURS: lambda: index.range_search(queries, limit),
        SCAN: lambda: hamming_range(queries, data.gallery, limit),
    }
    right = searches[SCAN]()
    if not peers_of.same(searches[OURS](), right):
        raise SystemExit(f"{case}: the index and the scan give different answers; no times are reported")
    note = f"{len(right[1]) / len(queries):,.1f} found by a query; {explained(index, queries, radius=limit)}"
    facts: dict[str, Row] = {
        OURS: {"recall": 1.0, "build_s": build_s, "bytes_per_code": stored_bytes(index), "note": note},
        SCAN: {"recall": 1.0, "bytes_per_code": data.gallery.shape[1]},
    }
    for peer in peers:
        built = peers_of.within(peer, data.gallery, queries, limit)
        if not peers_of.same(peers_of.in_order(built.search()), right):
            raise SystemExit(f"{case}: {peer} and the scan give different answers; no times are reported")
        facts[peer] = {"recall": 1.0, "build_s": built.build_s, "bytes_per_code": built.bytes_per_code}
        searches[peer] = built.search
    return _rows(case, timings(searches, repeats, clock=clock_of(threads)), facts, {})


def explained(index: HammingIndex, queries: np.ndarray, **question: Any) -> str:
    """Return the plan of a search, and what it met, in a few words."""
    plan = index.explain(queries, **question)
    if plan.plan == "scan":
        return "scan"
    met = (plan.entries_met + plan.candidates) / max(len(queries) - plan.given_up, 1)
    return f"{plan.plan}, {met:,.1f} met by a query, {plan.given_up} gave up"


def _rows(case: Case, seconds: dict[str, list[float]], facts: dict[str, Row], notes: dict[str, str]) -> list[Row]:
    rows = rows_of(case, seconds, baseline=SCAN, facts=facts)
    return rows + [
        dict.fromkeys(rows[0], "") | case._asdict() | {"peer": peer, "wanted": "", "note": notes[peer]} for peer in notes
    ]


def rows_of(case: Case, seconds: dict[str, list[float]], *, baseline: str, facts: dict[str, Row]) -> list[Row]:
    """Return a row for each peer from its times; `times_scan` is relative to the median of `baseline`."""
    times = {peer: percentiles(values) for peer, values in seconds.items()}
    return [
        {**case._asdict(), "peer": peer, "repeats": len(seconds[peer]), **milliseconds}
        | {"times_scan": round(times[baseline]["ms_50"] / milliseconds["ms_50"], 3)}
        | {"recall": 1.0, "build_s": "", "bytes_per_code": "", "note": ""}
        | {"wanted": case.wanted if peer == OURS else ""}
        | facts.get(peer, {})
        for peer, milliseconds in times.items()
    ]


def mixed_changes(kind: str, count: int, steps: int, **options: Any) -> Iterator[tuple[float, float, str]]:
    """Yield the CPU seconds of each search of an index that changes, of the scan of its codes at that time, and what was done.

    Half of the changes add up to 2,000 codes, half remove up to 500 anywhere; one to 100 queries follow each of them.
    """
    generator = np.random.default_rng(0)
    index = HammingIndex(64)
    index.add(galleries.make(kind, count, 64, **options))
    reserve = galleries.queries(kind, 2_000 * steps, 64, total=count, **options)
    for step in range(steps):
        if generator.random() < 0.5:
            first = 2_000 * step
            index.add(reserve[first : first + generator.integers(1, 2_001)])
            change = "add"
        else:
            index.remove_ids(generator.choice(index.ntotal, generator.integers(1, 501), replace=False))
            change = "remove"
        queries = reserve[generator.integers(0, len(reserve), generator.choice([1, 10, 100]))]
        k = int(generator.choice([1, 10, 100]))
        codes = index.codes.numpy()
        right, scan = _timed(hamming_topk, queries, codes, k)
        answer, seconds = _timed(index.search, queries, k)
        if not peers_of.same(answer, right):
            raise SystemExit(f"mixed changes, step {step}: the index and the scan give different answers")
        yield seconds, scan, f"step {step}, {change}, {len(queries)} queries, k = {k}"


def _timed(call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    started = time.process_time()
    answer = call(*arguments)
    return answer, time.process_time() - started
