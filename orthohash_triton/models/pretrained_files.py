"""The files of a pretrained folder: names, contents, and the checks that are made when they are read.

    config.json           what to build: backbone, bits, shape of a sample, class names
    model.safetensors     weights of backbone and head
    codebook.safetensors  int8 +-1 [C, bits], for methods that have a codebook
    README.md             model card

No file is a pickle, so opening a folder from an untrusted source runs no code. config.json names the other files with their sizes
and checksums, which are compared when a model is read. The files change together: after an interruption the folder has the old
model or the new one (see `_base.file_set`).

This module handles tensors and plain values only. `model` builds a `HashModel` from them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from .._base import checks, formats
from .._base.file_names import printable
from .._base.file_set import FileSet, replacing
from .._base.quoting import quoted, short_repr
from .._base.tensors import pack_tensors
from .model_card import MARK, model_card

FORMAT = 1
MODEL_TYPE = "orthohash-triton"

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CODEBOOK = "codebook.safetensors"
CARD = "README.md"

_KEYS = ("backbone", "backbone_type", "sample_shape", "features", "bits", "batch_norm", "head_bias", "codebook", "class_names")
_SHOWN = 4  # names of tensors that an error message lists


def write_pretrained(
    folder: Path,
    description: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    codebook: Tensor | None,
    figures: Mapping[str, Any],
    trained_on: str | None,
) -> None:
    """Write all files of a pretrained folder. The folder is created if it does not exist.

    Args:
        description: a value for each key of config.json, except those that describe the format and versions.
        weights: state_dict of the model.
        codebook: int8 +-1 [C, bits].
        figures, trained_on: see `model_card`.

    Raises:
        ValueError: the codebook is not int8 [C, bits], or the number of class names differs from its number of rows.
        FileExistsError: the folder contains a config.json or a README.md of something else.
        ImportError: safetensors is not installed.
    """
    if codebook is not None:
        _require_codebook(codebook, description["bits"], description["class_names"])
    _require_unused(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": MODEL_TYPE,
        "format": FORMAT,
        "orthohash_triton": __version__,
        "torch": torch.__version__,
        **description,
        "codebook": codebook is not None,
    }
    contents = {WEIGHTS: pack_tensors(dict(weights)), CARD: printable(model_card(config, figures, trained_on)).encode()}
    if codebook is not None:
        contents[CODEBOOK] = pack_tensors({"codebook": codebook})
    with replacing(folder / CONFIG, config) as files:
        files.remove(CODEBOOK)  # an earlier one, unless there is a new one
        for name, content in contents.items():
            with files.create(name) as file:
                file.write(content)


def read_description(folder: Path) -> dict[str, Any]:
    """Return the contents of config.json, checked.

    Raises:
        FileNotFoundError: the folder has no config.json.
        ValueError: config.json is damaged, describes something else, or has a newer format.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no pretrained model: it has no config.json. `orthohash export RUN --out {folder}` writes one"
        )
    config = FileSet(path).content
    _require_format(folder, config)
    _require_values(path, config)
    return config


def read_weights(folder: Path, bits: int) -> dict[str, Tensor]:
    """Return the weights in `folder`, whose head has `bits` bits.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, is a pickle, or has a head of another length.
    """
    path = folder / WEIGHTS
    weights = _read_tensors(folder, WEIGHTS)
    require_bits(path, weights, bits)
    return weights


def require_bits(path: Path, weights: Mapping[str, Tensor], bits: int) -> None:
    """Raise ValueError if the head in the file `path` has another length than config.json says, which may be absurd."""
    head = weights.get("head.linear.weight")
    if head is not None and head.ndim == 2 and len(head) != bits:
        raise ValueError(f"{path} has a head of {len(head)} bits, config.json says {bits}; the files are not of one model")


def require_fitting(folder: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], backbone: str) -> None:
    """Raise ValueError unless the weights in `folder` have the names and shapes of `expected`.

    Args:
        expected: state_dict of the model that the weights are for.
        backbone: name of the backbone's class, for the message.
    """
    path = folder / WEIGHTS
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    other = [name for name in sorted(expected.keys() & weights.keys()) if expected[name].shape != weights[name].shape]
    if not missing and not unknown and not other:
        return
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
        f"{path} does not fit a model with the backbone {backbone}; {'; '.join(found)}. "
        "Build the backbone exactly as it was when the model was saved"
    )


def read_codebook(folder: Path, description: Mapping[str, Any]) -> Tensor | None:
    """Return the codebook int8 [C, bits], or None if `description` says that the model has none.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is damaged, is a pickle, or its shape does not fit `description`.
    """
    if not description["codebook"]:
        return None
    path, bits, class_names = folder / CODEBOOK, description["bits"], description["class_names"]
    tensors = _read_tensors(folder, CODEBOOK)
    codebook = tensors.get("codebook")
    if codebook is None or codebook.ndim != 2 or codebook.shape[1] != bits or (class_names and len(class_names) != len(codebook)):
        found = "no tensor codebook" if codebook is None else checks.describe(codebook)
        raise ValueError(f"{path} must hold the codebook [{len(class_names) or 'C'}, {bits}]; got {found}")
    return codebook.clone()  # the tensor is mapped from the file, which may be replaced later


def _require_codebook(codebook: Tensor, bits: int, class_names: Sequence[str]) -> None:
    if codebook.dtype != torch.int8 or codebook.ndim != 2 or codebook.shape[1] != bits:
        raise ValueError(f"save_pretrained: codebook must be int8 [C, {bits}] of +-1; got {checks.describe(codebook)}")
    if class_names and len(class_names) != len(codebook):
        raise ValueError(
            f"save_pretrained: class_names must have one name for each of the codebook's {len(codebook)} rows; "
            f"got {len(class_names)}"
        )


def _require_unused(folder: Path) -> None:
    """Raise FileExistsError if a file that would be replaced was not written by `write_pretrained`."""
    for name, mark in ((CONFIG, f'"model_type": "{MODEL_TYPE}"'), (CARD, MARK)):
        path = folder / name
        if path.exists() and mark not in path.read_text(encoding="utf-8", errors="replace"):
            raise FileExistsError(
                f"{folder} holds a {name} that does not belong to a pretrained model and would be lost; choose another folder"
            )


def _require_format(folder: Path, config: Any) -> None:
    """Raise ValueError unless `config` has the type and format that this version reads."""
    kind = config.get("model_type") if isinstance(config, dict) else None
    if isinstance(config, dict) and kind is None and "sample_shape" in config:
        raise ValueError(f"{folder} is a run folder; open it with load_run, or convert it with `orthohash export`")
    if kind != MODEL_TYPE:
        raise ValueError(
            f"{folder / CONFIG} describes a model of type {quoted(kind)}, not {quoted(MODEL_TYPE)}; "
            "open it with the library that wrote it"
        )
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has format {quoted(config.get('format'))} of orthohash-triton {config.get('orthohash_triton')}; "
            f"this version, {__version__}, reads {FORMAT}. Update orthohash-triton"
        )


def _require_values(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ValueError unless every key is present and the sizes are positive integers."""
    lacking = [name for name in _KEYS if name not in config]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}; it was changed or truncated. Get or write it again")
    shape = config["sample_shape"]
    sizes = [config["bits"], *shape] if isinstance(shape, list) and len(shape) in (1, 3) else [None]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(
            f"{path}: bits must be a positive integer and sample_shape [C, H, W] or [D]; "
            f"got {quoted(config['bits'])} and {short_repr(shape)}"
        )
    names = config["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: class_names must be a list of names; got {names!r:.80}")
    if not all(isinstance(config[name], bool) for name in ("batch_norm", "head_bias", "codebook")):
        raise ValueError(f"{path}: batch_norm, head_bias and codebook must be true or false")
    if not isinstance(config["backbone"], str | None):
        raise ValueError(f"{path}: backbone must be a name, or null for a backbone of its own; got {config['backbone']!r:.80}")


def _read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name."""
    files = FileSet(folder / CONFIG)
    path = files.path(name) if name in files else folder / name  # versions of before the checksums name no files
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the folder is not complete. Get or write it again")
    return formats.read_tensors(path)
