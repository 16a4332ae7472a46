"""The hash layer: features to continuous codes, and to packed binary codes."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._base import checks
from .._base.arrays import as_tensor
from ..ops.pack_codes import pack_codes

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class HashHead(nn.Module):
    """The hash layer: a linear layer, by default followed by batch normalisation.

    With batch normalisation it is the layer of OrthoHash: Linear without bias (weights N(0, 0.01^2)), then BatchNorm1d. Without
    it, it is the layer of DHN, HashNet, CSQ and others: one Linear with bias 0 and weights N(0, 0.64^2 / in_features). That is
    their N(0, 0.01^2) on the 4,096 features of AlexNet. Losses on products of codes have a saddle at 0, and with the same
    deviation fewer features would start nearer to it.

    For training, pass `latent(features)` and `batch_norm` to `OrthoHashLoss`, or `forward(features)` to a loss on continuous
    codes. `forward` returns continuous codes [N, bits], and `encode` packed binary codes, uint8 [N, ceil(bits / 8)], in which a
    bit is 1 if the continuous code is above 0.

    Args:
        in_features: D, at least 1.
        bits: K, a positive multiple of 8, so that codes fill whole bytes.
        batch_norm: whether BatchNorm1d follows; otherwise `head.batch_norm` is None.
        bias: whether the linear layer has a bias; None is True without batch normalisation, which has a bias of its own.
        padded: accept any positive number of bits. `encode` then fills the last byte of a code with zeros: they add nothing to a
            distance, but an index counts them among its bits. `from_linear`, which takes weights that exist, always does.

    Raises:
        TypeError, ValueError: for a number of features or bits that is not accepted.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> _ = torch.manual_seed(0)
        >>> head = oht.nn.HashHead(in_features=32, bits=64).eval()
        >>> features = torch.randn(5, 32)
        >>> head(features).shape, head.encode(features).shape
        (torch.Size([5, 64]), torch.Size([5, 8]))
        >>> head.encode(features.numpy()).shape
        (5, 8)
        >>> torch.allclose(head.folded()(features), head(features), atol=1e-6)
        True
    """

    batch_norm: nn.BatchNorm1d | None

    def __init__(
        self, in_features: int, bits: int, *, batch_norm: bool = True, bias: bool | None = None, padded: bool = False
    ) -> None:
        super().__init__()
        in_features = checks.integer("HashHead", "in_features", in_features, minimum=1)
        bits = checks.integer("HashHead", "bits", bits, minimum=1)
        if bits % 8 and not padded:
            raise ValueError(
                f"HashHead: bits must be a multiple of 8, so that codes fill whole bytes; got {bits}. Use {bits + 8 - bits % 8}, "
                "or pass padded=True to fill the last byte of each code with zeros"
            )
        self.linear = nn.Linear(in_features, bits, bias=not batch_norm if bias is None else bias)
        nn.init.normal_(self.linear.weight, std=0.01 if batch_norm else 0.64 * in_features**-0.5)
        if self.linear.bias is not None:
            nn.init.zeros_(self.linear.bias)
        self.batch_norm = nn.BatchNorm1d(bits) if batch_norm else None

    @classmethod
    def from_linear(cls, weight: Tensor, bias: Tensor) -> "HashHead":
        """Return a head without batch normalisation that computes `features @ weight.T + bias`.

        Args:
            weight: floating [K, D], K and D at least 1. The head gets a copy.
            bias: floating [K].

        Raises:
            TypeError, ValueError: for another dtype or shape.
        """
        weight = checks.tensor("HashHead.from_linear", "weight", weight, dtypes=_FLOATS, ndim=2, shape="[K, D]")
        bits, in_features = weight.shape
        bias = checks.tensor("HashHead.from_linear", "bias", bias, dtypes=_FLOATS, ndim=1, shape="[K]")
        if len(bias) != bits:
            raise ValueError(f"HashHead.from_linear: bias must be [{bits}], one per row of weight; got {checks.describe(bias)}")
        with torch.device("meta"):  # no memory and no random numbers for parameters that are replaced below
            head = cls(in_features, bits, batch_norm=False, padded=True)
        head.linear.weight, head.linear.bias = (nn.Parameter(tensor.detach().clone()) for tensor in (weight, bias))
        return head

    def latent(self, features: Tensor) -> Tensor:
        """Return the input of the batch normalisation: float [N, D] -> [N, bits].

        Under PyTorch's FSDP2, `register_fsdp_forward_method(head, "latent")` makes this method gather the sharded weights.
        """
        return self.linear(features)

    def forward(self, features: Tensor) -> Tensor:
        """Return continuous codes: float [N, D] -> [N, bits]."""
        latent = self.linear(features)
        return latent if self.batch_norm is None else self.batch_norm(latent)

    @torch.no_grad()
    def encode(self, features: Any) -> Any:
        """Return packed codes: float [N, D] -> uint8 [N, ceil(bits / 8)].

        A NumPy array, of any real dtype, gives a NumPy array. It is converted to the dtype of the weight and computed on its
        device.

        Raises:
            TypeError: `features` is an array of complex numbers, objects or text.
            ValueError: continuous codes are NaN, where values may be read: on a CPU, or on a GPU with ORTHOHASH_VALIDATE=1.
        """
        if not isinstance(features, np.ndarray):
            codes = self(features)
            return pack_codes(codes, refuse_nan=checks.may_read_values(codes))
        if features.dtype.kind not in "fiu":
            raise TypeError(f"HashHead.encode: features must be real numbers [N, D]; got {checks.describe(features)}")
        weight = self.linear.weight
        native = features.astype(features.dtype.newbyteorder("="), copy=False)
        return self.encode(as_tensor(native).to(weight.device, weight.dtype)).cpu().numpy()

    def folded(self) -> "HashHead":
        """Return a head without batch normalisation that computes what this one does in eval mode, in one matrix product.

        Weight and bias absorb the affine map of the batch normalisation in float64, and are then rounded to the dtype of the
        weight. Continuous codes agree up to rounding, so bits can differ only where a continuous code is within rounding of 0.
        The new head shares no memory with this one.

        Raises:
            ValueError: if the batch normalisation has no running statistics.
        """
        return self._from_wide(*self._affine())

    def rotated(self, matrix: Tensor) -> "HashHead":
        """Return `folded()` followed by a rotation, at no extra cost: it computes `forward(features) @ matrix` in eval mode.

        Args:
            matrix: float [bits, bits], as `fit_itq(...).matrix` or `fit_householder(...).matrix`.

        Raises:
            TypeError, ValueError: if `matrix` is not a floating tensor [bits, bits]; or as `folded`.
        """
        matrix = checks.tensor("HashHead.rotated", "matrix", matrix, dtypes=_FLOATS, ndim=2, shape="[bits, bits]")
        bits = self.linear.out_features
        if matrix.shape != (bits, bits):
            raise ValueError(f"HashHead.rotated: matrix must be [{bits}, {bits}]; got {checks.describe(matrix)}")
        weight, bias = self._affine()
        matrix = matrix.detach().to(weight)
        return self._from_wide(matrix.T @ weight, bias @ matrix)

    @torch.no_grad()
    def _affine(self) -> tuple[Tensor, Tensor]:
        """Return weight [K, D] and bias [K] of the whole head in eval mode, float64."""
        weight, norm = self.linear.weight.double(), self.batch_norm
        bias = weight.new_zeros(len(weight)) if self.linear.bias is None else self.linear.bias.double()
        if norm is None:
            return weight, bias
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(
                "HashHead.folded: the batch norm has track_running_stats=False; in eval mode it depends on the batch, "
                "and no single matrix computes that"
            )
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            factor = factor * norm.weight.double()
        bias = (bias - norm.running_mean.double()) * factor
        if norm.bias is not None:
            bias = bias + norm.bias.double()
        return weight * factor[:, None], bias

    def _from_wide(self, weight: Tensor, bias: Tensor) -> "HashHead":
        dtype = self.linear.weight.dtype
        return HashHead.from_linear(weight.to(dtype), bias.to(dtype)).train(self.training)
