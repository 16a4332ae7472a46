"""Data sets for learning to hash: named ones, folders of images, manifests and lists of them, files of features."""

from pathlib import Path
from typing import Any

from . import debian, digits, fashion_mnist, features, folders, lists, manifest, wordnet_nouns
from .dataset import UNLABELLED, Dataset, Splits, split_stratified, split_validation
from .images import IN_MEMORY_BYTES, ImageFiles, Skipped
from .listing import load_parts
from .readers import find_reader
from .sources import Batch, Source, open_source

__all__ = [
    "IN_MEMORY_BYTES",
    "UNLABELLED",
    "Batch",
    "Dataset",
    "ImageFiles",
    "Skipped",
    "Source",
    "Splits",
    "debian",
    "digits",
    "fashion_mnist",
    "features",
    "folders",
    "lists",
    "load_splits",
    "manifest",
    "open_source",
    "split_stratified",
    "split_validation",
    "wordnet_nouns",
]

NAMED = ("fashion-mnist", "digits", "debian-packages", "wordnet-nouns")


def load_splits(
    source: str | Path,
    *,
    size: int = 64,
    grey: bool = False,
    query_fraction: float = 0.1,
    seed: int = 0,
    on_error: str = "skip",
    in_memory: int = IN_MEMORY_BYTES,
    root: str | Path | None = None,
    on_missing: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    labels: str | Path | None = None,
) -> Splits:
    """Training set, gallery and queries of `source`: the name of a set (below), or the path of

    a folder of images          one sub-folder per class, or no classes at all (`folders`)
    a manifest of image files   .csv, .tsv or .parquet (`manifest`)
    a list of image files       .txt with labels as zeros and ones, or a folder of train.txt, test.txt, database.txt (`lists`)
    features                    .npz, .safetensors or .npy, or a folder of train, query and gallery files (`features`)

    size, grey  what images in files are resized and converted to
    query_fraction, seed  how a source without a split of its own is split, class by class
    on_error    of images that cannot be decoded: "skip" leaves them out, tells so on standard error and lists them as
                `Dataset.skipped`; "raise" makes the first of them an error
    in_memory   bytes up to which decoded images are held in memory; a larger set is decoded batch by batch (`ImageFiles`)
    root        of manifests and lists: the folder that relative paths start from
    on_missing  of manifests and lists: files that are not there are an error, "raise", or left out, "skip"
    path_column, label_column, split_column  of manifests: the names of those columns
    labels      of one file of features: a .npy file of its labels

    fashion-mnist    70,000 grey images of ten classes of clothing, with its own split
    digits           1,797 grey images of ten classes; a fifth are queries
    debian-packages  some 28,000 descriptions of Debian packages as features, with several of 129 tags each
    wordnet-nouns    some 57,000 definitions of WordNet's nouns as features, of 84 classes with distances between them

    The last two need the optional `text` dependencies and are kept in a cache once they are made (see `debian`, `wordnet_nouns`).

    Raises:
        FileNotFoundError: there is no such source, or files that it names are missing.
        ValueError: nothing that is understood, or an option that this kind of source does not take.
    """
    given = _given(
        root=root, on_missing=on_missing, labels=labels,
        path_column=path_column, label_column=label_column, split_column=split_column,
    )  # fmt: skip
    if source in NAMED and given:
        raise ValueError(f"{source}: {', '.join(given)} cannot be set for it; it takes no option of files")
    if source == "fashion-mnist":
        return fashion_mnist.load_splits()
    if source == "digits":
        return digits.load_splits(seed)
    if source == "debian-packages":
        return debian.load_splits(query_fraction, seed)
    if source == "wordnet-nouns":
        return wordnet_nouns.load_splits(query_fraction, seed)
    reader = find_reader(source, given, NAMED)
    if reader.parts is None:
        return features.load_splits(source, query_fraction=query_fraction, seed=seed, **given)
    return load_parts(
        reader.parts(source, **given), str(source),
        size=size, grey=grey, query_fraction=query_fraction, seed=seed, on_error=on_error, in_memory=in_memory,
    )  # fmt: skip


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
