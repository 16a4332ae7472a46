"""orthohash train."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ._command import Command, command
from ._config_options import add_config_options, add_method_options, config_from, title_of
from ._output import cell, print_figures, print_json, print_table
from ._sources import splits_of


def add(commands: Any) -> None:
    command(commands, "train", run, _declare, "train a hashing network and index its gallery", """
        orthohash train --bits 64 --out runs/fashion
        orthohash train --dataset photos/ --backbone efficientnet-lite0 --backbone-lr-scale 0 --epochs 20 --out runs/photos
        orthohash train --dataset features.npz --bits 32 --out runs/features
        orthohash train --method dhn --quantization-weight 0.1 --rotate itq --out runs/dhn
        orthohash train --resume runs/photos              # after it was stopped
        torchrun --nproc-per-node 2 -m orthohash_triton train --device cuda --out runs/two-gpus
        orthohash train --method hashnet --help""")  # fmt: skip


def _declare(parser: Command) -> None:
    resumed = _resumed(parser)
    parser.add_argument("--out", required=resumed is None, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with the training that was stopped in this run folder, as it was begun"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run, finished or not, that is in the folder")
    add_config_options(parser)
    if resumed is not None:
        _take_settings(parser, resumed)
    add_method_options(parser)


def _resumed(parser: Command) -> Path | None:
    """The run folder that the arguments ask to resume."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--resume", type=Path, nargs="?")
    return reader.parse_known_args(parser.arguments)[0].resume


def _take_settings(parser: Command, folder: Path) -> None:
    """Those that the training was begun with; what the arguments and a configuration file say otherwise is found out later."""
    from ..train.checkpoint import NAME, checkpoint_settings

    begun = checkpoint_settings(folder)
    own = begun.pop("options")
    parser.settings = {**begun, **own, **parser.settings}
    if parser.get_default("config") is None:
        parser.set_defaults(config=folder / NAME)


def run(options: argparse.Namespace) -> None:
    from ..data.images import SKIPPED_FILE, write_skipped
    from ..runs import save_run
    from ..runs.evaluation import evaluate_run
    from ..runs.run import make_way
    from ..train import train
    from ..train.distributed import torchrun

    config = config_from(options, method_options=True)
    folder = options.resume or options.out
    if options.resume and options.out not in (None, options.resume):
        raise ValueError(f"--resume {options.resume} goes on in that folder; leave --out away")
    if not options.resume:
        make_way(folder, overwrite=options.overwrite)
    with torchrun(config.device) as leads:
        splits = splits_of(config)
        config = _fitting(config, len(splits.train), told=leads)
        with _told_how_to_go_on(folder):
            trained = train(
                config, splits.train, folder=folder, resume=options.resume is not None, progress=options.progress and leads
            )
    if not leads:
        return
    run = save_run(folder, config, trained, splits.gallery)
    write_skipped(folder / SKIPPED_FILE, splits.skipped)
    figures = evaluate_run(run, splits.query) if splits.query.is_labelled else None
    if options.json:
        print_json({"run": str(folder), "epochs": [asdict(epoch) for epoch in trained.history], "evaluation": figures})
        return
    if trained.history:
        columns = ["epoch", "loss", "bits as the codeword's", "validation mAP", "learning rate", "seconds"]
        print_table("Training", columns, [
            [str(e.epoch), f"{e.loss:.4f}", cell(e.bit_accuracy, ".3f"), cell(e.validation_map, ".4f"), f"{e.lr:.2g}",
             f"{e.seconds:.1f}"] for e in trained.history
        ])  # fmt: skip
    if figures is None:
        print(f"{splits.query.name} has no labels, by which answers could be judged right: not evaluated")
    else:
        print_figures([{"method": title_of(config), **figures}], f"{splits.query.name} against {splits.gallery.name}")
    print(f"run folder: {folder}")


def _fitting(config: Any, samples: int, *, told: bool) -> Any:
    """The settings with a batch that few samples fill, where nobody asked for another."""
    if config.batch_size != type(config).batch_size or samples >= config.batch_size:
        return config
    size = max(2, samples // 4)
    if told:
        print(f"batch size {size}, as there are {samples} training samples only; --batch-size sets another", file=sys.stderr)
    return replace(config, batch_size=size)


@contextlib.contextmanager
def _told_how_to_go_on(folder: Path) -> Iterator[None]:
    """Who stops a training is told how it goes on."""
    from ..train.checkpoint import NAME

    try:
        yield
    except KeyboardInterrupt:
        if (folder / NAME).is_file():
            print(f"go on with: orthohash train --resume {folder}", file=sys.stderr)
        raise
