"""Compare an index that files its codes with the scan, and with other indexes.

    python -m bench.sublinear --quick                      # every table at a tenth of its size or less: two minutes
    python -m bench.sublinear --demo runs/demo/64-bits     # every table: about ten minutes on one quiet core
    python -m bench.sublinear --only even mixed            # some tables
    python -m bench.sublinear --only scale --full          # time against the number of codes up to 10^8, with more peers
    python -m bench.sublinear --plot                       # draws bench/results/sublinear.png from the CSV file

Tables: demo (a run's codes), large (10^8 trained-like codes), join (pairs of near codes), range (planted near-duplicates), even
(galleries without a structure that helps: the index must not be slower than the scan), map (mean average precision), mixed
(changes between searches), peers (approximate indexes and their recall), scale (time against the number of codes).

Answers of exact peers must equal those of the scan bit for bit before a time is printed. Times are CPU time of one thread, and
the peers take turns. `times_scan` says how many times as fast as the scan a peer is, and `wanted` what the index should reach.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from bench import _search_peers, galleries
from bench._harness import RESULTS, append_csv, environment, timings
from bench._micro import Call, Microbenchmark, Unavailable, on_cpu_only, same_integers
from bench._sublinear_rows import OURS, SCAN, Case, Data, Row, filed, made, mixed_changes, nearest_rows, range_rows, rows_of
from orthohash_triton import HammingIndex, hamming_topk
from orthohash_triton.metrics import average_precision

Options = argparse.Namespace


def demo(options: Options) -> Iterator[list[Row]]:
    """The demonstration's trained codes, all queries at once."""
    data, name = run_data(options)
    for k, wanted in ((100, 5), (10, 10)):
        case = Case("demo", name, len(data.gallery), 64, len(data.queries), k, wanted=wanted)
        yield nearest_rows(case, data, repeats=options.repeats, peers=("faiss flat",))


def run_data(options: Options) -> tuple[Data, str]:
    """Return the codes of the run in --demo, or generated ones like them, and their name."""
    if options.demo is None:
        fitted = 60_000 // (10 if options.quick else 1)
        return made("trained", fitted, 64, fitted // 6, classes=10), "trained, 10 classes"
    from safetensors.numpy import load_file

    from orthohash_triton import pack_codes

    gallery = HammingIndex.load(options.demo / "index.ibxf").codes.numpy()
    queries = load_file(options.demo / "queries.safetensors")["codes"]
    codebook = load_file(options.demo / "codebook.safetensors")["codebook"].astype(np.float32)
    return Data(gallery, queries, np.asarray(pack_codes(codebook))), "run of the demonstration"


def large(options: Options) -> Iterator[list[Row]]:
    """Trained-like codes of 10,000 classes, one query."""
    count = 10**6 if options.quick else 10**8
    data = made("trained", count, 64, 8)
    index, seconds = filed(data)
    for number in range(2):
        one = data._replace(queries=data.queries[number : number + 1])
        case = Case("large", "trained", count, 64, 1, 100, wanted=50)
        rows = nearest_rows(case, one, repeats=options.repeats, index=index)
        rows[0]["build_s"] = seconds
        yield rows


def join(options: Options) -> Iterator[list[Row]]:
    """All pairs within 2 of 256 bits."""
    from orthohash_triton import hamming_self_join

    count = 10**5 if options.quick else 10**6
    codes = galleries.make("planted", count, 256)
    pairs, distances = hamming_self_join(codes, 2)
    built = _search_peers.within("faiss MultiHash", codes, codes, 3)
    lims, near, ids = _search_peers.in_order(built.search())
    rows = np.repeat(np.arange(count), np.diff(lims))
    once = rows < ids
    order = np.lexsort((ids[once], rows[once]))
    theirs = np.stack([rows[once], ids[once]], axis=1)[order]
    if not (np.array_equal(pairs, theirs) and np.array_equal(distances, near[once][order])):
        raise SystemExit("hamming_self_join and faiss find different pairs; no times are reported")
    case = Case("join", "planted", count, 256, count, radius=2, wanted="1 s")
    calls: dict[str, Callable[[], object]] = {OURS: lambda: hamming_self_join(codes, 2), "faiss MultiHash": built.search}
    notes = {OURS: f"{len(pairs):,} pairs", "faiss MultiHash": "without building; each pair is found twice"}
    seconds = timings(calls, min(options.repeats, 3), clock=time.process_time)
    yield rows_of(case, seconds, baseline="faiss MultiHash", facts={peer: {"note": note} for peer, note in notes.items()})


def range_(options: Options) -> Iterator[list[Row]]:
    """All codes within 8 of 256 bits, among which near-duplicates are planted."""
    count = 10**5 if options.quick else 10**6
    case = Case("range", "planted", count, 256, 1000, radius=8, wanted=100)
    yield range_rows(case, made("planted", count, 256, 1000), repeats=min(options.repeats, 3), peers=("faiss MultiHash",))


EVEN = ("uniform", "equidistant", "shared")


def even(options: Options) -> Iterator[list[Row]]:
    """Galleries in which nothing is near, or everything equally far."""
    count = 10**5 if options.quick else 10**6
    for kind in EVEN:
        data = made(kind, count, 64, 256)
        index, _ = filed(data)
        for queries in (1, 256):
            for k in (1, 10, 100, 1000):
                case = Case("even", kind, count, 64, queries, k, wanted=0.95)
                part = data._replace(queries=data.queries[:queries])
                yield nearest_rows(case, part, repeats=3 * options.repeats if queries == 1 else options.repeats, index=index)
        for radius in (4, 16):
            case = Case("even", kind, count, 64, 16, radius=radius, wanted=0.95)
            yield range_rows(case, data._replace(queries=data.queries[:16]), repeats=options.repeats)


_BEFORE = """
import sys, time, numpy as np, torch
torch.set_num_threads(1)
from orthohash_triton.metrics import average_precision
case = [np.load(sys.argv[1])[name] for name in ("queries", "gallery", "query_labels", "labels")]
average_precision(*case)
seconds = []
for _ in range(int(sys.argv[2])):
    started = time.process_time()
    values = average_precision(*case)
    seconds.append(time.process_time() - started)
np.save(sys.argv[3], np.asarray(values))
print(*seconds)
"""


def map_(options: Options) -> Iterator[list[Row]]:
    """Mean average precision of whole rankings on trained codes; --before names the Python of an earlier version."""
    data, name = run_data(options)
    nearest = hamming_topk(data.gallery, data.centres, 1)[1][:, 0]
    query_labels = hamming_topk(data.queries, data.centres, 1)[1][:, 0]
    of_uniform = [galleries.make("uniform", len(codes), 64, seed=seed) for seed, codes in enumerate((data.queries, data.gallery))]
    calls: dict[str, Callable[[], object]] = {
        OURS: lambda: average_precision(data.queries, data.gallery, query_labels, nearest),
        "the same for uniform codes": lambda: average_precision(*of_uniform, query_labels, nearest),
    }
    seconds = timings(calls, options.repeats, clock=time.process_time)
    baseline = "the same for uniform codes"
    if options.before is not None:
        baseline = "earlier version"
        with tempfile.TemporaryDirectory() as folder:
            inputs, outputs = Path(folder) / "case.npz", Path(folder) / "values.npy"
            np.savez(inputs, queries=data.queries, gallery=data.gallery, query_labels=query_labels, labels=nearest)
            command = [options.before, "-c", _BEFORE, inputs, options.repeats, outputs]
            done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True, cwd=folder)
            before, now = np.load(outputs), np.asarray(calls[OURS]())
        if not np.allclose(before, now, rtol=1e-12, atol=0):
            raise SystemExit("the earlier version gives another average precision; no times are reported")
        seconds[baseline] = sorted(map(float, done.stdout.split()))
    case = Case("map", name, len(data.gallery), 64, len(data.queries), wanted=5)
    yield rows_of(case, seconds, baseline=baseline, facts={})


def mixed(options: Options) -> Iterator[list[Row]]:
    """Changes between searches: the slowest search relative to the scan of the same codes."""
    count, steps = (10**5, 20) if options.quick else (10**6, 40)
    for kind, settings in (("trained", dict(classes=1000)), ("uniform", {})):
        runs = [[*mixed_changes(kind, count, steps, **settings)] for _ in range(3)]
        ours, scans = (np.array([[step[part] for step in run] for run in runs]).min(0) for part in (0, 1))
        ratios = ours / scans
        slowest = int(ratios.argmax())
        note = f"slowest: {ratios[slowest]:.3f} of the scan at {runs[0][slowest][2]}; {(ratios > 1.1).sum()} of {steps} above 1.1"
        case = Case("mixed", kind, count, 64, steps, wanted=round(1 / 1.1, 3))
        rows = rows_of(case, {OURS: sorted(ours), SCAN: sorted(scans)}, baseline=SCAN, facts={OURS: {"note": note}})
        rows[0]["times_scan"] = round(float(1 / ratios.max()), 3)  # of the slowest search
        yield rows


def peers(options: Options) -> Iterator[list[Row]]:
    """Other indexes on 10^5 codes, with their recall."""
    count = 10**4 if options.quick else 10**5
    for kind, settings in (("trained", dict(classes=100)), ("uniform", {})):
        for k in (10, 100):
            case = Case("peers", kind, count, 64, 100, k)
            data = made(kind, count, 64, 100, **settings)
            yield nearest_rows(case, data, repeats=min(options.repeats, 5), peers=_search_peers.NEAREST)


def scale(options: Options) -> Iterator[list[Row]]:
    """Time against the number of codes, for one query and for 256."""
    counts = (10**4, 10**5) if options.quick else (10**4, 10**5, 10**6, 10**7, *([10**8] if options.full else []))
    names = ("faiss flat", "faiss IVF", "faiss MultiHash", *(["faiss HNSW"] if options.full else []))
    for kind in ("trained", "uniform", "tied"):
        for count in counts:
            data = made(kind, count, 64, 256, **(dict(classes=1000) if kind == "trained" else {}))
            index, seconds = filed(data)
            few = count > 10**6
            for queries in (1, *([] if few else [256])):
                case = Case("scale", kind, count, 64, queries, 100)
                part = data._replace(queries=data.queries[:queries])
                others = () if few and not options.full else names
                rows = nearest_rows(case, part, repeats=min(options.repeats, 5), index=index, peers=others)
                rows[0]["build_s"] = seconds
                yield rows
    for count in counts:
        data = made("planted", count, 256, 100)
        case = Case("scale", "planted", count, 256, 100, radius=8)
        if count <= 10**6 or options.full:
            yield range_rows(case, data, repeats=min(options.repeats, 3), peers=("faiss MultiHash",))


def make(peer: str, queries: int, gallery: int, bits: int, k: int, device: str) -> Call:
    """Return a search of trained-like codes for the microbenchmarks."""
    on_cpu_only(peer, device)
    data = made("trained", gallery, bits, queries, classes=10)
    if peer == OURS:
        index, _ = filed(data)
        return lambda: index.search(data.queries, k)
    if peer == SCAN:
        return lambda: hamming_topk(data.queries, data.gallery, k)
    try:
        return _search_peers.nearest(peer, data.gallery, data.queries, k).search
    except _search_peers.NotHere as reason:
        raise Unavailable(str(reason)) from None


MICROBENCHMARKS = [
    Microbenchmark(
        op="filed_search",
        axes=("queries", "gallery", "bits", "k"),
        shapes=[(1, 1_000_000, 64, 100), (256, 60_000, 64, 10), (256, 60_000, 64, 100)],
        smallest=(5, 70, 64, 7),
        peers=(OURS, SCAN, *_search_peers.ORDERED),
        make=make,
        agree=same_integers,
    )
]

TABLES: dict[str, Callable[[Options], Iterator[list[Row]]]] = {
    "demo": demo,
    "large": large,
    "join": join,
    "range": range_,
    "even": even,
    "map": map_,
    "mixed": mixed,
    "peers": peers,
    "scale": scale,
}


def show(row: Row) -> None:
    case = f"{row['row']:<6} {row['codes']:<12} {row['gallery']:>11,} x {row['bits']:<3} Q {row['queries']:<6,}"
    case += f" k {row['k']:<4}" if row["k"] != "" else f" r {row['radius']:<4}"
    if row["ms_50"] == "":
        print(f"{case} {row['peer']:<26} {row['note']}", flush=True)
        return
    wanted = f" (wanted {row['wanted']})" if row["wanted"] != "" else ""
    recall = f" recall {row['recall']}" if row["recall"] not in ("", 1.0) else ""
    took = f"{row['ms_50']:>11,.3f} ms {row['times_scan']:>9} x"
    print(f"{case} {row['peer']:<26} {took}{wanted}{recall}  {row['note']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, nothing written")
    parser.add_argument("--full", action="store_true", help="larger sizes and more peers in the table `scale`")
    parser.add_argument("--only", nargs="+", choices=TABLES, metavar="TABLE", help="some tables")
    parser.add_argument("--demo", type=Path, metavar="RUN", help="a run folder with 64-bit codes; without it, generated ones")
    parser.add_argument("--before", type=Path, metavar="PYTHON", help="the Python of an environment with an earlier version")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--plot", action="store_true", help="draw the figure from the CSV file and measure nothing")
    options = parser.parse_args()
    path = RESULTS / "sublinear.csv"
    if options.plot:
        from bench.plots import plot_sublinear

        with path.open(newline="") as file:
            plot_sublinear([*csv.DictReader(file)], RESULTS / "sublinear.png")
        return
    import faiss

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    command = "python -m bench.sublinear " + " ".join(sys.argv[1:])
    for name in options.only or TABLES:
        for rows in TABLES[name](options):
            for row in rows:
                show(row)
            if not options.quick:
                append_csv(path, [row | environment() | {"command": command.strip()} for row in rows])


if __name__ == "__main__":
    main()
