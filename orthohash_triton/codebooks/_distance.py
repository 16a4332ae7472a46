"""The smallest distance of a codebook, which measures its quality."""

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.arrays import as_tensor


def codebook_min_distance(codebook: Tensor | np.ndarray) -> int:
    """Return the smallest Hamming distance between two rows of a codebook.

    No [C, C] matrix is formed.

    Args:
        codebook: [C, K] of +-1 with at least two rows, of any numeric dtype; a tensor on any device, or a NumPy array.

    Returns:
        The number of bits in which the two nearest rows differ. 0 means that two classes share a code.

    Raises:
        TypeError: `codebook` is not a numeric tensor or array.
        ValueError: `codebook` is not two-dimensional, has fewer than two rows, or has values other than +-1.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> oht.codebook_min_distance(torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [-1, -1, -1, 1]]))
        2
    """
    from ..kernels.cpu import codebook as kernel

    op = "codebook_min_distance"
    dtypes = (torch.int8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64, torch.float16, torch.bfloat16)
    rows = checks.tensor(op, "codebook", as_tensor(codebook), dtypes=dtypes, ndim=2, shape="[C, K] of +-1")
    if rows.shape[0] < 2 or rows.shape[1] == 0:
        raise ValueError(f"{op}: codebook must have at least two rows and one bit; got {checks.describe(rows)}")
    if not ((rows == 1) | (rows == -1)).all():
        raise ValueError(f"{op}: codebook must hold only +1 and -1; got other values in {checks.describe(rows)}")
    packed = np.packbits((rows > 0).cpu().numpy(), axis=1, bitorder="little")
    return kernel.min_distance(packed)
