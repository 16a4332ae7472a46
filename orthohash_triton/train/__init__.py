"""Training: the configuration, the loop, optimisation, checkpoints and validation."""

from typing import Any

from .._base.moved import find_moved
from ..models import BACKBONES, EfficientNetLite0, HashModel, SmallCNN, make_backbone
from .config import TrainConfig
from .trainer import train

__all__ = [
    "BACKBONES",
    "EfficientNetLite0",
    "HashModel",
    "SmallCNN",
    "TrainConfig",
    "make_backbone",
    "train",
]


def __getattr__(name: str) -> Any:
    return find_moved(__name__, name)
