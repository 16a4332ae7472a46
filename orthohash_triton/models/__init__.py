"""The hashing model, its backbones, and the formats in which it is stored: pretrained folders, original checkpoints, ONNX."""

from .backbones import BACKBONES, EfficientNetLite0, SmallCNN, make_backbone
from .model import HashModel
from .pretrained import Pretrained, load_pretrained

__all__ = [
    "BACKBONES",
    "EfficientNetLite0",
    "HashModel",
    "Pretrained",
    "SmallCNN",
    "load_pretrained",
    "make_backbone",
]
