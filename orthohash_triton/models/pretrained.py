"""Pretrained folders as a whole: a model together with its codebook and class names. `pretrained_files` describes the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._base.moved import find_moved
from .model import HashModel, build_pretrained, describe_model
from .pretrained_files import read_codebook, read_description, write_pretrained


@dataclass(frozen=True)
class Pretrained:
    """The contents of a pretrained folder, as `load_pretrained` returns them.

    Attributes:
        model: in evaluation mode.
        codebook: int8 +-1 [C, bits], or None.
        class_names: names of the codebook's rows.
        backbone: the name that `make_backbone` builds the backbone by; None for a backbone that is not part of this package.

    Example:
        >>> import tempfile
        >>> import orthohash_triton as oht
        >>> from orthohash_triton.models import HashModel, load_pretrained
        >>> folder = tempfile.mkdtemp()
        >>> HashModel("features", 16, (8,)).save_pretrained(folder, codebook=oht.make_codebook(2, 16), class_names=["cat", "dog"])
        >>> found = load_pretrained(folder)
        >>> found.class_names, found.codebook.shape, found.backbone
        (('cat', 'dog'), torch.Size([2, 16]), 'features')
    """

    model: HashModel
    codebook: Tensor | None
    class_names: tuple[str, ...]
    backbone: str | None


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
    """Write `model` to `folder`, with figures and the name of the training set on the model card.

    The folder is created if it does not exist. Files that an earlier call wrote are replaced.

    Args:
        codebook, class_names, backbone: see `HashModel.save_pretrained`.
        figures: retrieval figures by their title, for the model card.
        trained_on: name of the training set, for the model card.

    Raises:
        ValueError: the codebook is not int8 [C, bits], or the number of class names differs from its number of rows.
        FileExistsError: `folder` contains a run, another model or another README.md.
        ImportError: safetensors is not installed.

    Example:
        >>> import tempfile
        >>> from orthohash_triton.models import HashModel
        >>> from orthohash_triton.models.pretrained import save_pretrained
        >>> folder = tempfile.mkdtemp()
        >>> save_pretrained(HashModel("features", 16, (8,)), folder, figures={"mAP@all": 0.75}, trained_on="photos")
        >>> "| mAP@all | 0.7500 |" in open(f"{folder}/README.md").read()
        True
    """
    description = describe_model(model, backbone, class_names)
    write_pretrained(Path(folder), description, model.state_dict(), codebook, figures or {}, trained_on)


def load_pretrained(folder: str | Path, *, backbone: nn.Module | None = None, device: str | torch.device = "cpu") -> Pretrained:
    """Load a folder that `save_pretrained` wrote: the model in evaluation mode on `device`, its codebook and class names.

    Args:
        backbone: needed if the model was saved with a backbone that is not part of this package; build it with the
            same settings as before. Its weights are read from the folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the folder holds something else or has a newer format; a file is damaged or is no safetensors file; or the
            weights do not fit the backbone or the length of the codes.
        ImportError: safetensors, or a package that the backbone needs, is not installed.

    Example:
        >>> import tempfile
        >>> from orthohash_triton.models import HashModel, load_pretrained
        >>> folder = tempfile.mkdtemp()
        >>> HashModel("features", 16, (8,)).save_pretrained(folder)
        >>> load_pretrained(folder).model.bits
        16
    """
    folder = Path(folder)
    description = read_description(folder)
    model = build_pretrained(folder, description, backbone)
    codebook = read_codebook(folder, description)
    return Pretrained(model.to(device), codebook, tuple(description["class_names"]), description["backbone"])


def __getattr__(name: str) -> Any:
    return find_moved(__name__, name)
