"""`orthohash search`: find the nearest codes of queries."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._command import Command, CommandParser
from ._output import print_json, print_table
from ._sources import SOURCES, load_model

if TYPE_CHECKING:
    from torch import Tensor

    from ..runs.code_files import CodeFile
    from ..train import HashModel

_SHOWN_QUERIES = 10
_BATCH = 256  # queries encoded per batch


def _add_options(parser: CommandParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "index",
        type=Path,
        metavar="INDEX",
        help="codes or index (.ibxf, .npy, .parquet), or a run folder (its gallery)",
    )
    parser.add_argument("queries", metavar="QUERIES", help=f"a file of codes; or, with a run folder or --model, {SOURCES}")
    parser.add_argument("-k", type=int, default=10, metavar="N", help="neighbours per query (%(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N queries only (10; all with --json)")
    parser.add_argument(
        "--model", type=Path, metavar="RUN", help="run folder or pretrained model that encodes the queries, if INDEX is a file"
    )


def _run(options: argparse.Namespace) -> None:
    """Search for the queries and print the nearest codes."""
    for name, value in (("-k", options.k), ("--limit", options.limit)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if options.limit is None:
        options.limit = sys.maxsize if options.json else _SHOWN_QUERIES
    gallery, model = _gallery(options)
    names, queries, total = _queries(options, model)
    if 8 * queries.shape[1] != gallery.index.bits:
        raise ValueError(
            f"the queries have codes of {8 * queries.shape[1]} bits, {options.index} of {gallery.index.bits} bits; "
            "encode both with the same model"
        )
    distances, ids = gallery.index.search(queries, min(options.k, max(gallery.index.ntotal, 1)))
    answers: list[dict[str, Any]] = [
        {"query": name, "neighbours": [_neighbour(gallery, *pair) for pair in zip(d, j, strict=True) if pair[1] != -1]}
        for name, d, j in zip(names, distances.tolist(), ids.tolist(), strict=True)
    ]
    if options.json:
        print_json({"queries": total, "results": answers})
        return
    _print_results(answers, f"{len(answers)} of {total} queries in {gallery.index.ntotal:,} codes")


def _gallery(options: argparse.Namespace) -> "tuple[CodeFile, HashModel | None]":
    """Return the codes to search, as a CodeFile, and the model that encodes queries, if there is one."""
    from ..data import UNLABELLED
    from ..runs import load_run
    from ..runs.code_files import CodeFile, read_codes

    if not options.index.is_dir():
        return read_codes(options.index), load_model(options.model) if options.model else None
    if options.model:
        raise ValueError(f"--model is for an index file; the run folder {options.index} contains its own model")
    run = load_run(options.index)
    labels = None
    if run.class_names != (UNLABELLED,):
        labels = [", ".join(run.class_names[i] for i in _class_ids(label)) for label in run.gallery_labels]
    return CodeFile(run.index, run.gallery_paths, labels), run.model


def _queries(options: argparse.Namespace, model: "HashModel | None") -> "tuple[list[str], Tensor, int]":
    """Return names and codes of the first `options.limit` queries, and the total number of queries."""
    from ..runs.code_files import holds_codes, read_codes

    if holds_codes(options.queries):
        found = read_codes(options.queries)
        codes = found.index.codes[: options.limit]
        return list(found.paths[: len(codes)]) if found.paths else list(map(str, range(len(codes)))), codes, len(found.index)
    if model is None and not Path(options.queries).exists():
        raise FileNotFoundError(f"{options.queries} does not exist; expected a file of codes like those of {options.index}")
    if model is None:
        if _holds_integers(options.queries):
            read_codes(options.queries)  # raises an error that says how they differ from codes
        raise ValueError(
            f"an index file alone cannot encode {options.queries}; name the run folder that computed its codes with --model, "
            "or use a file of codes as queries"
        )
    return _encode(model, options.queries, options.limit)


def _holds_integers(path: str) -> bool:
    """Return whether `path` is a .npy file of integers, which are codes of another kind rather than samples to encode."""
    from .._base.formats import read_npy

    return Path(path).suffix == ".npy" and read_npy(path, mmap=True).dtype.kind in "iu"


def _encode(model: "HashModel", queries: str, limit: int) -> "tuple[list[str], Tensor, int]":
    """Return names and codes of the first `limit` readable samples of the source `queries`, and its number of samples."""
    import torch

    from ..data import Skipped, open_source
    from ..data.images import listed, report_skipped

    source = open_source(queries, model.sample_shape)
    names: list[str] = []
    codes: list[Tensor] = []
    skipped: list[Skipped] = [*source.skipped]
    seen = 0
    for batch in source.batches(min(limit, _BATCH)):
        count = len(batch.inputs) + len(batch.skipped)
        rows = [row for row in range(seen, seen + count) if row not in batch.skipped]
        seen += count
        names += [str(source.paths[row]) if source.paths else f"{queries} {row}" for row in rows]
        skipped += batch.skipped.values()
        codes += [model.encode(batch.inputs)] if rows else []
        if len(names) >= limit:
            break
    if not codes:
        raise ValueError(f"no query of {queries} can be read: {listed(skipped)}")
    report_skipped(queries, skipped, len(source) + len(source.skipped))
    return names[:limit], torch.cat(codes)[:limit], len(source)


def _neighbour(gallery: "CodeFile", distance: int, id: int) -> dict[str, Any]:
    """Return one search result as plain values."""
    found: dict[str, Any] = {"id": id, "distance": distance}
    if gallery.labels:
        found["class"] = gallery.labels[id]
    if gallery.paths:
        found["path"] = gallery.paths[id]
    return found


def _print_results(answers: list[dict[str, Any]], title: str) -> None:
    """Print the search results as a table, one row per neighbour."""
    rows = [
        [
            _short(answer["query"]) if rank == 0 else "",
            str(rank + 1),
            str(n["distance"]),
            str(n["id"]),
            n.get("class", ""),
            _short(n.get("path", "")),
        ]
        for answer in answers
        for rank, n in enumerate(answer["neighbours"])
    ]
    print_table(title, ["query", "rank", "distance", "id", "class", "file"], rows)


def _short(path: str) -> str:
    """Return the path of a file relative to the working folder, if it is below that."""
    return path.removeprefix(os.getcwd() + os.sep)


def _class_ids(label: "Tensor") -> list[int]:
    """Return the class ids of one label: a class id, or a multi-hot row."""
    return label.nonzero().flatten().tolist() if label.ndim else [int(label)]


COMMAND = Command(
    name="search",
    summary="find the nearest codes",
    examples="""
        orthohash search runs/photos holiday/beach.jpg -k 5
        orthohash search holiday.ibxf holiday/beach.jpg --model runs/photos
        orthohash search holiday.parquet queries.npy -k 10 --limit 100 --json""",
    add_options=_add_options,
    run=_run,
    help_order=70,
)
