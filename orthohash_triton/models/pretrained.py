"""A model in a folder, in the manner of Hugging Face: everything that encoding needs, and nothing of the training data.

    config.json           what to build: backbone, bits, shape of a sample, class names
    model.safetensors     weights of backbone and head
    codebook.safetensors  int8 +-1 [C, bits], where the method has one
    README.md             model card

Nothing in it is a pickle: opening a folder from elsewhere runs no code of it. Every file is written whole or not at all,
config.json last: a folder without it holds no model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from .._base import checks
from .._base.files import atomic_write
from .._base.tensors import safetensors, write_tensors
from ..nn import HashHead
from .backbones import MLP, EfficientNetLite0, Identity, Pixels, SmallCNN, make_backbone
from .model import HashModel

FORMAT = 1
MODEL_TYPE = "orthohash-triton"

_BY_TYPE = {SmallCNN: "small-cnn", EfficientNetLite0: "efficientnet-lite0", Identity: "features", Pixels: "pixels", MLP: "mlp"}
_KEYS = ("backbone", "backbone_type", "sample_shape", "features", "bits", "batch_norm", "head_bias", "codebook", "class_names")
_SHOWN = 4
_MARK = "library_name: orthohash-triton"  # of our model cards


@dataclass(frozen=True)
class Pretrained:
    """A pretrained folder, opened."""

    model: HashModel
    codebook: Tensor | None  # int8 +-1 [C, bits]
    class_names: tuple[str, ...]
    backbone: str | None  # the name it was built by; None for one of the caller's own


def save_pretrained(
    model: HashModel,
    folder: str | Path,
    *,
    codebook: Tensor | None = None,
    class_names: Sequence[str] = (),
    backbone: str | None = None,
    figures: Mapping[str, Any] | None = None,
    trained_on: str | None = None,
) -> None:
    """Write `model` to `folder` (made where it is missing), over what an earlier call left there, and over nothing else.

    codebook, class_names, backbone  as `HashModel.save_pretrained`
    figures, trained_on              for the model card: retrieval figures by name, and the data set

    Raises:
        ValueError: a codebook that is not int8 [C, bits], or class names that are not one for each of its rows.
        FileExistsError: a run, another model or another README.md is in `folder`.
        ImportError: safetensors is not installed.
    """
    if codebook is not None:
        _check_codebook(codebook, model.bits, class_names)
    folder = Path(folder)
    _check_unused(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": MODEL_TYPE,
        "format": FORMAT,
        "orthohash_triton": __version__,
        "torch": torch.__version__,
        "backbone": backbone or _name_of(model),
        "backbone_type": type(model.backbone).__name__,
        "sample_shape": list(model.sample_shape),
        "features": model.head.linear.in_features,
        "bits": model.bits,
        "batch_norm": model.head.batch_norm is not None,
        "head_bias": model.head.linear.bias is not None,
        "codebook": codebook is not None,
        "class_names": list(class_names),
    }
    (folder / "config.json").unlink(missing_ok=True)
    write_tensors(folder / "model.safetensors", model.state_dict())
    if codebook is None:
        (folder / "codebook.safetensors").unlink(missing_ok=True)
    else:
        write_tensors(folder / "codebook.safetensors", {"codebook": codebook})
    _write_text(folder / "README.md", _card(config, figures or {}, trained_on))
    _write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _check_unused(folder: Path) -> None:
    """Whether an earlier call of `save_pretrained`, or nothing, wrote the files that are to be replaced."""
    for name, mark in (("config.json", f'"model_type": "{MODEL_TYPE}"'), ("README.md", _MARK)):
        path = folder / name
        if path.exists() and mark not in path.read_text(encoding="utf-8", errors="replace"):
            raise FileExistsError(
                f"{folder} holds a {name} that is not of a pretrained model, and would be lost; choose another folder"
            )


def load_pretrained(folder: str | Path, *, backbone: nn.Module | None = None, device: Any = "cpu") -> Pretrained:
    """Open the folder that `save_pretrained` wrote, the model in evaluation mode on `device`.

    `backbone`, built as it was, is needed where it was the caller's own; its weights come from the folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the folder holds something else or is of a newer format, a file is damaged or no safetensors, or the weights
            do not fit the backbone or the length of the codes.
        ImportError: safetensors, or what the backbone needs, is not installed.
    """
    folder = Path(folder)
    config = _read_config(folder)
    sample_shape = tuple(config["sample_shape"])
    model = HashModel(_backbone(folder, config, backbone), config["bits"], sample_shape, batch_norm=config["batch_norm"])
    features = model.head.linear.in_features
    if features != config["features"]:
        raise ValueError(
            f"{folder}: its head takes {config['features']} features, the backbone gives {features}. "
            f"Build the backbone ({config['backbone_type']}) as it was when the model was saved"
        )
    if (model.head.linear.bias is not None) != config["head_bias"]:
        model.head = HashHead(features, model.bits, batch_norm=config["batch_norm"], bias=config["head_bias"])
    _load_weights(model, folder / "model.safetensors")
    codebook = None
    if config["codebook"]:
        codebook = _codebook(folder / "codebook.safetensors", model.bits, config["class_names"])
    return Pretrained(model.eval().to(device), codebook, tuple(config["class_names"]), config["backbone"])


def _check_codebook(codebook: Tensor, bits: int, class_names: Sequence[str]) -> None:
    if codebook.dtype != torch.int8 or codebook.ndim != 2 or codebook.shape[1] != bits:
        raise ValueError(f"save_pretrained: codebook must be int8 [C, {bits}] of +-1; got {checks.describe(codebook)}")
    if class_names and len(class_names) != len(codebook):
        raise ValueError(
            f"save_pretrained: class_names must be one for each of the codebook's {len(codebook)} rows; got {len(class_names)}"
        )


def _name_of(model: HashModel) -> str | None:
    """The name that builds the model's backbone; None for a backbone of another kind or with settings of its own."""
    name = _BY_TYPE.get(type(model.backbone))
    if name is None:
        return None
    return name if _settings(make_backbone(name, model.sample_shape)) == _settings(model.backbone) else None


def _settings(backbone: nn.Module) -> Any:
    """What tells two backbones of one type apart, apart from the values of their weights."""
    plain = {name: value for name, value in vars(backbone).items() if isinstance(value, int | float | str) and name != "training"}
    return plain, {name: tensor.shape for name, tensor in backbone.state_dict().items()}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no pretrained model: it has no config.json. `orthohash export RUN --out {folder}` writes one"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if isinstance(config, dict) and kind is None and "sample_shape" in config:
        raise ValueError(f"{folder} is a run folder; open it with load_run, or make a pretrained model of it: `orthohash export`")
    if kind != MODEL_TYPE:
        raise ValueError(f"{path} describes a model of type {kind!r}, not {MODEL_TYPE!r}; open it with the library that wrote it")
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has format {config.get('format')!r} of orthohash-triton {config.get('orthohash_triton')}; "
            f"this version, {__version__}, reads {FORMAT}. Update orthohash-triton"
        )
    lacking = [name for name in _KEYS if name not in config]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}; it was changed, or is cut off. Get or write it again")
    shape = config["sample_shape"]
    sizes = [config["bits"], *shape] if isinstance(shape, list) and len(shape) in (1, 3) else [None]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            f"{path}: bits must be a positive integer and sample_shape [C, H, W] or [D]; got {config['bits']!r} and {shape!r}"
        )
    return config


def _backbone(folder: Path, config: dict[str, Any], own: nn.Module | None) -> nn.Module:
    if own is not None:
        return own
    if config["backbone"] is None:
        raise ValueError(
            f"{folder} was saved with a backbone of its own ({config['backbone_type']}), which is code and not in the folder; "
            "build it and give it: from_pretrained(folder, backbone=...)"
        )
    return make_backbone(config["backbone"], tuple(config["sample_shape"]), pretrained=False)


def _load_weights(model: HashModel, path: Path) -> None:
    weights, expected = _read_tensors(path), model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    other = [name for name in sorted(expected.keys() & weights.keys()) if expected[name].shape != weights[name].shape]
    if not missing and not unknown and not other:
        model.load_state_dict(weights)
        return
    if "head.linear.weight" in other and (bits := len(weights["head.linear.weight"])) != model.bits:
        raise ValueError(f"{path} has a head of {bits} bits, config.json says {model.bits}; the files are not of one model")
    found = [
        f"{what}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
        for what, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", [f"{name} {list(weights[name].shape)}, not {list(expected[name].shape)}" for name in other]),
        )
        if names
    ]
    raise ValueError(
        f"{path} does not fit a model with the backbone {type(model.backbone).__name__}; {'; '.join(found)}. "
        "Build the backbone as it was when the model was saved"
    )


def _codebook(path: Path, bits: int, class_names: Sequence[str]) -> Tensor:
    tensors = _read_tensors(path)
    codebook = tensors.get("codebook")
    if codebook is None or codebook.ndim != 2 or codebook.shape[1] != bits or (class_names and len(class_names) != len(codebook)):
        found = "no tensor codebook" if codebook is None else checks.describe(codebook)
        raise ValueError(f"{path} must hold the codebook [{len(class_names) or 'C'}, {bits}]; got {found}")
    return codebook.clone()  # the file is mapped, and may be replaced


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the folder is not complete. Get or write it again")
    library = safetensors()
    with path.open("rb") as file:
        start = file.read(2)
    if start in (b"PK", b"\x80\x02"):  # zip or pickle, as torch.save writes them
        raise ValueError(
            f"{path} is a pickle of torch.save, not safetensors, and is not opened: a pickle can run code. "
            "Convert it where you trust it: safetensors.torch.save_file(torch.load(file, weights_only=True), ...)"
        )
    try:
        return library.torch.load_file(path)
    except library.SafetensorError as error:
        raise ValueError(f"{path} is not a readable .safetensors file ({error}); it may be cut off. Get it again") from error


def _card(config: dict[str, Any], figures: Mapping[str, Any], trained_on: str | None) -> str:
    """The README.md of a model: what it takes and gives, how to use it, what was measured."""
    shape = config["sample_shape"]
    takes = f"Features float32 `[N, {shape[0]}]`"
    if len(shape) == 3:
        takes = f"Images uint8 `[N, {', '.join(map(str, shape[1:] if shape[0] == 1 else shape))}]`"
    built_in = config["backbone"] is not None
    backbone = config["backbone"] if built_in else f"{config['backbone_type']}, which is not part of orthohash-triton"
    lines = [
        "---",
        _MARK,
        "tags: [learning-to-hash, image-retrieval, binary-codes]",
        "---",
        "",
        f"# Binary codes of {config['bits']} bits",
        "",
        f"{takes} become codes uint8 `[N, {-(-config['bits'] // 8)}]`, bit j of byte i for dimension 8i + j.",
        f"Backbone: {backbone}.",
        *([f"Trained on: {trained_on}."] if trained_on else []),
        *([f"Classes: {', '.join(config['class_names'])}."] if config["class_names"] else []),
        "",
        "```python",
        "from orthohash_triton.train import HashModel",
        "",
        f'model = HashModel.from_pretrained("."{"" if built_in else ", backbone=your_backbone"})',
        "codes = model.encode(inputs)",
        "```",
        "",
    ]
    if figures:
        lines += ["| figure | value |", "| --- | ---: |"]
        lines += [f"| {name} | {format(value, '.4f' if isinstance(value, float) else '')} |" for name, value in figures.items()]
        lines += [""]
    return "\n".join([*lines, f"Written by orthohash-triton {config['orthohash_triton']}.", ""])
