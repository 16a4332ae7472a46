"""Comparison of methods on the same data, backbone, seeds and number of epochs: one table and one set of figures.

Each method is trained once for each code length and seed. Rotations are fitted to the codes of that model and need no further
training. The result of each cell (method, length, seed) is written to `out`/cells when it is finished, and is not computed again.
A comparison that was stopped can therefore be resumed, and several processes can share the folder if they are given different
seeds or methods.

Queries are never in the gallery and never used for a choice: with `validation` the best epoch is chosen on a share of the
training set.
"""

import json
import statistics
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from . import methods
from ._base import formats
from ._base.environment import environment
from ._base.file_names import printable
from ._base.files import atomic_write
from ._base.reading import naming, reader
from .data import Dataset, Splits, places
from .data.fingerprint import fingerprint
from .metrics import average_cumulative_gain, evaluate, mean_average_hierarchical_precision, ndcg
from .models.backbones import FROM_SCRATCH
from .nn import HashHead
from .ops.pack_codes import pack_codes
from .plots.figures import draw_comparison
from .plots.profiles import bit_statistics, curves
from .train.config import TrainConfig
from .train.rotation import RotationName, fit_rotation
from .train.trainer import train

CHOICES = get_args(RotationName)
"""Names of the rotations."""

TOP = 1000
RADIUS = 2
CURVE_RANKS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)
HIERARCHY_RANK = 250  # mAHP@250, as Barz and Denzler (2019) report it
GAIN_RANK = 100
_BATCH = 8192
_LABELS = ("method", "title", "rotation")  # what a row has besides numbers
SAMPLED_CODES = 2000  # queries in the picture of codes


def compare(
    config: TrainConfig,
    splits: Splits,
    out: str | Path,
    *,
    names: Sequence[str] | None = None,
    bits: Sequence[int] = (16, 32, 64),
    seeds: Sequence[int] = (0, 1, 2),
    rotations: Sequence[RotationName] = ("none",),
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train and evaluate methods at every code length and seed, and write the table and figures of all cells in `out`.

    Args:
        config: all other settings. Its method, bits, seed and rotate are replaced.
        splits: training set, gallery and queries.
        out: a folder. Finished cells of an earlier comparison with the same settings are kept.
        names: names of methods; None for all.
        bits, seeds: code lengths and seeds.
        rotations: rotations that are fitted to the codes of each model; "none" is the model itself.
        progress: whether to report each cell on standard error.

    Returns:
        The rows of the table, see `summary`.

    Raises:
        ValueError: a name is unknown, or `out` has a comparison with other settings.

    Example:
        >>> from orthohash_triton.compare import compare
        >>> from orthohash_triton.train import TrainConfig
        >>> config = TrainConfig(dataset="digits", epochs=1, batch_size=64, threads=1)
        >>> rows = compare(config, config.load_splits(), "comparison", names=["lsh", "pca"], bits=[16], seeds=[0], progress=False)
        >>> sorted(row["method"] for row in rows)
        ['lsh', 'pca']
    """
    out = Path(out)
    names = list(names) if names is not None else methods.names()
    _check(names, rotations, bits, seeds)
    setting = {
        **_setting(config),
        "dataset": splits.gallery.name,
        "gallery": len(splits.gallery),
        "queries": len(splits.query),
        "class_names": list(splits.gallery.class_names),
        "samples": [zlib.crc32(json.dumps(fingerprint(part)).encode()) for part in splits],
        "rotations": list(rotations),  # a finished cell has only these rotations
    }
    cells = [  # all are created before the first training, so that a bad value is reported at once
        replace(config, method=name, bits=length, seed=seed, rotate="none", backbone=_backbone(config, name))
        for seed in seeds
        for length in bits
        for name in names
    ]
    _claim(out, setting)
    for cell in cells:
        path = out / "cells" / f"{cell.method}-{cell.bits}-{cell.seed}.json"
        if not path.is_file():
            if progress:
                print(f"{methods.get(cell.method).title}, {cell.bits} bits, seed {cell.seed}", file=sys.stderr, flush=True)
            _write_json(path, _cell(cell, splits, rotations))
    return write_report(out)


def write_report(out: str | Path) -> list[dict[str, Any]]:
    """Write results.csv, results.md, results.json and the figures in `out` from the finished cells. Return the table's rows."""
    out = Path(out)
    cells = [_read_cell(path) for path in (out / "cells").glob("*.json")]
    if not cells:
        raise FileNotFoundError(f"{out} has no cells of a comparison; run `orthohash compare --out {out}`")
    cells.sort(key=lambda cell: (_rank(cell["rows"][0]["method"]), cell["rows"][0]["bits"], cell["seed"]))
    setting = _read_setting(out / "setting.json")
    measured = [row for cell in cells for row in cell["rows"]]
    with naming(out, "folder of a comparison", advice="Its cells have different figures; delete it, and compare again"):
        rows = summary(measured)
    _write_text(out / "results.csv", _csv(measured))
    _write_text(out / "results.md", _markdown(rows, setting))
    _write_json(out / "results.json", {"setting": setting, "environment": environment(), "rows": rows})
    first = min(cell["seed"] for cell in cells)
    profiles = [
        {**profile, "codes": _sampled_codes(profile)} for cell in cells if cell["seed"] == first for profile in cell["profiles"]
    ]
    draw_comparison(
        out, [row for row in measured if row["rotation"] == "none"], profiles, setting["dataset"], setting["class_names"]
    )
    return rows


@reader("cell of a comparison", advice="Delete it, and compare again to compute it anew")
def _read_cell(path: Path) -> dict[str, Any]:
    """Return the contents of a finished cell: its seed, a row for each rotation, and the data of its pictures."""
    cell = formats.read_json(path)
    if type(cell["seed"]) is not int or not cell["rows"]:
        raise ValueError("it must have a seed and rows")
    for row in cell["rows"]:
        named = all(isinstance(row[name], str) for name in _LABELS) and row["rotation"] in CHOICES
        figures = [value for name, value in row.items() if name not in _LABELS]
        if not named or type(row["bits"]) is not int or not all(isinstance(value, int | float) for value in figures):
            raise ValueError(f"it has a row of another form: {row!r:.80}")
    for profile in cell["profiles"]:
        _sampled_codes(profile)
    return cell


@reader("file of the settings of a comparison")
def _read_setting(path: Path) -> dict[str, Any]:
    """Return the settings of a comparison."""
    setting = formats.read_json(path)
    if not isinstance(setting, dict):
        raise ValueError("it must hold settings by name")
    return setting


def summary(measured: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each method, rotation and length, with the mean of every figure over the seeds.

    With two seeds or more, the key "<figure>_std" has the sample standard deviation.

    Example:
        >>> from orthohash_triton.compare import summary
        >>> cells = [
        ...     dict(method="lsh", title="LSH", rotation="none", bits=16, seed=seed, map_at_all=value)
        ...     for seed, value in ((0, 0.25), (1, 0.75))
        ... ]
        >>> summary(cells)[0]["map_at_all"]
        0.5
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in measured:
        groups.setdefault((_rank(row["method"]), row["method"], CHOICES.index(row["rotation"]), row["bits"]), []).append(row)
    rows = []
    for (_, name, rotation, bits), group in sorted(groups.items()):
        figures = [key for key in group[0] if key not in ("method", "title", "rotation", "bits", "seed")]
        values = {key: [row[key] for row in group] for key in figures}
        rows.append({
            "method": name, "title": group[0]["title"], "rotation": CHOICES[rotation], "bits": bits, "seeds": len(group),
            **{key: statistics.fmean(found) for key, found in values.items()},
            **{f"{key}_std": statistics.stdev(found) for key, found in values.items() if len(found) > 1},
        })  # fmt: skip
    return rows


def _cell(config: TrainConfig, splits: Splits, rotations: Sequence[RotationName]) -> dict[str, Any]:
    """Train one model, and evaluate its codes after each rotation."""
    started = time.perf_counter()
    trained = train(config, splits.train, progress=False)
    seconds = time.perf_counter() - started
    sets = {id(part): part for part in splits}  # the gallery may be the training set
    features = {key: trained.model.features(part.inputs) for key, part in sets.items()}
    rows: list[dict[str, Any]] = []
    profiles: list[dict[str, Any]] = []
    for rotation in rotations:
        head = trained.model.head
        if rotation != "none":
            fitted = fit_rotation(_continuous(head, features[id(splits.train)]), rotation, seed=config.seed)
            head = head.rotated(fitted.matrix)
        gallery, query = (pack_codes(_continuous(head, features[id(part)])) for part in (splits.gallery, splits.query))
        figures, profile = _judge(gallery, query, splits)
        label: dict[str, Any] = {
            "method": config.method,
            "title": methods.get(config.method).title,
            "rotation": rotation,
            "bits": config.bits,
        }
        rows.append({**label, "seed": config.seed, **figures, "train_seconds": round(seconds, 1)})
        if rotation == "none":
            profiles.append({**label, **profile})
    return {
        "seed": config.seed,
        "rows": rows,
        "profiles": profiles,
        "epochs": [asdict(epoch) for epoch in trained.history],
    }


@torch.no_grad()
def _continuous(head: HashHead, features: Tensor) -> Tensor:
    device = head.linear.weight.device
    return torch.cat([head(batch.to(device)).cpu() for batch in features.split(_BATCH)])


def _judge(gallery: Tensor, query: Tensor, splits: Splits) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the figures of a row, and the data that its pictures are drawn from."""
    labels = splits.query.labels, splits.gallery.labels
    found = evaluate(query, gallery, *labels, k=(*CURVE_RANKS, None), radius=RADIUS)
    figures = {
        "map_at_all": found.mean_average_precision[None],
        "map_at_1000": found.mean_average_precision[TOP],
        "precision_at_radius_2": found.precision_at_radius[RADIUS],
        "separability": found.distances.separability,
    }
    if splits.gallery.is_multilabel:
        figures["ndcg_at_100"] = ndcg(query, gallery, *labels, k=GAIN_RANK)
        figures["acg_at_100"] = average_cumulative_gain(query, gallery, *labels, k=GAIN_RANK)
    if splits.gallery.class_distance is not None:
        figures["mahp_at_250"] = mean_average_hierarchical_precision(
            query, gallery, *labels, splits.gallery.class_distance, k=HIERARCHY_RANK
        )
    return figures, {
        **curves(found),
        "precision_at_radius_2": found.precision_at_radius[RADIUS],
        **bit_statistics(gallery, 8 * gallery.shape[1]),
        **_sample(query, splits.query),
    }


def _sample(codes: Tensor, dataset: Dataset) -> dict[str, Any]:
    """Return the codes of the first queries in hexadecimal, and one class id each (the first one if there are several)."""
    labels = dataset.labels[:SAMPLED_CODES]
    ids = labels.int().argmax(1) if dataset.is_multilabel else labels
    return {"codes": codes[:SAMPLED_CODES].numpy().tobytes().hex(), "labels": ids.tolist()}


def _sampled_codes(profile: dict[str, Any]) -> np.ndarray:
    """Return the codes of a profile, uint8 [M, bits/8]."""
    return np.frombuffer(bytes.fromhex(profile["codes"]), np.uint8).reshape(-1, -(-profile["bits"] // 8))


def _setting(config: TrainConfig) -> dict[str, Any]:
    varied = ("method", "bits", "seed", "rotate", "threads", "device")
    return {key: value for key, value in asdict(config).items() if key not in varied}


def _backbone(config: TrainConfig, name: str) -> str:
    """Return the backbone of a method: "auto" if the method trains no network and the backbone has random weights."""
    untrained = config.backbone in FROM_SCRATCH and not methods.get(name).learned
    return "auto" if untrained else config.backbone


def _claim(out: Path, setting: dict[str, Any]) -> None:
    """Store the settings in `out`, or raise ValueError if it has a comparison with other settings."""
    (out / "cells").mkdir(parents=True, exist_ok=True)
    path = out / "setting.json"
    if path.is_file():
        # A setting that is newer than the folder had its default value.
        before = _setting(TrainConfig()) | _read_setting(path)
        # The same samples have other paths in another working folder, or after a move.
        ignored = places.SETTINGS if before.get("samples") == setting["samples"] else ()
        before.setdefault("samples", setting["samples"])
        changed = sorted(
            key for key in before.keys() | setting.keys() if key not in ignored and before.get(key) != setting.get(key)
        )
        if changed:
            raise ValueError(f"{out} has a comparison with another {', '.join(changed)}; choose another --out, or delete it")
    else:
        _write_json(path, setting)


def _check(names: Sequence[str], rotations: Sequence[RotationName], bits: Sequence[int], seeds: Sequence[int]) -> None:
    for name in names:
        methods.get(name)
    unknown = [rotation for rotation in rotations if rotation not in CHOICES]
    if unknown or not rotations:
        raise ValueError(f"compare: rotations must be some of {', '.join(CHOICES)}; got {', '.join(unknown) or 'an empty list'}")
    if not names or not bits or not seeds:
        raise ValueError("compare: names, bits and seeds must have at least one entry each")


def _rank(name: str) -> int:
    return methods.names().index(name) if name in methods.names() else len(methods.names())


FIGURES = {
    "map_at_all": "mAP@all",
    "map_at_1000": "mAP@1000",
    "precision_at_radius_2": "precision, radius ≤ 2",
    "mahp_at_250": "mAHP@250",
    "ndcg_at_100": "NDCG@100",
    "acg_at_100": "ACG@100",
}


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the column names and the cells of the table as text.

    Example:
        >>> from orthohash_triton.compare import table
        >>> row = dict(title="LSH", rotation="none", bits=16, map_at_all=0.5, map_at_all_std=0.1, train_seconds=2.0)
        >>> table([row])
        (['method', 'bits', 'mAP@all', 'training, s'], [['LSH', '16', '0.500 ± 0.100', '2']])
    """
    figures = [key for key in FIGURES if key in rows[0]]
    columns = ["method", "bits", *(FIGURES[key] for key in figures), "training, s"]
    return columns, [
        [
            row["title"] + ("" if row["rotation"] == "none" else f" + {row['rotation']}"),
            str(row["bits"]),
            *(_with_spread(row, key) for key in figures),
            f"{row['train_seconds']:.0f}",
        ]
        for row in rows
    ]


def _with_spread(row: dict[str, Any], key: str) -> str:
    spread = row.get(f"{key}_std")
    return f"{row[key]:.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def _markdown(rows: Sequence[dict[str, Any]], setting: dict[str, Any]) -> str:
    """Return the table as Markdown, below a description of the setting."""
    columns, cells = table(rows)
    usual, hidden = _setting(TrainConfig()), ("class_names", "rotations", "samples")
    lines = [
        f"# {setting['dataset']}: {setting['queries']:,} queries, {setting['gallery']:,} in the gallery",
        "",
        "mean ± sample standard deviation over the seeds. mAP: ties are sorted by gallery position; divided by the number of "
        "relevant items found; 0 for a query that finds none. "
        + (
            "The best epoch is chosen on a share of the training set." if setting.get("validation") else "The last epoch is used."
        ),
        "",
        "Setting: "
        + ", ".join(f"{key} {value}" for key, value in setting.items() if key not in hidden and value != usual.get(key))
        + "; all other settings have their defaults.",
        "",
        "| " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (len(columns) - 1),
        *("| " + " | ".join(row) + " |" for row in cells),
    ]
    return "\n".join(lines) + "\n"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(rows[0])
    return "\n".join([",".join(columns), *(",".join(_plain(row[key]) for key in columns) for row in rows)]) + "\n"


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _write_json(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(value) + "\n")


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(printable(text).encode())
