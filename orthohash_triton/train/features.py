"""Features of an untrained or pre-trained backbone, computed once so that many heads can be trained on them."""

import math
from dataclasses import replace

import torch

from .._base.progress import progress_bar
from .._base.quoting import quoted
from ..data import Dataset
from ..models.backbones import knows_nothing, make_backbone
from ..models.model import HashModel
from .config import TrainConfig
from .trainer import use_threads

_CHUNK = 1024
_BATCH = 128


def compute_features(data: Dataset, config: TrainConfig, *, title: str = "features", progress: bool = True) -> Dataset:
    """Return `data` with its images replaced by features float32 [N, D], computed by the backbone that `config` names.

    Args:
        title: text of the progress bar.
        progress: whether to show a progress bar on standard error.

    Raises:
        ValueError: `data` has features instead of images, or the backbone has random initial weights.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.train import TrainConfig
        >>> from orthohash_triton.train.features import compute_features
        >>> images = Dataset(torch.zeros(10, 4, 4, dtype=torch.uint8), torch.arange(10) % 2, ("cat", "dog"), "blank")
        >>> compute_features(images, TrainConfig(backbone="pixels"), progress=False).inputs.shape
        torch.Size([10, 16])
    """
    if not data.is_images:
        raise ValueError(f"compute_features: {data.name} has features already; expected images")
    if config.backbone == "auto" or knows_nothing(config.backbone, pretrained=config.pretrained):
        raise ValueError(
            f"compute_features: backbone {quoted(config.backbone)} has random weights before training; "
            "use efficientnet-lite0, pixels or a pre-trained backbone"
        )
    backbone = make_backbone(config.backbone, data.sample_shape, pretrained=config.pretrained)
    model = HashModel(backbone, config.bits, data.sample_shape).to(config.device)
    found = []
    with use_threads(config.threads), progress_bar(title, math.ceil(len(data) / _CHUNK), enabled=progress) as advance:
        for chunk in data.inputs.split(_CHUNK):
            found.append(model.features(chunk, batch_size=_BATCH))
            advance()
    return replace(data, inputs=torch.cat(found), paths=None)
