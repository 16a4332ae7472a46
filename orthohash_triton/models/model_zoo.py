"""Backbones from timm and torchvision: any of their image models, without the classifier."""

import difflib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._base.quoting import quoted

_CLASSES = 1000  # number of ImageNet classes, which are the outputs of the removed classifier


class Standardised(nn.Module):
    """A network with the normalisation of its inputs: takes images in [0, 1], subtracts `mean` and divides by `deviation`.

    Grey images are repeated over three channels. Images smaller than `size` (height, width) are enlarged to it with bilinear
    interpolation. If `fixed`, for networks that take no other size, larger images are reduced to it too.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float], size: Sequence[int], *, fixed: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.size, self.fixed = tuple(size), fixed
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        fits = (height, width) == self.size if self.fixed else height >= self.size[0] and width >= self.size[1]
        if not fits:
            images = F.interpolate(images, size=self.size, mode="bilinear", align_corners=False, antialias=True)
        return self.network((images.expand(-1, 3, -1, -1) - self.mean) / self.deviation)


def timm_backbone(name: str, pretrained: bool) -> nn.Module:
    """Build the model `name` of timm, a name in `timm.list_models()`, with pooled features as output."""
    timm = _import("timm")
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        raise _unknown("timm", name, timm.list_models()) from error
    settings = timm.data.resolve_model_data_config(network)
    fixed = bool(network.pretrained_cfg.get("fixed_input_size"))
    size = settings["input_size"] if fixed else network.pretrained_cfg.get("min_input_size") or (3, 1, 1)
    return Standardised(network, settings["mean"], settings["std"], size[1:], fixed=fixed)


def torchvision_backbone(name: str, pretrained: bool) -> nn.Module:
    """Build the model `name` of torchvision, a name in `torchvision.models.list_models()`, without its classifier."""
    models = _import("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    weights = models.get_model_weights(name).DEFAULT
    size = weights.meta["min_size"]
    # The shapes of a vision transformer's weights depend on the size of its images.
    options = {"image_size": size[0]} if name.startswith("vit_") else {}
    network = models.get_model(name, weights=weights if pretrained else None, **options)
    _remove_classifier(network)
    if hasattr(network, "transform_input"):  # Inception: torchvision sets these only if it loads weights
        network.transform_input, network.aux_logits = True, False
        network.AuxLogits = network.aux1 = network.aux2 = None
    preset = weights.transforms()
    return Standardised(network, preset.mean, preset.std, size, fixed=name.startswith(("vit_", "maxvit_")))


def _remove_classifier(network: nn.Module) -> None:
    """Replace the last layer that has one output per class by the identity."""
    for name, module in reversed(list(network.named_modules())):
        if _CLASSES in (getattr(module, "out_features", None), getattr(module, "out_channels", None)):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, nn.Identity())
            return
    raise ValueError(f"backbone torchvision: {type(network).__name__} has no layer of {_CLASSES} classes that could be removed")


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError if it was built for another version of torch
        package = module.partition(".")[0]
        raise ImportError(
            f"the backbone {package}:NAME needs {package}, which cannot be imported ({error}): pip install {package}"
        ) from error


def _unknown(library: str, name: str, known: Sequence[str]) -> ValueError:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"{library} lists its models with list_models()"
    return ValueError(f"backbone {library}:{name}: {library} has no model {quoted(name)}; {hint}")


LIBRARIES: dict[str, Callable[[str, bool], nn.Module]] = {"timm": timm_backbone, "torchvision": torchvision_backbone}
"""Library -> function that builds a model by its name, with pre-trained weights if the second argument is True."""
