"""Features of a backbone as it comes, computed once so that many heads can be trained on them."""

import math
from dataclasses import replace

import torch

from .._base.progress import progress_bar
from ..data import Dataset
from ..models.backbones import knows_nothing, make_backbone
from ..models.model import HashModel
from .trainer import TrainConfig, use_threads

_CHUNK = 1024
_BATCH = 128


def compute_features(data: Dataset, config: TrainConfig, *, title: str = "features", progress: bool = True) -> Dataset:
    """`data` with its images replaced by the features float32 [N, D] of `config.backbone`."""
    if not data.is_images:
        raise ValueError(f"compute_features: {data.name} holds features already; expected images")
    if config.backbone == "auto" or knows_nothing(config.backbone, pretrained=config.pretrained):
        raise ValueError(
            f"compute_features: backbone {config.backbone!r} knows nothing before it is trained; "
            "use efficientnet-lite0, pixels or a pre-trained one"
        )
    backbone = make_backbone(config.backbone, data.sample_shape, pretrained=config.pretrained)
    model = HashModel(backbone, config.bits, data.sample_shape).to(config.device)
    found = []
    with use_threads(config.threads), progress_bar(title, math.ceil(len(data) / _CHUNK), enabled=progress) as advance:
        for chunk in data.inputs.split(_CHUNK):
            found.append(model.features(chunk, batch_size=_BATCH))
            advance()
    return replace(data, inputs=torch.cat(found), paths=None)
