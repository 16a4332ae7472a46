"""`orthohash info`: identify a file or folder."""

import argparse
from pathlib import Path
from typing import Any

from .._base import run_folder
from ._command import Command, CommandParser
from ._output import cell, print_json


def _add_options(parser: CommandParser) -> None:
    parser.add_argument("path", type=Path, help="run folder, codes, index, pretrained model or data set")


def _run(options: argparse.Namespace) -> None:
    """Print what is at the path."""
    found = _describe(options.path)
    if options.json:
        print_json(found)
        return
    print(f"{options.path}: {found['kind']}")
    for name, value in found.items():
        if name not in ("kind", "next") and value is not None:
            print(f"  {name.replace('_', ' '):<16}{_as_text(value)}")
    print("\n".join(["next:", *(f"  {line}" for line in found["next"])]))


def _describe(path: Path) -> dict[str, Any]:
    """Return what is at `path`: its "kind", its properties, and as "next" the command lines that accept it."""
    from ..runs.code_files import holds_codes
    from ..runs.run import holds_run

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a run folder, a file of codes, an index or a data set")
    if (path / run_folder.CONFIG).is_file():
        return _describe_run(path) if holds_run(path) else _describe_pretrained(path)
    if (path / run_folder.CHECKPOINT).is_file():
        return _describe_unfinished(path)
    return _describe_codes(path) if holds_codes(path) else _describe_data_set(path)


def _describe_run(path: Path) -> dict[str, Any]:
    """Describe a run folder."""
    from ..runs import load_run

    run = load_run(path)
    return {
        "kind": "run folder",
        "method": run.config.method,
        "rotation": run.config.rotate,
        "backbone": run.config.backbone,
        "trained_on": run.config.dataset,
        "bits": run.config.bits,
        "sample": list(run.model.sample_shape),
        "gallery": len(run.index),
        "classes": len(run.class_names),
        "epochs": len(run.metrics["epochs"]),
        "map_at_all": run.metrics.get("evaluation", {}).get("map_at_all"),
        "next": [
            f"orthohash search {path} QUERIES",
            f"orthohash encode {path} SOURCE --out codes.npy",
            f"orthohash report {path}",
            f"orthohash browse {path}",
            f"orthohash export {path} --out model.onnx",
            f"orthohash train --config {path} --out AGAIN",
        ],
    }


def _describe_unfinished(path: Path) -> dict[str, Any]:
    """Describe a folder with a training that was stopped."""
    from ..train.checkpoint import checkpoint_settings

    settings = checkpoint_settings(path)
    return {
        "kind": "training that was stopped",
        **{name: settings[name] for name in ("method", "backbone", "dataset", "bits", "epochs")},
        "next": [f"orthohash train --resume {path}"],
    }


def _describe_pretrained(path: Path) -> dict[str, Any]:
    """Describe a folder written by `HashModel.save_pretrained`."""
    from .._base import formats

    description = formats.read_json(path / run_folder.CONFIG)
    if not isinstance(description, dict) or not {"bits", "backbone", "sample_shape"} <= set(description):
        raise ValueError(f"{path} has a {run_folder.CONFIG}, but is neither a run folder nor a pretrained model")
    return {
        "kind": "pretrained model",
        "backbone": description["backbone"],
        "bits": description["bits"],
        "sample": description["sample_shape"],
        "classes": len(description.get("class_names", ())),
        "next": [
            f"orthohash encode {path} SOURCE --out codes.npy",
            f"HashModel.from_pretrained({str(path)!r}), in Python: from orthohash_triton.train import HashModel",
        ],
    }


def _describe_codes(path: Path) -> dict[str, Any]:
    """Describe a file of codes."""
    from ..runs.code_files import read_codes

    found = read_codes(path)
    kind = {".npy": "packed codes", ".parquet": "packed codes in a table"}.get(path.suffix, "index file")
    return {
        "kind": kind,
        "count": len(found.index),
        "bits": found.index.bits,
        "bytes_per_code": found.index.bits // 8,
        "ids": "own" if found.index.ids is not None else "rows",
        "files": found.paths is not None,
        "next": [
            f"orthohash search {path} QUERIES.npy",
            f"orthohash search {path} IMAGES --model RUN",
            *([] if kind == "index file" else [f"orthohash index {path} --out codes.ibxf"]),
        ],
    }


def _describe_data_set(path: Path) -> dict[str, Any]:
    """Describe a data set: its kind and the sizes of its parts."""
    from ..data import names
    from ..data.readers import find_reader

    reader = find_reader(path, {}, names())
    found: dict[str, Any] = {"kind": reader.what}
    if reader.parts is not None:
        parts = reader.parts(path, every_image=True) if reader.searches else reader.parts(path)
        found |= {name: len(part) for name, part in parts.items()}
        found |= {"classes": len(next(iter(parts.values())).class_names), "skipped": sum(len(p.skipped) for p in parts.values())}
    found["next"] = [f"orthohash train --dataset {path} --out RUN", f"orthohash encode RUN {path} --out codes.npy"]
    return found


def _as_text(value: Any) -> str:
    """Return a value of a description as one word or number."""
    if isinstance(value, bool):
        return "known" if value else "unknown"
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return cell(value, ".4f" if isinstance(value, float) else "," if isinstance(value, int) else "")


COMMAND = Command(
    name="info",
    summary="identify a file or folder, and list the commands that accept it",
    examples="""
        orthohash info runs/fashion
        orthohash info holiday.npy
        orthohash info photos/ --json""",
    add_options=_add_options,
    run=_run,
    help_order=90,
)
