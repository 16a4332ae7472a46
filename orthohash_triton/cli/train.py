"""`orthohash train`: train a model, index its gallery and evaluate it."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .._base import run_folder
from ._command import Command, CommandParser
from ._config_options import add_config_options, add_method_options, config_from, title_of
from ._output import cell, print_figures, print_json, print_table, title_of_sets

if TYPE_CHECKING:
    from ..train import Epoch, TrainConfig


def _add_options(parser: CommandParser) -> None:
    """Add the options of the command to its parser."""
    resumed = parser.peek("--resume")
    parser.add_argument("--out", required=resumed is None, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="continue the training that was stopped in this run folder, with its settings"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the finished or unfinished run that is in the folder")
    add_config_options(parser)
    if resumed is not None:
        _take_settings(parser, Path(resumed))
    add_method_options(parser)


def _take_settings(parser: CommandParser, folder: Path) -> None:
    """Use the settings of the checkpoint in `folder` as defaults. Conflicting options are rejected later, by the training."""
    from ..train.checkpoint import checkpoint_settings

    saved = checkpoint_settings(folder)
    own = saved.pop("options")
    parser.settings = {**saved, **own, **parser.settings}
    if parser.get_default("config") is None:
        parser.set_defaults(config=folder / run_folder.CHECKPOINT)


def _run(options: argparse.Namespace) -> None:
    """Train, save and evaluate a run, and print its figures."""
    from ..train.checkpoint import owning_run
    from ..train.distributed import leads_torchrun

    config = config_from(options, method_options=True)
    folder = options.resume or options.out
    if options.resume and options.out not in (None, options.resume):
        raise ValueError(f"--resume {options.resume} continues in that folder; remove --out")
    with owning_run(folder if leads_torchrun() else None):
        _train_into(folder, config, options)


def _train_into(folder: Path, config: "TrainConfig", options: argparse.Namespace) -> None:
    """Train, save and evaluate a run in `folder`, which belongs to this process, and print its figures."""
    from ..runs import save_run
    from ..runs.evaluation import evaluate_run
    from ..runs.run import make_way
    from ..train import train
    from ..train.distributed import torchrun

    if not options.resume:
        make_way(folder, overwrite=options.overwrite)
    with torchrun(config.device) as is_leader:
        splits = config.load_splits()
        config = _with_fitting_batch_size(config, len(splits.train), verbose=is_leader)
        trained = train(
            config, splits.train, folder=folder, resume=options.resume is not None, progress=options.progress and is_leader
        )
    if not is_leader:
        return
    run = save_run(folder, config, trained, splits.gallery, skipped=splits.skipped)
    figures = evaluate_run(run, splits.query) if splits.query.is_labelled else None
    if options.json:
        print_json({"run": str(folder), "epochs": [asdict(epoch) for epoch in trained.history], "evaluation": figures})
        return
    if trained.history:
        _print_history(trained.history)
    if figures is None:
        print(f"{splits.query.name} has no labels: the run was not evaluated")
    else:
        print_figures([{"method": title_of(config), **figures}], title_of_sets(splits.query, splits.gallery))
    print(f"run folder: {folder}")


def _print_history(history: "Sequence[Epoch]") -> None:
    columns = ["epoch", "loss", "bit accuracy", "validation mAP", "learning rate", "seconds"]
    print_table("Training", columns, [
        [str(e.epoch), f"{e.loss:.4f}", cell(e.bit_accuracy, ".3f"), cell(e.validation_map, ".4f"), f"{e.lr:.2g}",
         f"{e.seconds:.1f}"] for e in history
    ])  # fmt: skip


def _with_fitting_batch_size(config: "TrainConfig", samples: int, *, verbose: bool) -> "TrainConfig":
    """Return `config` with a batch size that `samples` can fill, unless the user set another than the default."""
    if config.batch_size != type(config).batch_size or samples >= config.batch_size:
        return config
    size = max(2, samples // 4)
    if verbose:
        print(f"batch size {size}, because there are only {samples} training samples; --batch-size sets another", file=sys.stderr)
    return replace(config, batch_size=size)


def _after_interrupt(options: argparse.Namespace) -> str:
    """Return how to continue from the files in the run folder."""
    folder = options.resume or options.out
    if (folder / run_folder.CHECKPOINT).is_file():
        return f"continue with: orthohash train --resume {folder}"
    if (folder / run_folder.CONFIG).is_file():
        return f"{folder} holds a finished run; evaluate it with: orthohash evaluate {folder}"
    return "no checkpoint was written yet; start again with the same command"


COMMAND = Command(
    name="train",
    summary="train a hashing network and index its gallery",
    examples="""
        orthohash train --bits 64 --out runs/fashion
        orthohash train --dataset photos/ --backbone efficientnet-lite0 --backbone-lr-scale 0 --epochs 20 --out runs/photos
        orthohash train --dataset features.npz --bits 32 --out runs/features
        orthohash train --method dhn --quantization-weight 0.1 --rotate itq --out runs/dhn
        orthohash train --resume runs/photos              # after it was stopped
        torchrun --nproc-per-node 2 -m orthohash_triton train --device cuda --out runs/two-gpus
        orthohash train --method hashnet --help""",
    add_options=_add_options,
    run=_run,
    help_order=10,
    after_interrupt=_after_interrupt,
)
