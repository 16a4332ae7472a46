"""The hash layer: from features to continuous codes, and to packed binary ones."""

import torch
from torch import Tensor, nn

from ..ops.pack_codes import pack_codes


class HashHead(nn.Module):
    """The hash layer of OrthoHash: Linear without bias (weights N(0, 0.01^2)), then BatchNorm1d.

    Training feeds `latent(features)` and `batch_norm` to `OrthoHashLoss`; `forward` gives the continuous codes [N, bits] and
    `encode` the packed binary ones, uint8 [N, ceil(bits / 8)], bit 1 where a continuous code is above 0.
    """

    def __init__(self, in_features: int, bits: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, bits, bias=False)
        nn.init.normal_(self.linear.weight, std=0.01)
        self.batch_norm = nn.BatchNorm1d(bits)

    def latent(self, features: Tensor) -> Tensor:
        return self.linear(features)

    def forward(self, features: Tensor) -> Tensor:
        return self.batch_norm(self.linear(features))

    @torch.no_grad()
    def encode(self, features: Tensor) -> Tensor:
        return pack_codes(self(features))
