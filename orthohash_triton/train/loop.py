"""The training loop: epochs, batches, validation, and the state that a checkpoint stores."""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._base.progress import Advance
from ..data import Dataset
from ..methods import Objective
from ..models.model import HashModel
from .checkpoint import Checkpoints
from .config import TrainConfig
from .distributed import Processes
from .network import LossNetwork, parameter_groups
from .optimization import Stepper
from .randomness import random_state, set_random_state
from .tracking import Tracker
from .validation import Validation, sample_of

BIT_ACCURACY_SAMPLES = 2000
"""Largest number of training samples that the bit accuracy is computed on."""


@dataclass(frozen=True)
class Epoch:
    """The figures of one pass over the training set.

    Attributes:
        epoch: number of the epoch, from 1.
        loss: mean loss of the batches.
        bit_accuracy: share of bits that equal those of the codeword, on a sample of the training set in evaluation mode; None
            for methods without class codes.
        validation_map: mAP@all of the held-out samples; None without validation.
        lr: learning rate of the head at the end of the epoch.
        seconds: duration.
    """

    epoch: int
    loss: float
    bit_accuracy: float | None
    validation_map: float | None
    lr: float
    seconds: float


@dataclass(frozen=True)
class Setting:
    """The objects that all stages of a training share."""

    config: TrainConfig
    processes: Processes
    checkpoints: Checkpoints
    folder: Path | None
    progress: bool


class Loop:
    """One stage of a training.

    Args:
        objective: computes the loss.
        lr: learning rate of the head.
        validation: computes the mAP of each epoch; None without held-out samples.
        stage: name of the stage, by which its checkpoint is found.
    """

    parallel: nn.Module  # `network`, with gradients shared between the processes
    tracker: Tracker

    def __init__(
        self,
        setting: Setting,
        model: HashModel,
        objective: Objective,
        data: Dataset,
        lr: float,
        validation: Validation | None,
        stage: str,
    ) -> None:
        config = setting.config
        self.setting = setting
        self.config, self.processes, self.checkpoints, self.stage = config, setting.processes, setting.checkpoints, stage
        self.model, self.objective, self.validation = model, objective, validation
        self.samples = data
        frozen = config.backbone_lr_scale == 0
        self.data = replace(data, inputs=model.features(data.inputs), paths=None) if frozen else data
        self.batches = len(data) // config.batch_size  # per epoch
        self.steps = math.ceil(self.batches / config.accumulate)  # per epoch
        self.network = LossNetwork(model, objective, self.data, config, self.processes)
        self.stepper = Stepper(config, model, parameter_groups(model, objective, config, lr), lr, self.steps * config.epochs)
        self.history: list[Epoch] = []
        self.batch = 0  # finished batches of this epoch
        self.total = torch.zeros((), device=self.processes.device)  # sum of their losses
        self.seconds = 0.0  # their duration
        self.random_at_start = random_state(self.processes.device)  # when the order of this epoch was drawn

    def one_epoch(self, advance: Advance) -> None:
        """Train on the remaining batches of the current epoch, in random order, and validate."""
        started = time.perf_counter() - self.seconds
        self.network.train()
        order = self._order()
        left = order[self.batch :]
        mine = self.processes.share(self.config.batch_size)
        for rows, inputs in zip(left, self.data.batches(rows[mine] for rows in left), strict=True):
            self._learn_from(inputs, rows)
            advance(self.title)
            self.seconds = time.perf_counter() - started
            if self._checkpoint_is_due():
                self._save()
        self._close_epoch(started)

    def _learn_from(self, inputs: Tensor, rows: Tensor) -> None:
        """Add the gradients of one batch. The last of `accumulate` batches, or of the epoch, is followed by an optimiser step."""
        in_group = self.batch % self.config.accumulate
        together = min(self.config.accumulate, self.batches - self.batch + in_group)  # the last group may be smaller
        last = in_group + 1 == together
        lr = self.stepper.lr
        self.objective.begin_step(self.position, self.config.epochs * self.batches)
        with self._gradients_stay_here(not last):
            loss = self.parallel(inputs, rows, self.position)
            self.stepper.backward(loss / together)
        if last:
            self.stepper.step()
        loss = self.processes.mean(loss.detach())
        if self.data.is_multilabel and not self.data.labels[rows].any():  # the mean over no row is NaN; its gradient is zero
            loss = torch.where(loss.isnan(), 0.0, loss)
        self.tracker.step(self.position, loss, lr)
        self.total += loss
        self.batch += 1

    def _close_epoch(self, started: float) -> None:
        """Compute the figures of the finished epoch, log them, and write a checkpoint.

        Raises:
            ValueError: the mean loss is not finite.
        """
        loss = float(self.total) / self.batches
        if not math.isfinite(loss):
            raise ValueError(
                f"train: the loss became {loss} in epoch {len(self.history) + 1}; the data contain NaN, "
                f"or lr {self.stepper.optimizer.defaults['lr']} is too high"
            )
        model, validation = self.stepper.result, self.validation
        accuracy, score = self.processes.agreed(
            lambda: (
                _bit_accuracy(model, self.samples, self.objective.class_codes()),
                validation.judge(model) if validation else None,
            )
        )
        if validation and score is not None:
            validation.keep(score, model, self.objective)
        seconds = time.perf_counter() - started
        self.history.append(Epoch(len(self.history) + 1, loss, accuracy, score, self.stepper.lr, seconds))
        self.batch, self.seconds = 0, 0.0
        self.total.zero_()
        self.tracker.epoch(self.history, self.position)
        self._save()

    @property
    def title(self) -> str:
        """Text of the progress bar."""
        epoch = f"epoch {min(len(self.history) + 1, self.config.epochs)}/{self.config.epochs}"
        return epoch if self.stage == "codes" else f"{self.stage}, {epoch}"

    @property
    def position(self) -> int:
        """Number of finished batches of all epochs."""
        return len(self.history) * self.batches + self.batch

    @property
    def finished(self) -> bool:
        """Whether all epochs are finished, or the validation has not improved for `patience` epochs."""
        patience = self.config.patience
        out_of_patience = self.validation is not None and patience is not None and self.validation.epochs_since_best >= patience
        return len(self.history) == self.config.epochs or out_of_patience

    def _order(self) -> list[Tensor]:
        """Return the positions of the samples in random order, in full batches. An incomplete batch is dropped."""
        device, now = self.processes.device, None
        if self.batch:  # resumed within an epoch: its order is drawn again
            now = random_state(device)
            set_random_state(self.random_at_start, device)
        else:
            self.random_at_start = random_state(device)
        batches = torch.randperm(len(self.data)).split(self.config.batch_size)[: self.batches]
        if now:
            set_random_state(now, device)
        return list(batches)

    def _gradients_stay_here(self, yes: bool) -> Any:
        """Return a context in which processes do not exchange gradients if `yes`, because later batches add to them."""
        return self.parallel.no_sync() if yes and self.processes.count > 1 else nullcontext()  # type: ignore[operator]

    def _checkpoint_is_due(self) -> bool:
        """Return whether `checkpoint_every` steps of the epoch have passed. The end of an epoch has its own checkpoint."""
        step, between = divmod(self.batch, self.config.accumulate)
        every = self.config.checkpoint_every
        return every > 0 and between == 0 and step % every == 0 and self.batch < self.batches

    def _save(self) -> None:
        self.tracker.flush()
        self.checkpoints.save(self.stage, self.state_dict)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a checkpoint stores of this stage."""
        return {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "stepper": self.stepper.state_dict(),
            "validation": self.validation.state_dict() if self.validation else None,
            "history": [asdict(epoch) for epoch in self.history],
            "batch": self.batch,
            "total": self.total,
            "seconds": self.seconds,
            "random_at_start": self.random_at_start,
            "random": random_state(self.processes.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, including the random states."""
        load_weights(self.model, state["model"])
        load_weights(self.objective, state["objective"])
        self.stepper.load_state_dict(state["stepper"])
        if self.validation:
            self.validation.load_state_dict(state["validation"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.batch, self.seconds = state["batch"], state["seconds"]
        self.total.copy_(state["total"])
        self.random_at_start = state["random_at_start"]
        set_random_state(state["random"], self.processes.device)


def _bit_accuracy(model: HashModel, data: Dataset, codebook: Tensor | None) -> float | None:
    """Return the share of bits that equal those of the class's codeword; None without a codebook or with several labels."""
    if codebook is None or data.is_multilabel:
        return None
    some = sample_of(data, BIT_ACCURACY_SAMPLES)
    bits = model.continuous_codes(some.inputs) > 0
    return float((bits == (codebook.cpu()[some.labels] > 0)).float().mean())


def load_weights(module: nn.Module, state: dict[str, Any]) -> None:
    """Load `state` from a checkpoint into `module`; raise ValueError if it belongs to another module."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"train: the checkpoint belongs to another {type(module).__name__}; pass the backbone of the first start: {error}"
        ) from error
