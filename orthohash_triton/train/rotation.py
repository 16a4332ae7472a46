"""Rotations of a trained model's continuous codes, fitted after training and multiplied into the hash head."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..data.images import ImageFiles
from ..models.model import HashModel
from ..rotations import Rotation, fit_householder, fit_itq

RotationName = Literal["none", "itq", "householder"]

ROTATIONS: dict[RotationName, Callable[..., Rotation]] = {"itq": fit_itq, "householder": fit_householder}
"""Name -> function that fits the rotation to continuous codes float32 [N, K]."""

ROTATION_SAMPLES = 10_000
"""Largest number of codes that a rotation is fitted to: enough for its K^2 / 2 unknowns."""


def rotate(model: HashModel, inputs: Tensor | ImageFiles, kind: RotationName, *, seed: int = 0) -> None:
    """Fit the rotation `kind` to the continuous codes of `inputs` and multiply it into the head of `model`.

    Args:
        inputs: samples as a `Dataset` stores them.
        kind: a key of ROTATIONS.

    Example:
        >>> import torch
        >>> from orthohash_triton.models import HashModel
        >>> from orthohash_triton.train.rotation import rotate
        >>> model = HashModel("features", 16, (20,))
        >>> rotate(model, torch.randn(100, 20), "itq")
        >>> model.encode(torch.randn(3, 20)).shape
        torch.Size([3, 2])
    """
    model.head = model.head.rotated(fit_rotation(model.continuous_codes(inputs), kind, seed=seed).matrix)


def fit_rotation(codes: Tensor, kind: RotationName, *, seed: int = 0) -> Rotation:
    """Return the rotation `kind` fitted to continuous codes [N, K], or to ROTATION_SAMPLES random rows if there are more.

    Example:
        >>> import torch
        >>> from orthohash_triton.train.rotation import fit_rotation
        >>> fit_rotation(torch.randn(100, 16), "itq").matrix.shape
        torch.Size([16, 16])
    """
    if len(codes) > ROTATION_SAMPLES:
        codes = codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))[:ROTATION_SAMPLES]]
    return ROTATIONS[kind](codes, seed=seed)
