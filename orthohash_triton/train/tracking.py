"""Logging during training: metrics.jsonl, TensorBoard, Weights & Biases."""

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .._base import formats, run_folder
from .._base.extras import install
from .._base.files import atomic_write
from .._base.reading import reader

_FLUSH_EVERY = 100  # steps; reading a loss synchronises with the device


class _Writer(Protocol):
    """A destination of the log."""

    def log(self, entries: Sequence[tuple[int, dict[str, float]]]) -> None:
        """Write pairs of a step and its values by name. They are stored when this returns."""

    def close(self) -> None: ...


class Tracker:
    """A log of the loss and learning rate of every step, and of the figures of every epoch.

    Args:
        writers: destinations of the log.
        metrics: file with one line of JSON for each epoch, which is rewritten after each epoch; None for no file.
    """

    def __init__(self, writers: Sequence[_Writer], metrics: Path | None) -> None:
        self._writers = writers
        self._metrics = metrics
        self._waiting: list[tuple[int, Tensor, float]] = []

    def step(self, step: int, loss: Tensor, lr: float) -> None:
        """Log one step. The loss is read later, so that the device does not have to wait."""
        if self._writers:
            self._waiting.append((step, loss, lr))
            if len(self._waiting) == _FLUSH_EVERY:
                self.flush()

    def epoch(self, history: Sequence[Any], step: int) -> None:
        """Log the last epoch of `history`, which contains all epochs so far."""
        self.flush()
        latest = asdict(history[-1])
        figures = {f"epoch/{name}": float(value) for name, value in latest.items() if name != "epoch" and value is not None}
        for writer in self._writers:
            writer.log([(step, figures)])
        if self._metrics is not None:
            with atomic_write(self._metrics) as file:
                file.write("".join(json.dumps(asdict(epoch)) + "\n" for epoch in history).encode())

    def flush(self) -> None:
        """Write the pending steps. This is done before each checkpoint, so that no checkpoint is ahead of the log."""
        if not self._waiting:
            return
        losses = torch.stack([loss for _, loss, _ in self._waiting]).tolist()
        entries = [
            (step, {"train/loss": loss, "train/lr": lr}) for (step, _, lr), loss in zip(self._waiting, losses, strict=True)
        ]
        for writer in self._writers:
            writer.log(entries)
        self._waiting.clear()


@contextmanager
def tracking(config: Any, folder: Path | None, stage: str, step: int, *, enabled: bool) -> Iterator[Tracker]:
    """Yield a tracker of `stage`, which starts or is resumed at `step`.

    Stages before the last one are logged to TensorBoard only, in a subfolder.

    Raises:
        ValueError: TensorBoard is asked for without a folder.
        ImportError: tensorboard or wandb is not installed.
    """
    last = stage == "codes"
    writers: list[_Writer] = []
    if enabled and folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        if enabled and config.tensorboard:
            if folder is None:
                raise ValueError("train: tensorboard=True needs a folder to write to; pass folder=...")
            writers.append(_TensorBoard(folder / run_folder.TENSORBOARD / ("" if last else stage), step))
        if enabled and last and config.wandb is not None:
            writers.append(_WandB(config, folder, step))
        yield Tracker(writers, folder / run_folder.EPOCHS if enabled and last and folder is not None else None)
    finally:
        for writer in writers:
            writer.close()


class _TensorBoard:
    """A writer of TensorBoard's event files in `folder`."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                f"logging for TensorBoard needs tensorboard: {install('tensorboard', extra='tensorboard')}"
            ) from error
        if step == 0 and folder.is_dir():  # left by an earlier training in this folder
            for events in folder.glob("events.out.tfevents.*"):
                events.unlink()
        self._writer = SummaryWriter(str(folder), purge_step=step or None)  # hides entries that were logged after the checkpoint

    def log(self, entries: Sequence[tuple[int, dict[str, float]]]) -> None:
        for step, values in entries:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A writer to a run of Weights & Biases. wandb.json stores the id of the run, which a resumed training continues."""

    def __init__(self, config: Any, folder: Path | None, step: int) -> None:
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError as error:
            raise ImportError("logging to Weights & Biases needs wandb: pip install wandb") from error
        self._run = wandb.init(
            project=config.wandb,
            id=_run_id(folder, fresh=step == 0),
            name=None if folder is None else folder.name,
            dir=None if folder is None else str(folder),
            config=asdict(config),
            resume="allow",
        )

    def log(self, entries: Sequence[tuple[int, dict[str, float]]]) -> None:
        for step, values in entries:
            self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def _run_id(folder: Path | None, *, fresh: bool) -> str:
    """Return the id in `folder`'s wandb.json; write a new one if `fresh` or if the file does not exist."""
    if folder is None:
        return secrets.token_hex(4)
    path = folder / run_folder.WANDB
    if fresh or not path.is_file():
        with atomic_write(path) as file:
            file.write(json.dumps({"id": secrets.token_hex(4)}).encode())
    return _read_id(path)


@reader("note of Weights & Biases")
def _read_id(path: Path) -> str:
    return str(formats.read_json(path)["id"])
