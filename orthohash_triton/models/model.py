"""The hashing model: a backbone under a hash head, whose signs are the code."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._base.modes import evaluating
from ..data.images import ImageFiles
from ..nn import HashHead
from .backbones import make_backbone, out_features


class HashModel(nn.Module):
    """A backbone under a hash head.

    backbone      any module as `backbones` describes, or the name of one of BACKBONES
    bits          length of the codes
    sample_shape  (C, H, W) of the images, or (D,) of the features that it will see
    batch_norm    whether the head ends with batch normalisation
    """

    def __init__(self, backbone: nn.Module | str, bits: int, sample_shape: tuple[int, ...], *, batch_norm: bool = True) -> None:
        super().__init__()
        self.backbone = make_backbone(backbone, sample_shape) if isinstance(backbone, str) else backbone
        self.head = HashHead(out_features(self.backbone, sample_shape), bits, batch_norm=batch_norm)
        self.bits = bits
        self.sample_shape = sample_shape

    def prepare(self, inputs: Tensor) -> Tensor:
        """Samples as a Dataset keeps them (uint8 images, float32 features) as the backbone takes them, on its device."""
        inputs = inputs.to(self.head.linear.weight.device)
        if inputs.dtype != torch.uint8:
            return inputs
        images = inputs.unsqueeze(1) if inputs.ndim == 3 else inputs
        return images.float().div_(255)

    def latent(self, inputs: Tensor) -> Tensor:
        """What the loss takes: prepared samples -> float32 [N, bits], before the batch norm."""
        return self.head.latent(self.backbone(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Prepared samples -> float32 [N, bits], whose signs are the code."""
        return self.head(self.backbone(inputs))

    @torch.no_grad()
    def features(self, inputs: Tensor | ImageFiles, *, batch_size: int = 1024) -> Tensor:
        """The backbone's features of samples as a Dataset keeps them: float32 [N, D], in host memory."""
        return torch.cat([self.backbone(batch).cpu() for batch in self._batches(inputs, batch_size)])

    @torch.no_grad()
    def continuous_codes(self, inputs: Tensor | ImageFiles, *, batch_size: int = 1024) -> Tensor:
        """What the signs are taken of, for samples as a Dataset keeps them: float32 [N, bits], in host memory."""
        return torch.cat([self(batch).cpu() for batch in self._batches(inputs, batch_size)])

    @torch.no_grad()
    def encode(self, inputs: Tensor | ImageFiles, *, batch_size: int = 1024) -> Tensor:
        """Codes of samples as a Dataset keeps them: uint8 [N, ceil(bits/8)], in host memory.

        Streams batch by batch in evaluation mode, so any number of images fits.
        """
        return torch.cat([self.head.encode(self.backbone(batch)).cpu() for batch in self._batches(inputs, batch_size)])

    def save_pretrained(
        self, folder: str | Path, *, codebook: Tensor | None = None, class_names: Sequence[str] = (), backbone: str | None = None
    ) -> None:
        """Write the model to `folder` for `from_pretrained`: config.json, model.safetensors, README.md; see `pretrained`.

        codebook     int8 +-1 [C, bits], kept beside the weights as codebook.safetensors
        class_names  of the codebook's rows
        backbone     the name that `make_backbone` builds the backbone by; None finds it for those of this package, and any other
                     one is then asked for again when the model is loaded
        """
        from .pretrained import save_pretrained

        save_pretrained(self, folder, codebook=codebook, class_names=class_names, backbone=backbone)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, backbone: nn.Module | None = None, device: Any = "cpu") -> "HashModel":
        """The model that `save_pretrained` wrote to `folder`, in evaluation mode; `load_pretrained` answers all that is there.

        A model with a backbone of the caller's own needs that `backbone` again; its weights come from the folder.
        """
        from .pretrained import load_pretrained

        return load_pretrained(folder, backbone=backbone, device=device).model

    def _batches(self, inputs: Tensor | ImageFiles, batch_size: int) -> Iterator[Tensor]:
        """Prepared batches, at least one, while the model stands in evaluation mode."""
        expected = self.sample_shape[1:] if self.sample_shape[0] == 1 and inputs.ndim == 3 else self.sample_shape
        if tuple(inputs.shape[1:]) != tuple(expected):
            raise ValueError(f"the model takes samples of shape {list(expected)}; got inputs {list(inputs.shape)}")
        with evaluating(self):
            for batch in inputs.split(batch_size):
                yield self.prepare(batch)
