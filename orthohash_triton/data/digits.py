"""The data set digits: the 1,797 handwritten digits of scikit-learn, grey, 8 x 8, ten classes (UCI ML repository)."""

import numpy as np
import torch

from .._base.extras import install
from .dataset import Dataset, Splits, split_stratified
from .named import NamedDataset

QUERY_FRACTION = 0.2


def load() -> Dataset:
    """Load all digits, uint8 [1797, 8, 8]. The values 0 to 16 of scikit-learn are scaled to 0 to 255.

    Raises:
        ImportError: scikit-learn is not installed.

    Example:
        >>> from orthohash_triton.data import digits
        >>> digits.load().inputs.shape
        torch.Size([1797, 8, 8])
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(f"the digits need scikit-learn: {install('scikit-learn', extra='train')}") from error
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return Dataset(torch.from_numpy(images), torch.from_numpy(labels), tuple("0123456789"), "scikit-learn digits")


def load_splits(seed: int = 0) -> Splits:
    """Return a fifth of every class as queries, and the rest as training set and gallery.

    Example:
        >>> from orthohash_triton.data import digits
        >>> [len(part) for part in digits.load_splits()]
        [1438, 1438, 359]
    """
    return split_stratified(load(), QUERY_FRACTION, seed)


DATASET = NamedDataset(
    name="digits",
    summary="1,797 grey images of ten classes; a fifth are queries",
    splits=lambda options: load_splits(options.seed),
    samples={"": load},
)
