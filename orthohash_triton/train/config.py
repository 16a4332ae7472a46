"""The settings of a training."""

from dataclasses import dataclass, field, fields
from typing import Any, get_args

from .. import data, methods
from .._base import checks
from .._base.choices import ON_TROUBLE, OnTrouble, check_choices
from .._base.quoting import quoted
from ..data import Splits, load_splits
from ..data.decoding import MAX_PIXELS
from ..methods import option
from ..models.backbones import BACKBONES
from .augmentation import AugmentationKind
from .optimization import OptimizerName, Precision, ScheduleName
from .rotation import RotationName

WITHOUT_EFFECT = ("checkpoint_every", "tensorboard", "wandb")
"""Settings that do not affect the weights. They may be changed when a training is resumed."""

# Upper bounds of settings that decide how much memory or how many threads are taken before anything else can fail.
_MOST = {"bits": 2**16, "image_size": 2**14, "crop_padding": 2**14, "threads": 2**10}


def _listed(choices: Any) -> str:
    """Return the values of a Literal for a help text."""
    return ", ".join(get_args(choices))


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training. The metadata of each field contain a `help` text, which the command line shows.

    On a CPU, two trainings with one configuration are bit-identical on one machine with one number of threads. Another machine or
    number of threads changes the order of floating-point sums, and thus the last bits of the weights.

    Raises:
        TypeError, ValueError: a value is invalid; the message names the field and the valid values.

    Example:
        >>> from orthohash_triton.train import TrainConfig
        >>> config = TrainConfig(dataset="digits", bits=32, epochs=2)
        >>> config.batch_size, config.optimizer
        (256, 'adam')
        >>> TrainConfig(bits=20)
        Traceback (most recent call last):
        ValueError: TrainConfig: bits must be a multiple of 8, so that codes fill whole bytes; got 20
    """

    dataset: str = option(
        "fashion-mnist", f"{', '.join(data.names())}, a folder, manifest or list of images, or a file or folder of features"
    )
    method: str = option("orthohash", "name of a method; `orthohash methods` lists them")
    options: dict[str, Any] = field(default_factory=dict)  # options of the method by name
    rotate: RotationName = option("none", f"rotation fitted to the codes after the training: {_listed(RotationName)}")
    backbone: str = option("auto", f"auto, {', '.join(BACKBONES)}, timm:NAME or torchvision:NAME")
    pretrained: bool = option(True, "pre-trained weights for a backbone of timm or torchvision")
    bits: int = option(64, "length of the codes, a multiple of 8")
    epochs: int = option(6, "passes over the training set")
    batch_size: int = option(256, "samples per batch, of all processes together")
    accumulate: int = option(1, "number of batches whose gradients are averaged for one step")
    lr: float | None = option(None, "learning rate of the hash head; the default is the method's")
    backbone_lr_scale: float = option(0.1, "learning rate of the backbone relative to the head's; 0 freezes the backbone")
    optimizer: OptimizerName = option("adam", f"one of {_listed(OptimizerName)}")
    weight_decay: float = option(5e-4, "L2 penalty on all weights (decoupled with adamw)")
    clip_grad_norm: float | None = option(None, "largest norm of the gradient of all weights; longer gradients are scaled down")
    schedule: ScheduleName = option("step", f"schedule of the learning rate: {_listed(ScheduleName)}")
    warmup: float = option(0.0, "steps in which the learning rate rises to its full value; below 1: a share of all steps")
    lr_decay: float = option(0.1, "for schedule step: factor of the learning rate in the last part of the training")
    lr_decay_at: float = option(0.8, "for schedule step: share of the steps after which the rate is multiplied by lr_decay")
    ema: float | None = option(
        None, "decay of an exponential moving average of the weights, for example 0.999; the average is the result"
    )
    precision: Precision = option("fp32", f"precision of the network during training: {_listed(Precision)} (mixed precision)")
    validation: float = option(
        0.0,
        "share of the training set held out to choose the best epoch, if the data set has no validation set; 0 takes the last",
    )
    patience: int | None = option(None, "number of epochs without a better validation mAP after which the training stops")
    augment: AugmentationKind = option("light", f"augmentation of images: {_listed(AugmentationKind)}")
    flip: bool = option(True, "mirror images horizontally at random (wrong for text and digits)")
    crop_padding: int = option(0, "for augmentation light: largest random shift of images, in pixels")
    image_size: int = option(64, "width and height, in pixels, to which images in files are resized")
    max_pixels: int = option(MAX_PIXELS, "number of pixels above which an image in a file is not decoded")
    on_corrupt: OnTrouble = option("skip", "for images that cannot be decoded: skip (and list) them, or fail")
    on_missing: OnTrouble | None = option(None, "for missing files of a manifest or list: fail (the default) or skip")
    root: str | None = option(None, "folder that the paths in a manifest or list are relative to; the default is its own")
    path_column: str | None = option(None, "column of a manifest with the paths; the default is path")
    label_column: str | None = option(
        None,
        "column of a manifest with the labels, or columns of zeros and ones, apart by commas; the default is labels or label",
    )
    split_column: str | None = option(None, "column of a manifest with the name of the split; the default is split, if it exists")
    labels: str | None = option(None, ".npy file with the labels for a file of features; the default for X.npy is X.labels.npy")
    query_fraction: float = option(0.1, "share of every class held out as queries, if the data set has no split")
    seed: int = option(0, "seed of the split, the codebook, the initial weights, the order of samples and the augmentation")
    threads: int | None = option(None, "number of CPU threads; the default is torch's")
    device: str = option("cpu", "device: cpu, cuda, cuda:1, ...")
    checkpoint_every: int = option(500, "steps between checkpoints within an epoch; 0 writes them at the ends of epochs only")
    tensorboard: bool = option(False, "write TensorBoard logs to the folder tensorboard in the run folder")
    wandb: str | None = option(None, "project of Weights & Biases to log to; needs wandb")

    def __post_init__(self) -> None:
        """Store scalars of NumPy and PyTorch as numbers; raise TypeError or ValueError for an invalid value."""
        for item in fields(self):
            value = checks.plain(getattr(self, item.name))
            if item.type in (float, float | None) and value is not None:
                value = checks.number("TrainConfig", item.name, value)
            object.__setattr__(self, item.name, value)
        object.__setattr__(self, "options", {name: checks.plain(value) for name, value in self.options.items()})
        for name in ("bits", "epochs", "batch_size", "accumulate", "image_size", "max_pixels"):
            checks.integer("TrainConfig", name, getattr(self, name), minimum=1, maximum=_MOST.get(name))
        for name in ("crop_padding", "checkpoint_every"):
            checks.integer("TrainConfig", name, getattr(self, name), minimum=0, maximum=_MOST.get(name))
        for name in ("threads", "patience"):
            if getattr(self, name) is not None:
                checks.integer("TrainConfig", name, getattr(self, name), minimum=1, maximum=_MOST.get(name))
        if self.bits % 8:
            raise ValueError(
                f"TrainConfig: bits must be a multiple of 8, so that codes fill whole bytes; got {quoted(self.bits)}"
            )
        if self.batch_size < 2:
            raise ValueError("TrainConfig: batch_size must be at least 2, as batch norm needs two samples; got 1")
        for name in ("lr", "clip_grad_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"TrainConfig: {name} must be positive; got {quoted(value)}")
        for name in ("backbone_lr_scale", "weight_decay", "lr_decay", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"TrainConfig: {name} must not be negative; got {quoted(getattr(self, name))}")
        if not 0 < self.lr_decay_at <= 1:
            raise ValueError(f"TrainConfig: lr_decay_at must be a share of the steps, in (0, 1]; got {quoted(self.lr_decay_at)}")
        if not 0 <= self.validation < 1:
            raise ValueError(
                f"TrainConfig: validation must be a share of the training set, in [0, 1); got {quoted(self.validation)}"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"TrainConfig: ema must be the decay of a moving average, in (0, 1); got {quoted(self.ema)}")
        check_choices("TrainConfig", self)
        methods.get(self.method).make_options(self.options)

    def load_splits(self) -> Splits:
        """Load the training set, gallery and queries of `dataset`; see `data.load_splits`.

        If the method needs no labels, images of a folder that are in no class folder are taken too, without a class.

        Example:
            >>> from orthohash_triton.train import TrainConfig
            >>> splits = TrainConfig(dataset="digits").load_splits()
            >>> len(splits.train), len(splits.gallery), len(splits.query)
            (1438, 1438, 359)
        """
        return load_splits(
            self.dataset,
            size=self.image_size,
            query_fraction=self.query_fraction,
            seed=self.seed,
            max_pixels=self.max_pixels,
            every_image=not methods.get(self.method).learned,
            on_error=ON_TROUBLE[self.on_corrupt],
            on_missing=None if self.on_missing is None else ON_TROUBLE[self.on_missing],
            root=self.root,
            path_column=self.path_column,
            label_column=self.label_column,
            split_column=self.split_column,
            labels=self.labels,
        )
