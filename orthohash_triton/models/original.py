"""Loading of checkpoints of the original OrthoHash implementation (github.com/kamwoh/orthohash).

The original training script writes a folder:

    models/best.pth, models/last.pth  state_dict of the network
    outputs/codebook.pth              float +-1 [C, bits]
    config.json                       arch, arch_kwargs (nbit, nclass), s, m, m_type, ...

The keys of the network are `features.*` and `fc.*` (torchvision's AlexNet up to its 4,096 features), `hash_fc.0.weight` (the hash
layer, without bias), `hash_fc.1.*` (its batch norm) and `ce_fc.centroids` (a copy of the codebook). Checkpoints with another
backbone are read too, if the hash layer, the batch norm and the codebook have these names.

Files are read with weights_only=True, so they cannot run code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._base import formats
from .._base.reading import reader
from ..nn import HashHead
from . import model_zoo
from .model import HashModel

_LINEAR = ("hash_fc.0.weight", "hash_fc.weight")  # names with and without batch norm after the layer
_LINEAR_BIAS = ("hash_fc.0.bias", "hash_fc.bias")
_BATCH_NORM = "hash_fc.1."
_CENTROIDS = "ce_fc.centroids"
_SHOWN = 6  # keys that an error message lists

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Original:
    """The contents of a checkpoint, as `load_original` returns them.

    Attributes:
        path: file of the state_dict.
        head: hash head, in evaluation mode.
        codebook: int8 +-1 [C, bits], or None.
        backbone: weights of the backbone, under the names of the original.
        unused: keys that belong to no part of the model, for example those of a learned classifier.
        config: contents of config.json; empty if the file does not exist.

    Example:
        >>> import torch
        >>> from orthohash_triton.models.original import load_original
        >>> torch.save({"hash_fc.0.weight": torch.randn(16, 8)}, "last.pth")
        >>> checkpoint = load_original("last.pth")
        >>> checkpoint.head.linear.out_features, checkpoint.codebook, checkpoint.is_alexnet
        (16, None, False)
    """

    path: Path
    head: HashHead
    codebook: Tensor | None
    backbone: dict[str, Tensor]
    unused: tuple[str, ...]
    config: dict[str, Any]

    @property
    def is_alexnet(self) -> bool:
        """Whether the backbone is the AlexNet of the original implementation."""
        return {name: tensor.shape for name, tensor in self.backbone.items()} == _alexnet_shapes()

    def model(self, backbone: nn.Module | None = None, sample_shape: tuple[int, ...] = (3, 224, 224)) -> HashModel:
        """Build the whole network, in evaluation mode.

        Args:
            backbone: needed if the backbone of the checkpoint is not AlexNet: a module of the same architecture, which gets the
                weights of the checkpoint. It takes images in [0, 1]. The original normalised images by ImageNet's mean and
                standard deviation; wrap the module in `Standardised` to do the same.
            sample_shape: shape of one image.

        Raises:
            ValueError: the backbone is not AlexNet and no module is given, or the weights do not fit the module.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> from orthohash_triton.models.original import load_original
            >>> weights = {"hash_fc.0.weight": torch.randn(16, 8), "1.weight": torch.randn(8, 12), "1.bias": torch.zeros(8)}
            >>> torch.save(weights, "last.pth")
            >>> model = load_original("last.pth").model(nn.Sequential(nn.Flatten(), nn.Linear(12, 8)), sample_shape=(3, 2, 2))
            >>> model.encode(torch.zeros(5, 3, 2, 2, dtype=torch.uint8)).shape
            torch.Size([5, 2])
        """
        if backbone is None:
            if not self.is_alexnet:
                raise ValueError(
                    f"{self.path}: the backbone is not the original's AlexNet (it has {_listed(self.backbone) or 'no weights'}). "
                    "Build it and pass it: load_original(path).model(backbone)"
                )
            network = AlexNet()
            network.load_state_dict(self.backbone)
            backbone = Standardised(network)
        else:
            load_backbone(backbone, self.backbone, str(self.path))
        bits, normalised = self.head.linear.out_features, self.head.batch_norm is not None
        model = HashModel(backbone, bits, sample_shape, batch_norm=normalised, padded=True)
        if model.head.linear.in_features != self.head.linear.in_features:
            raise ValueError(
                f"{self.path}: its head takes {self.head.linear.in_features} features; the backbone returns "
                f"{model.head.linear.in_features}"
            )
        model.head = self.head
        return model.eval()

    def __str__(self) -> str:
        features, bits = self.head.linear.in_features, self.head.linear.out_features
        lines = [
            f"{self.path}",
            f"head: {features:,} features -> {bits} bits, {'with' if self.head.batch_norm is not None else 'without'} batch norm",
            f"codebook: {'none' if self.codebook is None else f'{len(self.codebook)} classes'}",
            f"backbone: {len(self.backbone)} tensors{', AlexNet' if self.is_alexnet else ''}",
            f"unused: {', '.join(self.unused) or 'nothing'}",
        ]
        return "\n".join(lines)


def load_original(path: str | Path, *, name: str = "best") -> Original:
    """Load a folder that the original training script wrote, or one .pth file of it.

    Args:
        path: the folder, or a file with the state_dict of the network. outputs/codebook.pth and config.json of the folder are
            read too, if they exist.
        name: which checkpoint of a folder is loaded: models/<name>.pth.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: a file is damaged or no state_dict, has no hash layer, or the files do not belong to one training.

    Example:
        >>> import torch
        >>> from orthohash_triton.models.original import load_original
        >>> torch.save({"hash_fc.0.weight": torch.randn(16, 8)}, "last.pth")
        >>> print(load_original("last.pth"))
        last.pth
        head: 8 features -> 16 bits, without batch norm
        codebook: none
        backbone: 0 tensors
        unused: nothing
    """
    file, folder = _find(Path(path), name)
    state = {key.removeprefix("module."): tensor for key, tensor in _state_dict(file).items()}  # DataParallel adds this prefix
    head, of_the_head = _head(file, state)
    codebook, of_the_codebook = _codebook(file, folder, state, head.linear.out_features)
    used = of_the_head | of_the_codebook
    unused = tuple(sorted(key for key in state if key.startswith(("hash_fc.", "ce_fc.")) and key not in used))
    backbone = {key: tensor for key, tensor in state.items() if key not in used and key not in unused}
    config = _config(folder / "config.json") if folder else {}
    bits = head.linear.out_features
    said = config.get("arch_kwargs", {}).get("nbit", bits)
    if said != bits:
        raise ValueError(
            f"{file} has a head of {bits} bits, config.json in the same folder says {said}; they are not of one training"
        )
    return Original(file, head, codebook, backbone, unused, config)


class AlexNet(nn.Module):
    """AlexNet up to the 4,096 features before its classifier, with the weight names of the original implementation.

    It takes normalised images: see `Standardised`.

    Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
    """

    out_features = 4096

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 192, 384, 256, 256)
        first = nn.Conv2d(3, widths[0], 11, stride=4, padding=2)
        second = nn.Conv2d(widths[0], widths[1], 5, padding=2)
        rest = [nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths[1:])]
        self.features = nn.Sequential(
            first, nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            second, nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            rest[0], nn.ReLU(inplace=True), rest[1], nn.ReLU(inplace=True), rest[2], nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.fc = nn.Sequential(
            nn.Dropout(), nn.Linear(widths[-1] * 36, self.out_features), nn.ReLU(inplace=True),
            nn.Dropout(), nn.Linear(self.out_features, self.out_features), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.features(images)).flatten(1))


class Standardised(model_zoo.Standardised):
    """A network with the normalisation of its inputs by ImageNet's mean and standard deviation: takes images in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, IMAGENET_MEAN, IMAGENET_STD, size=(1, 1))
        if isinstance(declared := getattr(network, "out_features", None), int):
            self.out_features = declared


def load_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load all weights of a checkpoint into `backbone`, or into the network inside `Standardised`.

    torchvision's AlexNet calls `classifier.*` what the original calls `fc.*`; both names are accepted.

    Args:
        source: name of the checkpoint, for the message.

    Raises:
        ValueError: the checkpoint has other names or shapes than the backbone.
    """
    target = backbone.network if isinstance(backbone, Standardised) else backbone
    expected = target.state_dict()
    if any(key.startswith("classifier.") for key in expected):
        weights = {"classifier." + key[3:] if key.startswith("fc.") else key: tensor for key, tensor in weights.items()}
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    other = [
        f"{key} {list(weights[key].shape)}, not {list(expected[key].shape)}"
        for key in sorted(expected.keys() & weights.keys())
        if weights[key].shape != expected[key].shape
    ]
    if missing or unknown or other:
        parts = {"missing in the checkpoint": missing, "unknown to the backbone": unknown, "of another shape": other}
        found = "; ".join(f"{what}: {_listed(keys)}" for what, keys in parts.items() if keys)
        raise ValueError(f"{source} does not fit the backbone {type(target).__name__}; {found}")
    target.load_state_dict(dict(weights))


def _find(path: Path, name: str) -> tuple[Path, Path | None]:
    """Return the file of the state_dict, and the folder that the training script wrote if `path` belongs to one."""
    if path.is_dir():
        file = path / "models" / f"{name}.pth"
        if not file.is_file():
            there = sorted(found.stem for found in (path / "models").glob("*.pth"))
            has = f"it has {', '.join(there)}: choose with name=" if there else "it is not a folder of OrthoHash's training"
            raise FileNotFoundError(f"{file} does not exist; {has}")
        return file, path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a folder of OrthoHash's training, or its models/best.pth")
    return path, path.parent.parent if path.parent.name == "models" else None


def _state_dict(file: Path) -> dict[str, Tensor]:
    state = _load(file)
    if not isinstance(state, Mapping) or not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{file} is not a state_dict: it holds {_kind(state)}. Save model.state_dict() and nothing else")
    if other := [key for key in state if not isinstance(key, str)]:
        raise ValueError(f"{file} is not a state_dict: it has the key {other[0]!r:.80}. Save model.state_dict() and nothing else")
    return dict(state)


def _load(file: Path) -> Any:
    return formats.read_torch(
        file,
        "checkpoint",
        advice="It is damaged, or it pickles other objects than tensors, which could run code: save state_dict() with torch.save",
    )


@reader("checkpoint")
def _head(file: Path, state: Mapping[str, Tensor]) -> tuple[HashHead, set[str]]:
    """Return the hash head built from the weights in `state`, and the keys of `state` that were used for it."""
    weight_key = next((key for key in _LINEAR if key in state), None)
    if weight_key is None:
        raise ValueError(
            f"{file} has no hash layer of OrthoHash: expected the key {_LINEAR[0]}; it has {_listed(state)}. "
            "If the checkpoint of another project uses another name, rename the key"
        )
    weight = state[weight_key]
    bias_key = next((key for key in _LINEAR_BIAS if key in state), None)
    norm = {key.removeprefix(_BATCH_NORM): state[key] for key in state if key.startswith(_BATCH_NORM)}
    if weight.ndim != 2:
        raise ValueError(f"{file}: {weight_key} must be [bits, features]; got {list(weight.shape)}")
    bits, features = weight.shape
    head = HashHead(features, bits, batch_norm=bool(norm), bias=bias_key is not None, padded=True)
    own = {"linear.weight": weight} | {f"batch_norm.{key}": tensor for key, tensor in norm.items()}
    if bias_key is not None:
        own["linear.bias"] = state[bias_key]
    try:
        head.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(
            f"{file}: the keys hash_fc.* do not form a linear layer with batch norm of {bits} bits ({error})"
        ) from error
    return head.eval(), {key for key in (weight_key, bias_key) if key} | {_BATCH_NORM + key for key in norm}


@reader("checkpoint")
def _codebook(file: Path, folder: Path | None, state: Mapping[str, Tensor], bits: int) -> tuple[Tensor | None, set[str]]:
    """Return the codebook int8 [C, bits] of outputs/codebook.pth or of the network, and the keys that were used for it."""
    inside = state.get(_CENTROIDS)
    codebook = inside
    if folder is not None and (file_of_codebook := folder / "outputs" / "codebook.pth").is_file():
        codebook = _load(file_of_codebook)
        if not isinstance(codebook, Tensor):
            raise ValueError(f"{file_of_codebook} must hold a tensor [C, {bits}]; got {_kind(codebook)}")
        if inside is not None and not torch.equal(inside, codebook.to(inside)):
            raise ValueError(f"{file_of_codebook} is another codebook than {_CENTROIDS} in {file}; they are not of one training")
    if codebook is None:
        return None, set()
    if codebook.ndim != 2 or codebook.shape[1] != bits or not bool((codebook.abs() == 1).all()):
        raise ValueError(f"{file}: the codebook must be +-1 [C, {bits}], as the head has {bits} bits; got {list(codebook.shape)}")
    return codebook.to(torch.int8), {_CENTROIDS} if inside is not None else set()


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    config = formats.read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("arch_kwargs", {}), dict):
        raise ValueError(f"{path} must hold settings by name, as the original training script writes them")
    return config


def _alexnet_shapes() -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in AlexNet().state_dict().items()}


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary of {_listed(value)}" if value else "an empty dictionary"
    return f"a {type(value).__name__}"


def _listed(keys: Any) -> str:
    shown = [str(key) for _, key in zip(range(_SHOWN), keys, strict=False)]
    return ", ".join(shown) + (" ..." if len(keys) > _SHOWN else "")
