"""Data sets for learning to hash: named ones, folders of images, files of features."""

from pathlib import Path

from . import debian, digits, fashion_mnist, features, folders, wordnet_nouns
from .dataset import Dataset, Splits, split_stratified, split_validation

__all__ = [
    "Dataset",
    "Splits",
    "debian",
    "digits",
    "fashion_mnist",
    "features",
    "folders",
    "load_splits",
    "split_stratified",
    "split_validation",
    "wordnet_nouns",
]

NAMED = ("fashion-mnist", "digits", "debian-packages", "wordnet-nouns")


def load_splits(source: str, *, size: int = 64, grey: bool = False, query_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Training set, gallery and queries of `source`.

    source  the name of a set (below), a folder of images, a .npz or .safetensors file of features, or a folder with train,
            query (and gallery) files of features
    size, grey  what images of a folder are resized and converted to
    query_fraction, seed  how a source without a split of its own is split, class by class

    fashion-mnist    70,000 grey images of ten classes of clothing, with its own split
    digits           1,797 grey images of ten classes; a fifth are queries
    debian-packages  some 28,000 descriptions of Debian packages as features, with several of 129 tags each
    wordnet-nouns    some 57,000 definitions of WordNet's nouns as features, of 84 classes with distances between them

    The last two need the optional `text` dependencies and are kept in a cache once they are made (see `debian`, `wordnet_nouns`).
    """
    if source == "fashion-mnist":
        return fashion_mnist.load_splits()
    if source == "digits":
        return digits.load_splits(seed)
    if source == "debian-packages":
        return debian.load_splits(query_fraction, seed)
    if source == "wordnet-nouns":
        return wordnet_nouns.load_splits(query_fraction, seed)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"no data set {source!r}: expected {', '.join(NAMED)}, a folder of images or a .npz/.safetensors file"
        )
    if path.is_file() or features.has_member(path, "train"):
        return features.load_splits(path, query_fraction=query_fraction, seed=seed)
    return folders.load_splits(path, size=size, grey=grey, query_fraction=query_fraction, seed=seed)
