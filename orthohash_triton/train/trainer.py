"""Training of a model by any method, with one recipe for all of them.

The samples pass through the backbone, the hash head and the method's objective. By default the optimiser is Adam, the backbone
has a tenth of the head's learning rate, the rate is divided by ten after 80 % of the steps, and an incomplete last batch of an
epoch is dropped. This is the recipe of OrthoHash (Hoe et al., NeurIPS 2021); each part is a setting of TrainConfig.

Queries are never used for a choice: the result is the model of the last step or, with a validation set, of the epoch with the
highest mAP on that set.

The stages of a training run in `loop`. Optimiser steps are in `optimization`, sharing of a batch between processes in
`distributed`, resuming in `checkpoint`, and logging in `tracking`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from .. import methods
from .._base.progress import progress_bar
from .._base.quoting import quoted
from ..data import Dataset, split_validation
from ..data.fingerprint import fingerprint
from ..methods import Objective
from ..models.backbones import knows_nothing, make_backbone
from ..models.model import HashModel
from .checkpoint import Checkpoints, owning_run
from .config import TrainConfig
from .devices import require_device, use_threads
from .distributed import Processes
from .loop import Epoch, Loop, Setting, load_weights
from .randomness import seeded
from .rotation import rotate
from .tracking import tracking
from .validation import Validation

CLASSIFIER_LR = 1e-3
"""Learning rate of the classifier that some methods train first."""


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        model: in evaluation mode.
        codebook: int8 +-1 [C, bits]; None for methods without one.
        history: figures of each epoch; empty for methods that are fitted without gradients.
        objective: the loss with its state; None for methods that are fitted without gradients.
    """

    model: HashModel
    codebook: Tensor | None
    history: list[Epoch]
    objective: Objective | None


def train(
    config: TrainConfig,
    data: Dataset,
    *,
    backbone: nn.Module | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Trained:
    """Train a model on `data` with the method and settings of `config`.

    If torch.distributed is initialised, all its processes train together. Each must call this function with the same arguments
    (see `distributed`) and can access the same `folder`; each returns the same result.

    Args:
        config: all settings.
        data: the training set.
        backbone: a module as `models.backbones` describes, which replaces the one that `config` names.
        folder: where checkpoints, metrics.jsonl and logs are written during the training. `save_run` completes the run folder.
        resume: whether to resume from the checkpoint in `folder`. On a CPU the weights are then bit-identical to those of a
            training that was not stopped. A `backbone` must be passed as it was when the training was started.
        progress: whether to show progress bars on standard error.

    Raises:
        ValueError: the settings do not fit the data; the loss is not finite; or the checkpoint has other settings or data.
        FileExistsError: `folder` has an unfinished training, and `resume` is False.
        BlockingIOError: another process trains into `folder`.
        FileNotFoundError: `folder` has no checkpoint to resume from.
        ImportError: an optional package is missing.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.train import TrainConfig, train
        >>> labels = torch.arange(60) % 2
        >>> data = Dataset(torch.randn(60, 8) + 4 * labels[:, None], labels, ("cat", "dog"), "toy")
        >>> trained = train(TrainConfig(bits=16, epochs=2, batch_size=20, threads=1), data, progress=False)
        >>> len(trained.history), trained.codebook.shape, trained.model.encode(data.inputs).shape
        (2, torch.Size([2, 16]), torch.Size([60, 2]))
    """
    require_device(config.device)
    processes = Processes.of(config.device)
    folder = None if folder is None else Path(folder)
    learned = methods.get(config.method).learned
    if resume and not learned:
        raise ValueError(
            f"train: method {quoted(config.method)} is fitted in one step: there is nothing to resume. "
            "Run it again without resume=True"
        )
    with owning_run(folder if learned and processes.leads else None):
        checkpoints = Checkpoints(folder if learned else None, config, data, resume=resume, writes=processes.leads)
        processes.require_same(lambda: (config, fingerprint(data), checkpoints.position))
        return _train(Setting(config, processes, checkpoints, folder, progress and processes.leads), data, backbone)


def _train(setting: Setting, data: Dataset, backbone: nn.Module | None) -> Trained:
    """Train the model of `setting`, from the beginning or from its checkpoint."""
    config, processes = setting.config, setting.processes
    with seeded(config.seed), use_threads(config.threads):
        make = _backbone_maker(config, data, backbone)
        trained = (_learn if methods.get(config.method).learned else _fit)(setting, data, make)
        if config.rotate != "none":
            rotate(trained.model, data.inputs, config.rotate, seed=config.seed)
        processes.require_same(lambda: None)  # no process continues before the last checkpoint is written
        return trained


def _backbone_maker(config: TrainConfig, data: Dataset, backbone: nn.Module | None) -> Callable[[], nn.Module]:
    """Return a function that builds an untrained backbone. Methods that train several networks call it once for each."""
    if backbone is None:
        learned = methods.get(config.method).learned
        return lambda: make_backbone(config.backbone, data.sample_shape, learned=learned, pretrained=config.pretrained)
    first, spare = [backbone], copy.deepcopy(backbone)
    return lambda: first.pop() if first else copy.deepcopy(spare)


def _fit(setting: Setting, data: Dataset, make: Callable[[], nn.Module]) -> Trained:
    """Fit the head of a method that needs no gradient to the features of the backbone, which is not trained."""
    config, device = setting.config, setting.processes.device
    method = methods.get(config.method)
    if knows_nothing(config.backbone, pretrained=config.pretrained):
        raise ValueError(
            f"train: method {quoted(method.name)} trains no backbone, and {quoted(config.backbone)} has random weights "
            "before training; "
            'use "auto", which uses the samples without a network, or a pre-trained backbone'
        )
    model = HashModel(make(), config.bits, data.sample_shape, batch_norm=False).to(device)
    model.head = method.fit(model.features(data.inputs), config.bits, config.seed).to(device)  # type: ignore[misc]
    return Trained(model.eval(), None, [], None)


def _learn(setting: Setting, data: Dataset, make: Callable[[], nn.Module]) -> Trained:
    """Train backbone and head of a method by the gradient of its objective."""
    config, device = setting.config, setting.processes.device
    method = methods.get(config.method)
    data, validation = _with_validation(config, data)
    _require_trainable(setting, data)
    model = HashModel(make(), config.bits, data.sample_shape, batch_norm=method.batch_norm).to(device)
    task = methods.Task(
        labels=data.labels,
        num_classes=len(data.class_names),
        bits=config.bits,
        seed=config.seed,
        class_distance=data.class_distance,
        class_logits=lambda: _class_logits(setting, data, make()),
    )
    objective = method.objective(task, method.make_options(config.options)).to(device)  # type: ignore[misc]
    history = _optimise(Loop(setting, model, objective, data, config.lr or method.lr, validation, "codes"))
    codebook = objective.class_codes()
    return Trained(model.eval(), None if codebook is None else codebook.cpu(), history, objective)


def _with_validation(config: TrainConfig, data: Dataset) -> tuple[Dataset, Validation | None]:
    """Return the training samples, and the validation on the samples that the data set or `config` holds out, if any."""
    held_out = data.validation
    if held_out is None and config.validation:
        data, held_out = split_validation(data, config.validation, config.seed)
    if held_out is None and config.patience is not None:
        raise ValueError("train: patience needs held-out samples; set validation to a share of the training set, for example 0.1")
    return data, None if held_out is None else Validation(data, held_out)


def _class_logits(setting: Setting, data: Dataset, backbone: nn.Module) -> Tensor:
    """Return logits float32 [N, C] of the training set, of a classifier that is trained for as many epochs as the codes."""
    classes = len(data.class_names)
    model = HashModel(backbone, classes, data.sample_shape, batch_norm=False, padded=True).to(setting.processes.device)
    weights = setting.checkpoints.result_of("classifier")
    if weights is None:
        _optimise(Loop(setting, model, _Classification(), data, CLASSIFIER_LR, None, "classifier"))
        setting.checkpoints.finish("classifier", model.state_dict())
    else:
        load_weights(model, weights)
    return model.continuous_codes(data.inputs)


class _Classification(Objective):
    """Softmax cross entropy. With multi-hot labels the target probability is shared equally by the positive classes."""

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: nn.Module) -> Tensor:
        if target.ndim == 2:
            target = target / target.sum(1, keepdim=True).clamp(min=1)
        return F.cross_entropy(latent, target)


def _optimise(loop: Loop) -> list[Epoch]:
    """Run a stage to its end and return the figures of its epochs. The model has the best or the last weights afterwards."""
    setting, stage, validation = loop.setting, loop.stage, loop.validation
    config, checkpoints = setting.config, setting.checkpoints
    state = checkpoints.state_of(stage)
    if state is None:
        checkpoints.save(stage, loop.state_dict)
    else:
        loop.load_state_dict(state)
    steps = loop.batches * config.epochs
    with (
        setting.processes.training(loop.network, not_shared=loop.network.norms_of_the_whole_batch) as loop.parallel,
        tracking(config, setting.folder, stage, loop.position, enabled=setting.processes.leads) as loop.tracker,
        progress_bar(loop.title, steps, done=loop.position, enabled=setting.progress) as advance,
    ):
        while not loop.finished:
            loop.one_epoch(advance)
    if validation:
        validation.restore(loop.model, loop.objective)
    else:
        loop.model.load_state_dict(loop.stepper.result.state_dict())
    return loop.history


def _require_trainable(setting: Setting, data: Dataset) -> None:
    """Raise ValueError for fewer than two classes, too few samples for a batch, or batches too small for the processes."""
    config, count = setting.config, setting.processes.count
    if not data.is_labelled:
        unsupervised = ", ".join(name for name in methods.names() if not methods.get(name).learned)
        raise ValueError(
            f"train: method {quoted(config.method)} learns from labels, but {data.name} has none; choose one of {unsupervised}"
        )
    if len(data.class_names) < 2:
        raise ValueError(
            f"train: method {quoted(config.method)} tells classes apart, but all samples of {data.name} belong to one class, "
            f"{quoted(data.class_names[0])}; give labels of at least two classes"
        )
    if len(data) < config.batch_size:
        raise ValueError(
            f"train: batch_size {config.batch_size} is larger than the number of training samples ({len(data)}); reduce it"
        )
    if config.batch_size < 2 * count:
        raise ValueError(
            f"train: batch_size {config.batch_size} is shared by {count} processes, each of which needs two samples; "
            f"set it to {2 * count} or more"
        )
