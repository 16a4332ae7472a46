"""The loop: from epoch to epoch, from batch to batch, and from a batch to its loss."""

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
from .augmentation import make_augmentation
from .checkpoint import Checkpoints
from .config import TrainConfig
from .distributed import Processes
from .optimization import Stepper, autocast
from .randomness import random_state, set_random_state
from .tracking import Tracker
from .validation import Validation, sample_of

BIT_ACCURACY_SAMPLES = 2000


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training set did."""

    epoch: int
    loss: float  # mean over the batches
    # Share of bits that equal the codeword's, on the first training samples, in evaluation mode; None without class codes.
    bit_accuracy: float | None
    validation_map: float | None  # mAP@all of the samples held out
    lr: float  # of the head, at the end
    seconds: float


@dataclass(frozen=True)
class Setting:
    """What all stages of a training share."""

    config: TrainConfig
    processes: Processes
    checkpoints: Checkpoints
    folder: Path | None
    progress: bool


class Loop:
    """One stage of a training, from epoch to epoch and from batch to batch."""

    parallel: nn.Module  # network, shared by the processes
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
        self.batches = len(data) // config.batch_size  # of an epoch
        self.steps = math.ceil(self.batches / config.accumulate)  # of an epoch
        self.network = _Network(model, objective, self.data, config, self.processes)
        self.stepper = Stepper(config, model, _parameter_groups(model, objective, config, lr), lr, self.steps * config.epochs)
        self.history: list[Epoch] = []
        self.batch = 0  # of this epoch, those done
        self.total = torch.zeros((), device=self.processes.device)  # loss of those
        self.seconds = 0.0  # time they took
        self.random_at_start = random_state(self.processes.device)  # of this epoch, when its order was drawn

    def one_epoch(self, advance: Advance) -> None:
        """What is left of a pass over the data in a random order, and what it came to."""
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
        """One batch; a step where `accumulate` of them, or the last of the epoch, have come together."""
        in_group = self.batch % self.config.accumulate
        together = min(self.config.accumulate, self.batches - self.batch + in_group)
        last = in_group + 1 == together
        lr = self.stepper.lr
        self.objective.begin_step(self.position, self.config.epochs * self.batches)
        with self._gradients_stay_here(not last):
            loss = self.parallel(inputs, rows, self.position)
            self.stepper.backward(loss / together)
        if last:
            self.stepper.step()
        loss = self.processes.mean(loss.detach())
        if self.data.is_multilabel and not self.data.labels[rows].any():  # a mean over no row at all; its gradient is zero
            loss = torch.where(loss.isnan(), 0.0, loss)
        self.tracker.step(self.position, loss, lr)
        self.total += loss
        self.batch += 1

    def _close_epoch(self, started: float) -> None:
        loss = float(self.total) / self.batches
        if not math.isfinite(loss):
            raise ValueError(
                f"train: the loss became {loss} in epoch {len(self.history) + 1}; the data hold NaN, "
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
            validation.keep(score, model)
        seconds = time.perf_counter() - started
        self.history.append(Epoch(len(self.history) + 1, loss, accuracy, score, self.stepper.lr, seconds))
        self.batch, self.seconds = 0, 0.0
        self.total.zero_()
        self.tracker.epoch(self.history, self.position)
        self._save()

    @property
    def title(self) -> str:
        epoch = f"epoch {min(len(self.history) + 1, self.config.epochs)}/{self.config.epochs}"
        return epoch if self.stage == "codes" else f"{self.stage}, {epoch}"

    @property
    def position(self) -> int:
        """Batches done since the training began."""
        return len(self.history) * self.batches + self.batch

    @property
    def finished(self) -> bool:
        patience = self.config.patience
        out_of_patience = self.validation is not None and patience is not None and self.validation.epochs_since_best >= patience
        return len(self.history) == self.config.epochs or out_of_patience

    def _order(self) -> list[Tensor]:
        """The positions of the samples in a random order, in full batches; the rest is dropped."""
        device, now = self.processes.device, None
        if self.batch:  # resumed in the middle of an epoch, whose order is drawn again
            now = random_state(device)
            set_random_state(self.random_at_start, device)
        else:
            self.random_at_start = random_state(device)
        batches = torch.randperm(len(self.data)).split(self.config.batch_size)[: self.batches]
        if now:
            set_random_state(now, device)
        return list(batches)

    def _gradients_stay_here(self, yes: bool) -> Any:
        """Gradients that later batches add to need not be exchanged yet."""
        return self.parallel.no_sync() if yes and self.processes.count > 1 else nullcontext()  # type: ignore[operator]

    def _checkpoint_is_due(self) -> bool:
        step, between = divmod(self.batch, self.config.accumulate)
        every = self.config.checkpoint_every
        return every > 0 and between == 0 and step % every == 0 and self.batch < self.batches

    def _save(self) -> None:
        self.tracker.flush()
        self.checkpoints.save(self.stage, self.state_dict)

    def state_dict(self) -> dict[str, Any]:
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


class _Network(nn.Module):
    """From a batch to its loss: everything that is trained, as the one module that processes can share."""

    def __init__(self, model: HashModel, objective: Objective, data: Dataset, config: TrainConfig, processes: Processes) -> None:
        super().__init__()
        self.backbone = None if config.backbone_lr_scale == 0 else model.backbone  # None where the data are its features
        self.head, self.objective = model.head, objective
        self.prepare, self.labels, self.config, self.processes = model.prepare, data.labels, config, processes
        self.augmentation = make_augmentation(
            config.augment if data.is_images else "none",
            flip=config.flip, crop_padding=config.crop_padding, sample_shape=data.sample_shape,
        )  # fmt: skip
        # Else every process computes the loss of the whole batch, from the latents of all of them.
        self.loss_of_a_share = objective.per_sample and not data.is_multilabel

    @property
    def norms_of_the_whole_batch(self) -> tuple[nn.Module | None, ...]:
        """Batch norms that see the rows of all processes anyway."""
        return () if self.loss_of_a_share else (self.head.batch_norm,)

    def forward(self, inputs: Tensor, rows: Tensor, position: int) -> Tensor:
        """`inputs` are this process's samples of those at `rows` [B] of the training set."""
        processes, count = self.processes, len(rows)
        mine = processes.share(count)
        samples = self.augmentation(self.prepare(inputs), count, mine)
        with processes.own_randomness(self.config.seed, position), autocast(self.config, processes.device):
            latent = self.head.latent(samples if self.backbone is None else self.backbone(samples))
        latent = latent.float()
        if self.loss_of_a_share:
            rows = rows[mine]
            weight = len(rows) * processes.count / count  # gradients are averaged over the processes
        else:
            latent, weight = processes.whole(latent, count), 1.0
        return self.objective(latent, self.labels[rows].to(latent.device), rows, self.head) * weight


def _parameter_groups(model: HashModel, objective: Objective, config: TrainConfig, lr: float) -> list[dict]:
    """Return the optimizer's groups: the head, the backbone at its share of `lr`, and the objective's own parameters at `lr`."""
    head = {"params": list(model.head.parameters()), "lr": lr}
    backbone = {"params": list(model.backbone.parameters()), "lr": lr * config.backbone_lr_scale}
    own = {"params": [parameter for parameter in objective.parameters() if parameter.requires_grad], "lr": lr}
    optional = [backbone] if backbone["lr"] else []
    return [head, *(group for group in (*optional, own) if group["params"])]


def _bit_accuracy(model: HashModel, data: Dataset, codebook: Tensor | None) -> float | None:
    if codebook is None or data.is_multilabel:
        return None
    some = sample_of(data, BIT_ACCURACY_SAMPLES)
    bits = model.continuous_codes(some.inputs) > 0
    return float((bits == (codebook.cpu()[some.labels] > 0)).float().mean())


def load_weights(module: nn.Module, state: dict[str, Any]) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"train: the checkpoint is of another {type(module).__name__}; give the backbone of the beginning: {error}"
        ) from error
