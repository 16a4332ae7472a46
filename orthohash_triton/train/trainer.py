"""One recipe for every method, as a loop to read in five minutes.

    backbone -> hash head -> the method's objective; Adam; the backbone at a tenth of the head's learning rate; one step decay at
    80 % of the steps; the last batch of an epoch dropped when it is not full.

It is OrthoHash's recipe (Hoe et al., NeurIPS 2021). Nothing is selected on the queries: the result is the model of the last step,
or, with a validation share, of the epoch with the best mAP on samples held out of the training set.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import methods
from ..data import NAMED, Dataset, split_validation
from ..methods import Objective, option
from ..ops import _checks
from ..rotations import Rotation, fit_householder, fit_itq
from ._progress import Advance, progress_bar
from .backbones import BACKBONES, FROM_SCRATCH, make_backbone
from .model import HashModel
from .validation import Validation

ROTATIONS: dict[str, Callable[..., Rotation]] = {"itq": fit_itq, "householder": fit_householder}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run, with `help` for each field in its metadata.

    Two runs of one configuration on one machine with one thread count are bit-identical on
    a CPU; another machine or thread count changes the order of floating-point sums, and so the last bits of the weights.
    """

    dataset: str = option("fashion-mnist", f"{', '.join(NAMED)}, a folder of images, or a file or folder of features")
    method: str = option("orthohash", "one of `orthohash methods`")
    options: dict[str, Any] = field(default_factory=dict)  # the method's own, by name
    rotate: str = option("none", f"rotation fitted to the codes after the training: none, {', '.join(ROTATIONS)}")
    backbone: str = option("auto", f"auto, {', '.join(BACKBONES)}")
    bits: int = option(64, "length of the codes, a multiple of 8")
    epochs: int = option(6, "passes over the training set")
    batch_size: int = option(256, "samples per step")
    lr: float | None = option(None, "learning rate of the hash head; the default is the method's")
    backbone_lr_scale: float = option(0.1, "the backbone's learning rate as a share of the head's; 0 freezes the backbone")
    weight_decay: float = option(5e-4, "Adam's L2 penalty on all weights")
    lr_decay: float = option(0.1, "factor of the learning rate in the last part of the training")
    lr_decay_at: float = option(0.8, "share of the steps after which the learning rate is multiplied by lr_decay")
    validation: float = option(0.0, "share of the training set held out to choose the best epoch; 0 takes the last")
    flip: bool = option(True, "random horizontal mirroring of images (wrong for text and digits)")
    crop_padding: int = option(0, "random shifts of images by up to so many pixels")
    image_size: int = option(64, "side to which images of a folder are resized")
    query_fraction: float = option(0.1, "share of every class held out as queries, where the data set has no split of its own")
    seed: int = option(0, "of the split, the codebook, the initial weights, the order and the augmentation")
    threads: int | None = option(None, "CPU threads; the default is torch's")
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")

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
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"TrainConfig: lr must be positive; got {self.lr}")
        for name in ("backbone_lr_scale", "weight_decay", "lr_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"TrainConfig: {name} must not be negative; got {getattr(self, name)}")
        if not 0 < self.lr_decay_at <= 1:
            raise ValueError(f"TrainConfig: lr_decay_at is a share of the steps, in (0, 1]; got {self.lr_decay_at}")
        if not 0 <= self.validation < 1:
            raise ValueError(f"TrainConfig: validation is a share of the training set, in [0, 1); got {self.validation}")
        _checks.choice("TrainConfig", "rotate", self.rotate, ("none", *ROTATIONS))
        methods.get(self.method).make_options(self.options)


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
class Trained:
    model: HashModel
    codebook: Tensor | None  # int8 +-1 [C, bits], of methods that have one
    history: list[Epoch]  # empty for methods that are fitted
    objective: Objective | None


BIT_ACCURACY_SAMPLES = 2000
CLASSIFIER_LR = 1e-3
ROTATION_SAMPLES = 10_000  # for K^2 / 2 unknowns


def train(config: TrainConfig, data: Dataset, *, backbone: nn.Module | None = None, progress: bool = True) -> Trained:
    """Learn codes of `data`. `backbone` (any module, see backbones) stands in for the one that `config` names."""
    _require_device(config.device)
    with _seeded(config.seed), use_threads(config.threads):
        make = _backbone_maker(config, data, backbone)
        trained = (_learn if methods.get(config.method).learned else _fit)(config, data, make, progress)
        if config.rotate != "none":
            rotate(trained.model, data.inputs, config.rotate, seed=config.seed)
        return trained


def rotate(model: HashModel, inputs: Tensor, kind: str, *, seed: int = 0) -> None:
    """Fit a rotation ("itq" or "householder") to the continuous codes of `inputs` and fold it into the model's head."""
    model.head = model.head.rotated(fit_rotation(model.continuous_codes(inputs), kind, seed=seed).matrix)


def fit_rotation(codes: Tensor, kind: str, *, seed: int = 0) -> Rotation:
    """The rotation `kind` for continuous codes [N, K]; of more than ROTATION_SAMPLES a random part is enough."""
    if len(codes) > ROTATION_SAMPLES:
        codes = codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))[:ROTATION_SAMPLES]]
    return ROTATIONS[kind](codes, seed=seed)


def _backbone_maker(config: TrainConfig, data: Dataset, backbone: nn.Module | None) -> Callable[[], nn.Module]:
    """Makes a backbone as it is before training: one of its own for each network that a method trains."""
    if backbone is None:
        learned = methods.get(config.method).learned
        return lambda: make_backbone(config.backbone, data.sample_shape, learned=learned)
    first, spare = [backbone], copy.deepcopy(backbone)
    return lambda: first.pop() if first else copy.deepcopy(spare)


def _fit(config: TrainConfig, data: Dataset, make: Callable[[], nn.Module], progress: bool) -> Trained:
    """Of a method without a gradient: a projection of the features of the backbone as it comes."""
    method = methods.get(config.method)
    if config.backbone in FROM_SCRATCH:
        raise ValueError(
            f"train: method {method.name!r} trains no backbone, and {config.backbone!r} knows nothing before it is trained; "
            'use "auto", which takes the samples as they are, or a pre-trained one'
        )
    model = HashModel(make(), config.bits, data.sample_shape, batch_norm=False).to(config.device)
    model.head = method.fit(model.features(data.inputs), config.bits, config.seed).to(config.device)  # type: ignore[misc]
    return Trained(model.eval(), None, [], None)


def _learn(config: TrainConfig, data: Dataset, make: Callable[[], nn.Module], progress: bool) -> Trained:
    method = methods.get(config.method)
    validation = None
    if config.validation:
        data, held_out = split_validation(data, config.validation, config.seed)
        validation = Validation(data, held_out)
    _require_a_batch(config, data)
    model = HashModel(make(), config.bits, data.sample_shape, batch_norm=method.batch_norm).to(config.device)
    task = methods.Task(
        labels=data.labels,
        num_classes=len(data.class_names),
        bits=config.bits,
        seed=config.seed,
        class_distance=data.class_distance,
        class_logits=lambda: _class_logits(config, data, make(), progress),
    )
    objective = method.objective(task, method.make_options(config.options)).to(config.device)  # type: ignore[misc]
    history = _optimise(config, model, objective, data, config.lr or method.lr, validation, "epoch", progress)
    if validation:
        model.load_state_dict(validation.best)
    codebook = objective.class_codes()
    return Trained(model.eval(), None if codebook is None else codebook.cpu(), history, objective)


def _class_logits(config: TrainConfig, data: Dataset, backbone: nn.Module, progress: bool) -> Tensor:
    """Logits float32 [N, C] of the training set, from a classifier trained like a method, for as many epochs."""
    model = HashModel(backbone, len(data.class_names), data.sample_shape, batch_norm=False).to(config.device)
    _optimise(config, model, _Classification(), data, CLASSIFIER_LR, None, "classifier, epoch", progress)
    return model.continuous_codes(data.inputs)


class _Classification(Objective):
    """Softmax cross entropy; over multi-hot labels the positives share the target equally."""

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: nn.Module) -> Tensor:
        if target.ndim == 2:
            target = target / target.sum(1, keepdim=True).clamp(min=1)
        return F.cross_entropy(latent, target)


def _optimise(
    config: TrainConfig,
    model: HashModel,
    objective: Objective,
    data: Dataset,
    lr: float,
    validation: Validation | None,
    name: str,
    progress: bool,
) -> list[Epoch]:
    """Train `model` by the gradient of `objective`, and tell what each epoch did."""
    steps = len(data) // config.batch_size
    optimizer = torch.optim.Adam(_parameter_groups(model, config, lr), lr=lr, weight_decay=config.weight_decay, fused=True)
    loop = _Loop(config, model, objective, optimizer, _step_decay(optimizer, config, steps * config.epochs), steps)
    inputs, latent = _inputs_and_latent(model, data, config)
    history = []
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        with progress_bar(f"{name} {epoch}/{config.epochs}", steps, enabled=progress) as advance:
            loss = loop.one_epoch(epoch, inputs, data.labels, latent, advance)
        if not math.isfinite(loss):
            raise ValueError(f"train: the loss became {loss} in epoch {epoch}; the data hold NaN, or lr {lr} is too high")
        accuracy = _bit_accuracy(model, data, objective.class_codes())
        found = validation.judge(model) if validation else None
        rate = float(loop.schedule.get_last_lr()[0])
        history.append(Epoch(epoch, loss, accuracy, found, rate, time.perf_counter() - started))
    return history


@dataclass
class _Loop:
    """What stays the same from epoch to epoch."""

    config: TrainConfig
    model: HashModel
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    steps: int  # of an epoch

    def one_epoch(
        self, epoch: int, inputs: Tensor, labels: Tensor, latent: Callable[[Tensor], Tensor], advance: Advance
    ) -> float:
        """One pass over `inputs` in a random order; the mean loss."""
        self.model.train()
        self.objective.train()
        total = torch.zeros((), device=self.config.device)
        for i, rows in enumerate(_shuffled_batches(len(inputs), self.config.batch_size)):
            self.objective.begin_step((epoch - 1) * self.steps + i, self.config.epochs * self.steps)
            loss = self.objective(latent(inputs[rows]), labels[rows].to(self.config.device), rows, self.model.head)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach()
            advance()
        return float(total) / self.steps


def _shuffled_batches(count: int, batch_size: int) -> list[Tensor]:
    """The positions [0, count) in a random order, in full batches; the rest is dropped."""
    return [batch for batch in torch.randperm(count).split(batch_size) if len(batch) == batch_size]


def _parameter_groups(model: HashModel, config: TrainConfig, lr: float) -> list[dict]:
    head = {"params": list(model.head.parameters()), "lr": lr}
    backbone = {"params": list(model.backbone.parameters()), "lr": lr * config.backbone_lr_scale}
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


def _bit_accuracy(model: HashModel, data: Dataset, codebook: Tensor | None) -> float | None:
    if codebook is None or data.is_multilabel:
        return None
    bits = model.continuous_codes(data.inputs[:BIT_ACCURACY_SAMPLES]) > 0
    return float((bits == (codebook.cpu()[data.labels[:BIT_ACCURACY_SAMPLES]] > 0)).float().mean())


def _require_a_batch(config: TrainConfig, data: Dataset) -> None:
    if len(data) < config.batch_size:
        raise ValueError(
            f"train: batch_size {config.batch_size} is more than the {len(data)} training samples; choose a smaller one"
        )


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
def use_threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
