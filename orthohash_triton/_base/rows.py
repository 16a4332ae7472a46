"""Rows of matrices scaled to length one."""

import torch
from torch import Tensor


def unit_rows(values: Tensor) -> Tensor:
    """Divide each row of values [..., K] by its length; a zero row stays zero and gets no gradient.

    Rows of any finite size keep their direction, because they are divided by their largest entry first; the squares of entries
    above 1e19 or below 1e-23 would leave float32. A row with an entry that is NaN or infinite gets NaN.
    """
    largest = values.detach().abs().amax(-1, keepdim=True)
    values = values / largest.where(largest != 0, 1)  # infinity divided by itself is NaN
    square = values.square().sum(-1, keepdim=True)
    return torch.where(square == 0, 0, values / square.where(square != 0, 1).sqrt())
