"""Features of a backbone as it comes, computed once so that many heads can be trained on them."""

from dataclasses import replace

import torch

from ..data import Dataset
from ._progress import progress_bar
from .backbones import FROM_SCRATCH, make_backbone
from .model import HashModel
from .trainer import TrainConfig, use_threads

_CHUNK = 1024
_BATCH = 128


def compute_features(data: Dataset, config: TrainConfig, *, title: str = "features", progress: bool = True) -> Dataset:
    """`data` with its images replaced by the features float32 [N, D] of `config.backbone`."""
    if not data.is_images:
        raise ValueError(f"compute_features: {data.name} holds features already; expected images")
    if config.backbone in ("auto", *FROM_SCRATCH):
        raise ValueError(
            f"compute_features: backbone {config.backbone!r} knows nothing before it is trained; use efficientnet-lite0 or pixels"
        )
    model = HashModel(make_backbone(config.backbone, data.sample_shape), config.bits, data.sample_shape).to(config.device)
    chunks = data.inputs.split(_CHUNK)
    found = []
    with use_threads(config.threads), progress_bar(title, len(chunks), enabled=progress) as advance:
        for chunk in chunks:
            found.append(model.features(chunk, batch_size=_BATCH))
            advance()
    return replace(data, inputs=torch.cat(found), paths=None)
