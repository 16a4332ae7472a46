"""`orthohash encode`: compute the packed codes of images or features."""

import argparse
from pathlib import Path
from typing import get_args

from .._base.choices import ON_TROUBLE, OnTrouble
from ._command import NOTHING_WRITTEN, Command, CommandParser
from ._output import print_count
from ._sources import SOURCES, load_model


def _add_options(parser: CommandParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("model", type=Path, metavar="RUN", help="run folder or pretrained model")
    parser.add_argument("source", metavar="SOURCE", help=SOURCES)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE",
        help="file for the codes, in the order of the source: .npy, .ibxf (FAISS) or .parquet; the image paths are listed in a "
        "second file next to it",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="continue an earlier call that was stopped, if there was one")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace FILE if it has codes, and discard an earlier call that was stopped"
    )
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="samples per batch (%(default)s)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda, cuda:1, ... (%(default)s)")
    parser.add_argument(
        "--on-corrupt", choices=get_args(OnTrouble), default="skip",
        help="for images that cannot be decoded: skip them and list them in a file next to the codes, or fail (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="number of pixels above which an image is not decoded (178956970)"
    )
    parser.add_argument(
        "--on-missing", choices=get_args(OnTrouble), help="for files that are named in a manifest or list but do not exist (fail)"
    )
    parser.add_argument("--split", metavar="NAME", help="part of the source to encode: train, gallery, query or validation (all)")
    parser.add_argument(
        "--root", type=Path, metavar="FOLDER", help="folder that the paths in a manifest or list are relative to (the file's own)"
    )
    parser.add_argument("--path-column", metavar="NAME", help="column of the paths in a manifest (path)")
    parser.add_argument(
        "--label-column", metavar="NAME", help="column of the labels in a manifest, or an empty name for none (labels or label)"
    )
    parser.add_argument(
        "--split-column",
        metavar="NAME",
        help="column of the split in a manifest, or an empty name for none (split, if it exists)",
    )


def _run(options: argparse.Namespace) -> None:
    """Encode the source and print where the codes are."""
    from ..runs.code_files import paths_file, skipped_file
    from ..runs.encoding import encode_to
    from ..train.devices import require_device

    require_device(options.device)
    limits = {} if options.max_pixels is None else {"max_pixels": options.max_pixels}
    written = encode_to(
        load_model(options.model).to(options.device), options.source, options.out,
        batch_size=options.batch_size, resume=options.resume, overwrite=options.overwrite, split=options.split,
        progress=options.progress,
        on_error=ON_TROUBLE[options.on_corrupt], on_missing=ON_TROUBLE.get(options.on_missing), root=options.root,
        path_column=options.path_column, label_column=options.label_column, split_column=options.split_column, **limits,
    )  # fmt: skip
    figures = {
        "codes": str(options.out), "count": written.count, "bits": written.bits, "skipped": len(written.skipped),
        "paths": str(paths_file(options.out)) if paths_file(options.out).exists() else None,
    }  # fmt: skip
    print_count(options, figures)
    if written.skipped and not options.json:
        print(f"{skipped_file(options.out)}: {len(written.skipped):,} files without a code")


def _after_interrupt(options: argparse.Namespace) -> str:
    """Return how to continue if there are files of an encoding in progress, as `runs.partial_codes` names them."""
    if options.out.with_name(f"{options.out.name}.partial.json").exists():
        return "continue with the same command and --resume"
    return NOTHING_WRITTEN


COMMAND = Command(
    name="encode",
    summary="turn images or features into packed codes",
    examples="""
        orthohash encode runs/photos holiday/ --out holiday.npy
        orthohash encode runs/photos photos.csv --root /data/photos --out photos.parquet --resume
        orthohash encode runs/fashion fashion-mnist:test --out queries.ibxf""",
    add_options=_add_options,
    run=_run,
    help_order=50,
    after_interrupt=_after_interrupt,
)
