"""The OrthoHash recipe (Hoe et al., NeurIPS 2021), as a loop to read in five minutes.

    backbone -> Linear without bias -> [BatchNorm -> cosine codebook loss, fused]; Adam; the backbone at a tenth of the head's
    learning rate; one step decay at 80 % of the steps; the last batch of an epoch dropped when it is not full.

Nothing is selected on the queries: the model of the last step is the result.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codebooks import make_codebook
from ..data import Dataset
from ..nn import OrthoHashLoss
from ..ops import _checks
from ._progress import Advance, progress_bar
from .backbones import BACKBONES, make_backbone
from .model import HashModel


def _option(default: Any, help: str) -> Any:
    """A field of TrainConfig; the command line shows `help`."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run, with `help` for each field in its metadata.

    Two runs of one configuration on one machine with one thread count are bit-identical on
    a CPU; another machine or thread count changes the order of floating-point sums, and so the last bits of the weights.
    """

    dataset: str = _option("fashion-mnist", "fashion-mnist, digits, a folder of images, or a file or folder of features")
    backbone: str = _option("auto", f"auto, {', '.join(BACKBONES)}")
    bits: int = _option(64, "length of the codes, a multiple of 8")
    epochs: int = _option(6, "passes over the training set")
    batch_size: int = _option(256, "samples per step")
    lr: float = _option(1e-2, "learning rate of the hash head (the paper has 1e-4, for a pretrained backbone and 100 epochs)")
    backbone_lr_scale: float = _option(0.1, "the backbone's learning rate as a share of the head's; 0 freezes the backbone")
    weight_decay: float = _option(5e-4, "Adam's L2 penalty on all weights")
    lr_decay: float = _option(0.1, "factor of the learning rate in the last part of the training")
    lr_decay_at: float = _option(0.8, "share of the steps after which the learning rate is multiplied by lr_decay")
    margin: float = _option(0.2, "margin of the loss, on the cosine of the true class")
    scale: float | None = _option(None, "scale of the logits; the default is the square root of the bits")
    codebook: str = _option("auto", "how the classes' codes are made: auto, hadamard, bernoulli, max_hamming")
    flip: bool = _option(True, "random horizontal mirroring of images (wrong for text and digits)")
    crop_padding: int = _option(0, "random shifts of images by up to so many pixels")
    image_size: int = _option(64, "side to which images of a folder are resized")
    query_fraction: float = _option(0.1, "share of every class held out as queries, where the data set has no split of its own")
    seed: int = _option(0, "of the split, the codebook, the initial weights, the order and the augmentation")
    threads: int | None = _option(None, "CPU threads; the default is torch's")
    device: str = _option("cpu", "cpu, cuda, cuda:1, ...")

    def __post_init__(self) -> None:
        for name in ("bits", "epochs", "batch_size", "image_size"):
            _checks.integer("TrainConfig", name, getattr(self, name), minimum=1)
        _checks.integer("TrainConfig", "crop_padding", self.crop_padding, minimum=0)
        if self.threads is not None:
            _checks.integer("TrainConfig", "threads", self.threads, minimum=1)
        if self.bits % 8:
            raise ValueError(f"TrainConfig: bits must be a multiple of 8, so that codes fill whole bytes; got {self.bits}")
        if self.batch_size < 2:
            raise ValueError("TrainConfig: batch_size must be at least 2, as batch norm needs two samples; got 1")
        if not self.lr > 0:
            raise ValueError(f"TrainConfig: lr must be positive; got {self.lr}")
        for name in ("backbone_lr_scale", "weight_decay", "lr_decay", "margin"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"TrainConfig: {name} must not be negative; got {getattr(self, name)}")
        if not 0 < self.lr_decay_at <= 1:
            raise ValueError(f"TrainConfig: lr_decay_at is a share of the steps, in (0, 1]; got {self.lr_decay_at}")


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training set did."""

    epoch: int
    loss: float  # mean over the batches
    bit_accuracy: float  # share of bits that equal the codeword's, on the first training samples, in evaluation mode
    lr: float  # of the head, at the end
    seconds: float


@dataclass(frozen=True)
class Trained:
    model: HashModel
    codebook: Tensor  # int8 +-1 [C, bits]
    history: list[Epoch]


BIT_ACCURACY_SAMPLES = 2000


def train(config: TrainConfig, data: Dataset, *, backbone: nn.Module | None = None, progress: bool = True) -> Trained:
    """Learn codes of `data`. `backbone` (any module, see backbones) stands in for the one that `config` names."""
    steps = len(data) // config.batch_size
    if steps == 0:
        raise ValueError(
            f"train: batch_size {config.batch_size} is more than the {len(data)} training samples; choose a smaller one"
        )
    _require_device(config.device)
    with _seeded(config.seed), _threads(config.threads):
        model = HashModel(backbone or make_backbone(config.backbone, data.sample_shape), config.bits, data.sample_shape)
        model.to(config.device)
        codebook = make_codebook(len(data.class_names), config.bits, method=config.codebook, seed=config.seed)
        criterion = OrthoHashLoss(codebook, scale=config.scale, margin=config.margin).to(config.device)
        optimizer = torch.optim.Adam(_parameter_groups(model, config), lr=config.lr, weight_decay=config.weight_decay, fused=True)
        schedule = _step_decay(optimizer, config, steps * config.epochs)
        inputs, latent = _inputs_and_latent(model, data, config)

        history = []
        for epoch in range(1, config.epochs + 1):
            started = time.perf_counter()
            with progress_bar(f"epoch {epoch}/{config.epochs}", steps, enabled=progress) as advance:
                loss = _one_epoch(model, criterion, optimizer, schedule, inputs, data.labels, latent, config, advance)
            if not math.isfinite(loss):
                raise ValueError(
                    f"train: the loss became {loss} in epoch {epoch}; the data hold NaN, or lr {config.lr} is too high"
                )
            accuracy = _bit_accuracy(model, data, codebook)
            history.append(Epoch(epoch, loss, accuracy, float(schedule.get_last_lr()[0]), time.perf_counter() - started))
        return Trained(model.eval(), codebook, history)


def _one_epoch(
    model: HashModel,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    inputs: Tensor,
    labels: Tensor,
    latent: Callable[[Tensor], Tensor],
    config: TrainConfig,
    advance: Advance,
) -> float:
    """One pass over `inputs` in a random order; the mean loss."""
    model.train()
    batches = torch.randperm(len(inputs)).split(config.batch_size)
    full = [batch for batch in batches if len(batch) == config.batch_size]
    total = torch.zeros((), device=config.device)
    for batch in full:
        loss = criterion(latent(inputs[batch]), labels[batch].to(config.device), model.head.batch_norm)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.detach()
        advance()
    return float(total) / len(full)


def _parameter_groups(model: HashModel, config: TrainConfig) -> list[dict]:
    head = {"params": list(model.head.parameters()), "lr": config.lr}
    backbone = {"params": list(model.backbone.parameters()), "lr": config.lr * config.backbone_lr_scale}
    return [head, backbone] if backbone["lr"] and backbone["params"] else [head]


def _step_decay(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    last_full_step = config.lr_decay_at * steps
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < last_full_step else config.lr_decay)


def _inputs_and_latent(model: HashModel, data: Dataset, config: TrainConfig) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What the epochs run over, and how a batch of it becomes a latent."""
    if config.backbone_lr_scale == 0:
        return model.features(data.inputs), lambda features: model.head.latent(features.to(config.device))
    if not data.is_images:
        return data.inputs, lambda features: model.latent(model.prepare(features))
    return data.inputs, lambda images: model.latent(
        augment(model.prepare(images), flip=config.flip, crop_padding=config.crop_padding)
    )


def augment(images: Tensor, *, flip: bool, crop_padding: int) -> Tensor:
    """Float images [N, C, H, W], each mirrored with probability 1/2 and shifted by up to `crop_padding` pixels."""
    n, _, height, width = images.shape
    if flip:
        mirrored = torch.rand(n, 1, 1, 1).to(images.device) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    if crop_padding:
        padded = F.pad(images, (crop_padding,) * 4)
        top, left = torch.randint(0, 2 * crop_padding + 1, (2, n, 1)).to(images.device)
        rows = top + torch.arange(height, device=images.device)
        columns = left + torch.arange(width, device=images.device)
        sample = torch.arange(n, device=images.device)[:, None, None]
        images = padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images


@torch.no_grad()
def _bit_accuracy(model: HashModel, data: Dataset, codebook: Tensor) -> float:
    model.eval()
    bits = model(model.prepare(data.inputs[:BIT_ACCURACY_SAMPLES])).cpu() > 0
    return float((bits == (codebook[data.labels[:BIT_ACCURACY_SAMPLES]] > 0)).float().mean())


def _require_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's own three ways to say no
        first_line = str(error).partition("\n")[0]
        raise ValueError(
            f"train: device {name!r} cannot be used ({first_line}); choose cpu, or cuda on a machine with a GPU"
        ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initialisation, order and augmentation follow `seed`; the caller's random state is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
