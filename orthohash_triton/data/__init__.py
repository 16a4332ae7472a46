"""Data sets for learning to hash: named ones, folders, manifests and lists of images, and files of features.

Every file of this folder that defines DATASET declares a named data set; `register` adds one that is declared elsewhere.

Example:
    >>> from orthohash_triton import data
    >>> train, gallery, query = data.load_splits("digits")
    >>> len(gallery), len(query), query.sample_shape
    (1438, 359, (1, 8, 8))
"""

from pathlib import Path
from typing import Any

from . import debian, digits, fashion_mnist, features, folders, lists, manifest, wordnet_nouns
from .dataset import UNLABELLED, Dataset, Splits, split_stratified, split_validation
from .images import IN_MEMORY_BYTES, ImageFiles, Skipped
from .named import NamedDataset, find, get, names, register, sample_names
from .options import LoadOptions, make_options
from .readers import check_options, find_reader
from .sources import Batch, Source, open_source

__all__ = [
    "IN_MEMORY_BYTES",
    "UNLABELLED",
    "Batch",
    "Dataset",
    "ImageFiles",
    "LoadOptions",
    "NamedDataset",
    "Skipped",
    "Source",
    "Splits",
    "debian",
    "digits",
    "fashion_mnist",
    "features",
    "folders",
    "get",
    "lists",
    "load_splits",
    "manifest",
    "names",
    "open_source",
    "register",
    "sample_names",
    "split_stratified",
    "split_validation",
    "wordnet_nouns",
]


def load_splits(source: str | Path, options: LoadOptions | None = None, **keywords: Any) -> Splits:
    """Return the training set, the gallery and the queries of a data set.

    Args:
        source: a name of `names()`, or the path of one of these:

            - a folder of images with one sub-folder per class, or without classes (see `folders`);
            - a manifest of image files, .csv, .tsv or .parquet (see `manifest`);
            - a list of image files, .txt with labels as zeros and ones, or a folder of train.txt, test.txt and database.txt
              (see `lists`);
            - features, .npz, .safetensors or .npy, or a folder of train, query and gallery files (see `features`).
        options: see `LoadOptions`; the defaults when None.
        **keywords: single options by name, which take precedence over those of `options`.

    The named data sets of this package are

    - fashion-mnist: 70,000 grey images of ten classes of clothing, with their own split;
    - digits: 1,797 grey images of ten classes; a fifth are queries;
    - debian-packages: some 28,000 descriptions of Debian packages as features, with several of 129 tags each;
    - wordnet-nouns: some 57,000 definitions of WordNet's nouns as features, of 84 classes with distances between them.

    The last two need the optional dependencies `text`, and are cached once they are made (see `debian`, `wordnet_nouns`).

    Raises:
        FileNotFoundError: the source, or a file that it names, does not exist.
        TypeError: an unknown option.
        ValueError: the source is of no known kind, or does not accept an option.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from orthohash_triton import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mine.npz"
        ...     np.savez(path, features=np.zeros((10, 3)), labels=np.arange(10) % 2)
        ...     train, gallery, query = data.load_splits(path, query_fraction=0.4)
        >>> query.labels.tolist()
        [0, 1, 0, 1]
    """
    options = make_options("load_splits", options, keywords)
    dataset = find(source)
    if dataset is None:
        return find_reader(source, options.of_source(), names()).load_splits(source, options)
    check_options(source, options.of_source(), "this named data set", dataset.options)
    return dataset.splits(options)
