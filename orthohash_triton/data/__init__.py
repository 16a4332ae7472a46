"""Data sets for learning to hash: Fashion-MNIST, scikit-learn's digits, folders of images, files of features."""

from pathlib import Path

from . import digits, fashion_mnist, features, folders
from .dataset import Dataset, Splits, split_stratified

__all__ = ["Dataset", "Splits", "digits", "fashion_mnist", "features", "folders", "load_splits", "split_stratified"]

NAMED = ("fashion-mnist", "digits")


def load_splits(source: str, *, size: int = 64, grey: bool = False, query_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Training set, gallery and queries of `source`.

    source  "fashion-mnist", "digits", a folder of images, a .npz or .safetensors file of features, or a folder with
            train, query (and gallery) files of features
    size, grey  what images of a folder are resized and converted to
    query_fraction, seed  how a source without a split of its own is split, class by class
    """
    if source == "fashion-mnist":
        return fashion_mnist.load_splits()
    if source == "digits":
        return digits.load_splits(seed)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"no data set {source!r}: expected {', '.join(NAMED)}, a folder of images or a .npz/.safetensors file"
        )
    if path.is_file() or features.has_member(path, "train"):
        return features.load_splits(path, query_fraction=query_fraction, seed=seed)
    return folders.load_splits(path, size=size, grey=grey, query_fraction=query_fraction, seed=seed)
