"""Training: backbones, the hashing model, a thin trainer and the run folder."""

from .backbones import BACKBONES, EfficientNetLite0, SmallCNN, make_backbone
from .model import HashModel
from .runs import Run, load_run, save_run
from .trainer import TrainConfig, train

__all__ = [
    "BACKBONES",
    "EfficientNetLite0",
    "HashModel",
    "Run",
    "SmallCNN",
    "TrainConfig",
    "load_run",
    "make_backbone",
    "save_run",
    "train",
]
