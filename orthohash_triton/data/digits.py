"""The handwritten digits that ship inside scikit-learn: 1,797 grey images, 8 x 8, ten classes (UCI ML repository)."""

import numpy as np
import torch

from .dataset import Dataset, Splits, split_stratified

QUERY_FRACTION = 0.2


def load() -> Dataset:
    """All the digits, uint8 [1797, 8, 8]; scikit-learn's values 0 to 16 are stretched to 0 to 255."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the digits need scikit-learn: pip install "orthohash-triton[train]"') from error
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return Dataset(torch.from_numpy(images), torch.from_numpy(labels), tuple("0123456789"), "scikit-learn digits")


def load_splits(seed: int = 0) -> Splits:
    """A fifth of every class as queries, the rest as training set and gallery."""
    return split_stratified(load(), QUERY_FRACTION, seed)
