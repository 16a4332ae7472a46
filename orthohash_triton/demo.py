"""The demonstration: train, encode, index, save, load, search, evaluate, and draw neighbours of some queries."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import data
from ._base.environment import environment
from ._base.files import atomic_write
from .data import Splits
from .plots.neighbours import draw_neighbours
from .runs.baselines import exact_cosine
from .runs.evaluation import evaluate_run
from .runs.run import Run, load_run, save_run
from .train import TrainConfig, train

BITS = (16, 32, 64)
LSH_BITS = 64
NEIGHBOURS = 10

FASHION_MNIST = TrainConfig(dataset="fashion-mnist", epochs=6)
# There are few digits, so batches are small. A mirrored digit is not a digit, so images are not mirrored.
DIGITS = TrainConfig(dataset="digits", epochs=30, batch_size=64, flip=False)


def demo(
    out: str | Path = "runs/demo", *, quick: bool = False, seed: int = 0, threads: int | None = None, progress: bool = True
) -> dict[str, Any]:
    """Run the demonstration, write `out`/results.json and `out`/neighbours.png, and return the contents of results.json.

    The model is trained on Fashion-MNIST or, if that data set cannot be found, on scikit-learn's digits; a warning on standard
    error says so.

    Args:
        quick: whether to train on the digits for two epochs only, a test of the installation that takes seconds.

    Example:
        >>> from orthohash_triton.demo import demo
        >>> results = demo("demo", quick=True, threads=1, progress=False)
        >>> [row["bits"] for row in results["rows"]]
        [16, 32, 64, 64, None]
    """
    started = time.perf_counter()
    out = Path(out)
    config, splits = _data(quick, replace(FASHION_MNIST, seed=seed, threads=threads))
    say = _say if progress else _silent
    say(f"{splits.gallery.name}: {len(splits.train):,} images to train on and to search in, {len(splits.query):,} queries")
    rows, runs = [], []
    for bits in BITS:
        say(f"OrthoHash, {bits} bits")
        row, run = _learned_row(replace(config, bits=bits), splits, out / f"{bits}-bits", progress)
        rows.append(row)
        runs.append(run)
    say("baselines: random projections, exact cosine")
    rows.append(_unlearned_row(replace(config, method="lsh", bits=LSH_BITS), splits, out / "lsh"))
    rows.append(exact_cosine(splits.gallery, splits.query))
    _picture(out / "neighbours.png", runs[-1], splits)
    results = {
        "dataset": {"name": splits.gallery.name, "gallery": len(splits.gallery), "queries": len(splits.query)},
        "quick": quick,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "map": {"ties": "stable", "denominator": "hits", "zero_hits": "zero"},
        "environment": environment(),
        "rows": rows,
    }
    with atomic_write(out / "results.json") as file:
        file.write((json.dumps(results, indent=2) + "\n").encode())
    return results


def _data(quick: bool, config: TrainConfig) -> tuple[TrainConfig, Splits]:
    digits = replace(DIGITS, seed=config.seed, threads=config.threads)
    if quick:
        return replace(digits, epochs=2), data.load_splits(digits.dataset, seed=config.seed)
    try:
        return config, data.load_splits(config.dataset)
    except FileNotFoundError as error:
        _say(f"WARNING: {error}")
        _say("WARNING: showing scikit-learn's handwritten digits instead: 1,797 images of 8 x 8 pixels, a far easier task")
        return digits, data.load_splits(digits.dataset, seed=config.seed)


def _learned_row(config: TrainConfig, splits: Splits, path: Path, progress: bool) -> tuple[dict[str, Any], Run]:
    started = time.perf_counter()
    trained = train(config, splits.train, progress=progress)
    train_seconds = time.perf_counter() - started
    save_run(path, config, trained, splits.gallery)
    run = load_run(path)  # everything below uses the files
    figures = evaluate_run(run, splits.query)
    return {"method": "OrthoHash", **figures, "train_seconds": round(train_seconds, 1), "run": str(path)}, run


def _unlearned_row(config: TrainConfig, splits: Splits, path: Path) -> dict[str, Any]:
    run = save_run(path, config, train(config, splits.train, progress=False), splits.gallery)
    what = "pixels" if splits.gallery.is_images else "features"
    return {"method": f"LSH on {what}", **evaluate_run(run, splits.query)}


def _picture(path: Path, run: Run, splits: Splits) -> None:
    """Draw the first query of each of the first ten classes with its neighbours."""
    labels = splits.query.labels
    rows = [int((labels == label).nonzero()[0]) for label in labels.unique().tolist()[:10]]
    distances, ids = run.index.search(run.model.encode(splits.query.inputs[rows]), NEIGHBOURS)
    title = f"{splits.query.name}: {run.config.bits}-bit OrthoHash codes, the first query of each class"
    draw_neighbours(path, splits.query, splits.gallery, rows, ids, distances, title)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    pass
