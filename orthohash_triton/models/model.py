"""The hashing model: a backbone and a hash head. The signs of its output are the binary code."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._base.modes import evaluating
from .._base.reading import naming
from ..kernels.forks import limit_torch_after_fork
from ..nn import HashHead
from ._inputs import as_samples
from .backbones import SIZED_BY_SAMPLES, backbone_name, make_backbone, out_features
from .pretrained_files import CONFIG, read_codebook, read_description, read_weights, require_fitting, write_pretrained


class HashModel(nn.Module):
    """A backbone followed by a hash head.

    `inputs` of `features`, `continuous_codes` and `encode` are one of

    - samples as a `Dataset` stores them, as a tensor, an array or `ImageFiles`: images uint8 [N, H, W] (grey) or [N, C, H, W], or
      features float32 [N, D];
    - an image of any size, which is prepared as an image of a data set is (see `data.decoding`): a PIL image, the path of a file,
      or an array uint8 [height, width] or [height, width, channels] with 1, 3 or 4 channels;
    - a list of such images, or an array of them, uint8 [N, height, width, channels]. In a list, an image can also be a tensor
      uint8 [H, W] or [channels, H, W];
    - for a model of features, a list of vectors [D].

    A large JPEG file is decoded at a fraction of its size, so that single bits of its code can differ from those of the image
    that Pillow decodes in full.

    Args:
        backbone: a module as `backbones` describes, or the name of one in BACKBONES.
        bits: length of the codes.
        sample_shape: shape of one sample: (C, H, W) of an image, or (D,) of a feature vector.
        batch_norm: whether the head ends with batch normalisation.
        padded: accept a number of bits that is not a multiple of 8, as `nn.HashHead` does.

    Raises:
        TypeError, ValueError: inputs that are neither, that have another shape than the model takes, or that cannot be decoded.
        FileNotFoundError: an image file does not exist.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from orthohash_triton.models import HashModel
        >>> model = HashModel("small-cnn", bits=16, sample_shape=(1, 28, 28))
        >>> model.encode(torch.zeros(5, 28, 28, dtype=torch.uint8)).shape
        torch.Size([5, 2])
        >>> model.encode(np.zeros((480, 640, 3), np.uint8)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        backbone: nn.Module | str,
        bits: int,
        sample_shape: tuple[int, ...],
        *,
        batch_norm: bool = True,
        padded: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = make_backbone(backbone, sample_shape) if isinstance(backbone, str) else backbone
        self.head = HashHead(out_features(self.backbone, sample_shape), bits, batch_norm=batch_norm, padded=padded)
        self.bits = bits
        self.sample_shape = sample_shape

    def prepare(self, inputs: Tensor) -> Tensor:
        """Convert samples as a `Dataset` stores them into what the backbone takes, on the model's device.

        Images become float32 [N, C, H, W] in [0, 1]; features are unchanged.

        Example:
            >>> import torch
            >>> from orthohash_triton.models import HashModel
            >>> images = torch.full((2, 8, 8), 255, dtype=torch.uint8)
            >>> prepared = HashModel("pixels", 16, (1, 8, 8)).prepare(images)
            >>> prepared.shape, prepared.max()
            (torch.Size([2, 1, 8, 8]), tensor(1.))
        """
        inputs = inputs.to(self.head.linear.weight.device)
        if inputs.dtype != torch.uint8:
            return inputs
        images = inputs.unsqueeze(1) if inputs.ndim == 3 else inputs
        return images.float().div_(255)

    def latent(self, inputs: Tensor) -> Tensor:
        """Return the input of the loss, float32 [N, bits]: the output of the head before batch norm, of prepared samples.

        Example:
            >>> import torch
            >>> from orthohash_triton.models import HashModel
            >>> HashModel("features", 16, (8,)).latent(torch.zeros(2, 8)).shape
            torch.Size([2, 16])
        """
        return self.head.latent(self.backbone(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the values whose signs are the code, float32 [N, bits], of prepared samples."""
        return self.head(self.backbone(inputs))

    @torch.no_grad()
    def features(self, inputs: Any, *, batch_size: int = 1024) -> Tensor:
        """Return the output of the backbone, float32 [N, D] in host memory, computed in evaluation mode.

        Example:
            >>> import torch
            >>> from orthohash_triton.models import HashModel
            >>> HashModel("pixels", 16, (1, 8, 8)).features(torch.zeros(5, 8, 8, dtype=torch.uint8)).shape
            torch.Size([5, 64])
        """
        return torch.cat([self.backbone(batch).cpu() for batch in self._batches(inputs, batch_size)])

    @torch.no_grad()
    def continuous_codes(self, inputs: Any, *, batch_size: int = 1024) -> Tensor:
        """Return the values whose signs are the code, float32 [N, bits] in host memory, computed in evaluation mode.

        Example:
            >>> import torch
            >>> from orthohash_triton.models import HashModel
            >>> HashModel("pixels", 16, (1, 8, 8)).continuous_codes(torch.zeros(5, 8, 8, dtype=torch.uint8)).shape
            torch.Size([5, 16])
        """
        return torch.cat([self(batch).cpu() for batch in self._batches(inputs, batch_size)])

    @torch.no_grad()
    def encode(self, inputs: Any, *, batch_size: int = 1024) -> Tensor:
        """Return packed codes, uint8 [N, ceil(bits/8)] in host memory, computed in evaluation mode.

        One batch at a time is on the device, so there can be more images than fit into its memory.

        Example:
            >>> import torch
            >>> from orthohash_triton.models import HashModel
            >>> HashModel("pixels", 16, (1, 8, 8)).encode(torch.zeros(5, 8, 8, dtype=torch.uint8)).shape
            torch.Size([5, 2])
        """
        return torch.cat([self.head.encode(self.backbone(batch)).cpu() for batch in self._batches(inputs, batch_size)])

    def save_pretrained(
        self, folder: str | Path, *, codebook: Tensor | None = None, class_names: Sequence[str] = (), backbone: str | None = None
    ) -> None:
        """Write the model to `folder`, for `from_pretrained`. `pretrained_files` describes the files.

        Args:
            codebook: int8 +-1 [C, bits], stored next to the weights.
            class_names: names of the codebook's rows.
            backbone: the name that `make_backbone` builds the backbone by. With None the name is found for backbones of this
                package; a model with another backbone needs that backbone again when it is loaded.

        Raises:
            ValueError, FileExistsError, ImportError: see `pretrained.save_pretrained`.

        Example:
            >>> import tempfile
            >>> import torch
            >>> from orthohash_triton.models import HashModel
            >>> folder, samples = tempfile.mkdtemp(), torch.randn(3, 8)
            >>> model = HashModel("features", 16, (8,))
            >>> model.save_pretrained(folder)
            >>> torch.equal(HashModel.from_pretrained(folder).encode(samples), model.encode(samples))
            True
        """
        write_pretrained(Path(folder), describe_model(self, backbone, class_names), self.state_dict(), codebook, {}, None)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, backbone: nn.Module | None = None, device: str | torch.device = "cpu"
    ) -> "HashModel":
        """Load the model that `save_pretrained` wrote to `folder`, in evaluation mode.

        `load_pretrained` also returns the codebook and the class names.

        Args:
            backbone: needed if the model was saved with a backbone that is not part of this package; its weights are read from
                the folder.

        Raises:
            FileNotFoundError, ValueError, ImportError: see `load_pretrained`.

        Example:
            >>> import tempfile
            >>> from orthohash_triton.models import HashModel
            >>> folder = tempfile.mkdtemp()
            >>> HashModel("features", 16, (8,)).save_pretrained(folder)
            >>> HashModel.from_pretrained(folder).bits
            16
        """
        folder = Path(folder)
        description = read_description(folder)
        model = build_pretrained(folder, description, backbone)
        read_codebook(folder, description)  # a folder with a damaged file is refused as a whole
        return model.to(device)

    def _batches(self, inputs: Any, batch_size: int) -> Iterator[Tensor]:
        """Yield prepared batches, at least one, while the model is in evaluation mode."""
        limit_torch_after_fork()
        samples = as_samples(inputs, self.sample_shape)
        expected = self.sample_shape[1:] if self.sample_shape[0] == 1 and samples.ndim == 3 else self.sample_shape
        if tuple(samples.shape[1:]) != tuple(expected):
            raise ValueError(f"the model takes samples of shape {list(expected)}; got inputs {list(samples.shape)}")
        with evaluating(self):
            for batch in samples.split(batch_size):
                yield self.prepare(batch)


def describe_model(model: HashModel, backbone: str | None, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the description of `model` for config.json, from which `build_pretrained` builds it again."""
    return {
        "backbone": backbone or backbone_name(model.backbone, model.sample_shape),
        "backbone_type": type(model.backbone).__name__,
        "sample_shape": list(model.sample_shape),
        "features": model.head.linear.in_features,
        "bits": model.bits,
        "batch_norm": model.head.batch_norm is not None,
        "head_bias": model.head.linear.bias is not None,
        "class_names": list(class_names),
    }


def build_pretrained(folder: Path, description: Mapping[str, Any], backbone: nn.Module | None) -> HashModel:
    """Build the model of `description`, in evaluation mode on the CPU, with the weights in `folder`.

    `backbone` replaces the one that `description` names.
    """
    weights = read_weights(folder, description["bits"])
    if backbone is None and description["backbone"] in SIZED_BY_SAMPLES:
        with torch.device("meta"):  # absurd sizes in the description are noticed before memory is allocated for them
            trial = _untrained(folder, description, None)
        require_fitting(folder, weights, trial.state_dict(), type(trial.backbone).__name__)
    model = _untrained(folder, description, backbone)
    require_fitting(folder, weights, model.state_dict(), type(model.backbone).__name__)
    model.load_state_dict(weights)
    return model.eval()


def _untrained(folder: Path, description: Mapping[str, Any], backbone: nn.Module | None) -> HashModel:
    """Build the model of `description` with random weights."""
    if backbone is None:
        if description["backbone"] is None:
            raise ValueError(
                f"{folder} was saved with a backbone of its own ({description['backbone_type']}), which is code and not in the "
                "folder; build it and pass it: from_pretrained(folder, backbone=...)"
            )
        with naming(folder / CONFIG, "description of a model"):
            backbone = make_backbone(description["backbone"], tuple(description["sample_shape"]), pretrained=False)
    sample_shape, batch_norm = tuple(description["sample_shape"]), description["batch_norm"]
    model = HashModel(backbone, description["bits"], sample_shape, batch_norm=batch_norm, padded=True)
    features = model.head.linear.in_features
    if features != description["features"]:
        raise ValueError(
            f"{folder}: its head takes {description['features']} features, the backbone returns {features}. "
            f"Build the backbone ({description['backbone_type']}) exactly as it was when the model was saved"
        )
    if (model.head.linear.bias is not None) != description["head_bias"]:
        model.head = HashHead(features, model.bits, batch_norm=batch_norm, bias=description["head_bias"], padded=True)
    return model
