"""orthohash encode."""

import argparse
from pathlib import Path
from typing import Any, Literal

from ._command import Command, command
from ._output import print_count
from ._sources import SOURCES, load_model


def add(commands: Any) -> None:
    command(commands, "encode", run, _declare, "turn images or features into packed codes", """
        orthohash encode runs/photos holiday/ --out holiday.npy
        orthohash encode runs/photos photos.csv --root /data/photos --out photos.parquet --resume
        orthohash encode runs/fashion fashion-mnist:test --out queries.ibxf""")  # fmt: skip


def _declare(parser: Command) -> None:
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder, or pretrained model")
    parser.add_argument("source", metavar="SOURCE", help=SOURCES)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE",
        help="file of the codes, in the order of the source: .npy, .ibxf (FAISS) or .parquet; images are listed beside it",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on where an earlier call was stopped, if one was")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="samples encoded at a time (%(default)s)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda, cuda:1, ... (%(default)s)")
    parser.add_argument(
        "--on-corrupt", choices=("skip", "fail"), default="skip",
        help="images that cannot be decoded: skip them and list them beside the codes, or fail (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--on-missing", choices=("fail", "skip"), help="files that a manifest or list names and that are not there (fail)"
    )
    parser.add_argument("--split", metavar="NAME", help="one part of the source: train, gallery, query or validation (all)")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="where the paths of a manifest or list start from (its own)")
    parser.add_argument("--path-column", metavar="NAME", help="column of a manifest (path)")
    parser.add_argument("--label-column", metavar="NAME", help="column of a manifest (labels or label)")
    parser.add_argument("--split-column", metavar="NAME", help="column of a manifest (split, if there is one)")


_ON_TROUBLE: dict[str, Literal["skip", "raise"]] = {"skip": "skip", "fail": "raise"}


def run(options: argparse.Namespace) -> None:
    from ..runs.encoding import encode_to, paths_file, skipped_file
    from ..train.trainer import require_device

    require_device(options.device)
    written = encode_to(
        load_model(options.model).to(options.device), options.source, options.out,
        batch_size=options.batch_size, resume=options.resume, split=options.split, progress=options.progress,
        on_error=_ON_TROUBLE[options.on_corrupt], on_missing=_ON_TROUBLE.get(options.on_missing), root=options.root,
        path_column=options.path_column, label_column=options.label_column, split_column=options.split_column,
    )  # fmt: skip
    figures = {
        "codes": str(options.out), "count": written.count, "bits": written.bits, "skipped": len(written.skipped),
        "paths": str(paths_file(options.out)) if paths_file(options.out).exists() else None,
    }  # fmt: skip
    print_count(options, figures)
    if written.skipped and not options.json:
        print(f"{skipped_file(options.out)}: files without a code, {len(written.skipped):,}")
