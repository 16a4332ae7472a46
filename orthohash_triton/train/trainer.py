"""One recipe for every method. With `loop`, it is read in five minutes.

    backbone -> hash head -> the method's objective; Adam; the backbone at a tenth of the head's learning rate; one step decay at
    80 % of the steps; the last batch of an epoch dropped when it is not full.

It is OrthoHash's recipe (Hoe et al., NeurIPS 2021), and each part of it a setting of TrainConfig. Nothing is selected on the
queries: the result is the model of the last step, or, with a validation set, of the epoch with the best mAP on it.

How a step is made stands in `optimization`, how several processes share a batch in `distributed`, how a training goes on after it
was stopped in `checkpoint`, what it tells meanwhile in `tracking`.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import methods
from .._base.progress import progress_bar
from ..data import Dataset, split_validation
from ..methods import Objective
from ..models.backbones import knows_nothing, make_backbone
from ..models.model import HashModel
from ..rotations import Rotation
from .checkpoint import Checkpoints, fingerprint
from .config import ROTATIONS, TrainConfig
from .distributed import Processes
from .loop import Epoch, Loop, Setting, load_weights
from .randomness import seeded
from .tracking import tracking
from .validation import Validation

__all__ = ["ROTATIONS", "Epoch", "TrainConfig", "Trained", "fit_rotation", "rotate", "train", "use_threads"]


@dataclass(frozen=True)
class Trained:
    model: HashModel
    codebook: Tensor | None  # int8 +-1 [C, bits], of methods that have one
    history: list[Epoch]  # empty for methods that are fitted
    objective: Objective | None


CLASSIFIER_LR = 1e-3
ROTATION_SAMPLES = 10_000  # for K^2 / 2 unknowns


def train(
    config: TrainConfig,
    data: Dataset,
    *,
    backbone: nn.Module | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Trained:
    """Learn codes of `data`.

    Args:
        backbone: any module (see backbones), in place of the one that `config` names.
        folder: where checkpoints, metrics.jsonl and logs go while the training runs; `save_run` on it completes the run folder.
        resume: go on from the checkpoint in `folder`. On a CPU the weights are then those of a training that was never stopped,
            bit for bit. A `backbone` must be given as it was at the beginning.
        progress: bars on standard error.

    Where torch.distributed is initialised, its processes train together and must all call this with the same arguments (see
    `distributed`); `folder` is one that all of them see. Each answers with the same result.

    Raises:
        ValueError: settings and data that do not go together; a loss that is not finite; a checkpoint of other settings or data.
        FileExistsError: an unfinished training is in `folder`, and `resume` is False.
        FileNotFoundError: nothing to resume.
        ImportError: an optional package is missing.
    """
    require_device(config.device)
    processes = Processes.of(config.device)
    folder = None if folder is None else Path(folder)
    learned = methods.get(config.method).learned
    if resume and not learned:
        raise ValueError(f"train: method {config.method!r} is fitted in one go: there is nothing to resume. Run it again")
    checkpoints = Checkpoints(folder if learned else None, config, data, resume=resume, writes=processes.leads)
    processes.require_same(lambda: (config, fingerprint(data), checkpoints.position))
    setting = Setting(config, processes, checkpoints, folder, progress and processes.leads)
    with seeded(config.seed), use_threads(config.threads):
        make = _backbone_maker(config, data, backbone)
        trained = (_learn if learned else _fit)(setting, data, make)
        if config.rotate != "none":
            rotate(trained.model, data.inputs, config.rotate, seed=config.seed)
        processes.require_same(lambda: None)  # the last checkpoint is written before anyone goes on
        return trained


def rotate(model: HashModel, inputs: Any, kind: str, *, seed: int = 0) -> None:
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
        return lambda: make_backbone(config.backbone, data.sample_shape, learned=learned, pretrained=config.pretrained)
    first, spare = [backbone], copy.deepcopy(backbone)
    return lambda: first.pop() if first else copy.deepcopy(spare)


def _fit(setting: Setting, data: Dataset, make: Callable[[], nn.Module]) -> Trained:
    """Of a method without a gradient: a projection of the features of the backbone as it comes."""
    config, device = setting.config, setting.processes.device
    method = methods.get(config.method)
    if knows_nothing(config.backbone, pretrained=config.pretrained):
        raise ValueError(
            f"train: method {method.name!r} trains no backbone, and {config.backbone!r} knows nothing before it is trained; "
            'use "auto", which takes the samples as they are, or a pre-trained one'
        )
    model = HashModel(make(), config.bits, data.sample_shape, batch_norm=False).to(device)
    model.head = method.fit(model.features(data.inputs), config.bits, config.seed).to(device)  # type: ignore[misc]
    return Trained(model.eval(), None, [], None)


def _learn(setting: Setting, data: Dataset, make: Callable[[], nn.Module]) -> Trained:
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
    """The samples to learn from, and the judge of epochs on those that the data set or `config` sets aside."""
    held_out = data.validation
    if held_out is None and config.validation:
        data, held_out = split_validation(data, config.validation, config.seed)
    if held_out is None and config.patience is not None:
        raise ValueError("train: patience needs samples to judge by; set validation to a share of the training set, as 0.1")
    return data, None if held_out is None else Validation(data, held_out)


def _class_logits(setting: Setting, data: Dataset, backbone: nn.Module) -> Tensor:
    """Logits float32 [N, C] of the training set, from a classifier trained like a method, for as many epochs."""
    model = HashModel(backbone, len(data.class_names), data.sample_shape, batch_norm=False).to(setting.processes.device)
    weights = setting.checkpoints.result_of("classifier")
    if weights is None:
        _optimise(Loop(setting, model, _Classification(), data, CLASSIFIER_LR, None, "classifier"))
        setting.checkpoints.finish("classifier", model.state_dict())
    else:
        load_weights(model, weights)
    return model.continuous_codes(data.inputs)


class _Classification(Objective):
    """Softmax cross entropy; over multi-hot labels the positives share the target equally."""

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: nn.Module) -> Tensor:
        if target.ndim == 2:
            target = target / target.sum(1, keepdim=True).clamp(min=1)
        return F.cross_entropy(latent, target)


def _optimise(loop: Loop) -> list[Epoch]:
    """Train the model of `loop` by the gradient of its objective, and tell what each epoch did."""
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
    loop.model.load_state_dict(validation.best if validation else loop.stepper.result.state_dict())
    return loop.history


def _require_trainable(setting: Setting, data: Dataset) -> None:
    config, count = setting.config, setting.processes.count
    if not data.is_labelled:
        unsupervised = ", ".join(name for name in methods.names() if not methods.get(name).learned)
        raise ValueError(
            f"train: method {config.method!r} learns from labels, and {data.name} has none; choose one of {unsupervised}"
        )
    if len(data) < config.batch_size:
        raise ValueError(
            f"train: batch_size {config.batch_size} is more than the {len(data)} training samples; choose a smaller one"
        )
    if config.batch_size < 2 * count:
        raise ValueError(
            f"train: batch_size {config.batch_size} is shared by {count} processes, each of which needs two samples; "
            f"set it to {2 * count} or more"
        )


def require_device(name: str) -> None:
    """Raises ValueError unless tensors can lie on the device `name`."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's own three ways to say no
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r} cannot be used ({first_line}); choose cpu, or cuda on a machine with a GPU") from error


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
