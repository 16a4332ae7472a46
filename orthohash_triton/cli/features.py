"""`orthohash features`: compute the features of a backbone and store them as a data set."""

import argparse
import os
import tempfile
from pathlib import Path

from .._base import run_folder
from ._command import Command, CommandParser
from ._config_options import add_config_options, config_from
from ._output import print_json


def _add_options(parser: CommandParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="folder for train.npz, query.npz and, if the data set has them, gallery.npz, validation.npz",
    )
    add_config_options(parser, only=(
        "dataset", "backbone", "pretrained", "image_size", "query_fraction", "seed", "threads", "device",
        "max_pixels", "on_corrupt", "on_missing", "root", "path_column", "label_column", "split_column",
    ))  # fmt: skip


def _run(options: argparse.Namespace) -> None:
    """Compute and write the features of all parts of the data set."""
    from .. import data
    from ..data.images import write_skipped
    from ..train.features import compute_features

    config = config_from(options, method_options=False)
    splits = config.load_splits()
    parts = {"train": splits.train, "query": splits.query}
    if splits.gallery is not splits.train:
        parts["gallery"] = splits.gallery
    if splits.train.validation is not None:
        parts["validation"] = splits.train.validation
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=options.out) as made:
        for name, part in parts.items():
            features = compute_features(part, config, title=name, progress=options.progress)
            data.features.save(Path(made) / f"{name}.npz", features)
        for name in ("train", "query", "gallery", "validation"):  # remove parts of another data set
            (options.out / f"{name}.npz").unlink(missing_ok=True)
        # train.npz makes the folder a data set, so that it is removed first and written last.
        for name in reversed(parts):
            os.replace(Path(made) / f"{name}.npz", options.out / f"{name}.npz")
    write_skipped(options.out / run_folder.SKIPPED, splits.skipped)
    if options.json:
        print_json({"features": str(options.out), **{name: len(part) for name, part in parts.items()}})
    else:
        print(f"{options.out}: " + ", ".join(f"{len(part):,} {name}" for name, part in parts.items()))


COMMAND = Command(
    name="features",
    summary="compute the features of a backbone once, to train hash layers on",
    examples="""
        orthohash features --dataset fashion-mnist --backbone efficientnet-lite0 --out features/fashion
        orthohash train --dataset features/fashion --backbone mlp --out runs/fashion""",
    add_options=_add_options,
    run=_run,
    help_order=40,
)
