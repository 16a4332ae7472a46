"""Lists of image files with their labels, which are not opened yet. Folders, manifests and lists are read into them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from .._base import checks
from .dataset import UNLABELLED, Dataset, Splits, split_stratified
from .images import Skipped, listed, open_images, report_skipped
from .options import LoadOptions, OnMissing

PARTS = {
    "train": ("train", "training"),
    "gallery": ("gallery", "database", "db", "index"),
    "query": ("query", "queries", "test"),
    "validation": ("validation", "valid", "val"),
}
"""The parts of a data set, and the names that each may have in a source."""

_SHOWN = 3  # missing files in a message


@dataclass(frozen=True)
class Listing:
    """Image files with their labels.

    Attributes:
        name: description of the source, for messages.
        paths: absolute paths of the files.
        labels: int64 [N] or bool [N, C], as in `Dataset`.
        class_names: C names.
        skipped: files of the source that were left out already.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data.listing import unlabelled
        >>> len(unlabelled("photos", [Path("/photos/1.jpg"), Path("/photos/2.jpg")]))
        2
    """

    name: str
    paths: tuple[Path, ...]
    labels: Tensor
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, rows: Tensor) -> "Listing":
        """Return the files at `rows`, int64 [M], in that order."""
        return replace(self, paths=tuple(self.paths[i] for i in rows.tolist()), labels=self.labels[rows])

    def load(self, options: LoadOptions) -> Dataset:
        """Open the images with the `size`, `grey`, `on_error` and `in_memory` of `options`; see `open_images`.

        Files that are left out are reported on standard error.

        Raises:
            ValueError: with on_error="raise", an image cannot be decoded; or none of the images can be decoded, or, if they have
                labels, less than half of them.
        """
        opened = open_images(
            self.paths,
            size=options.size,
            grey=options.grey,
            on_error=options.on_error,
            in_memory=options.in_memory,
            max_pixels=options.max_pixels,
        )
        readable = self if len(opened.rows) == len(self) else self.subset(opened.rows)
        if self.class_names != (UNLABELLED,) and len(opened.skipped) > len(opened.rows):
            raise ValueError(
                f"{self.name}: {len(opened.skipped):,} of {len(self):,} images cannot be read, which are most of them: "
                f"{listed(opened.skipped)}. Replace them, or remove them"
            )
        skipped = (*self.skipped, *opened.skipped)
        report_skipped(self.name, skipped, len(self) + len(self.skipped))
        return Dataset(opened.inputs, readable.labels, self.class_names, self.name, paths=readable.paths, skipped=skipped)


def unlabelled(name: str, paths: Sequence[Path], skipped: Sequence[Skipped] = ()) -> Listing:
    """Return a listing of files without labels, all of the class UNLABELLED.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data.listing import unlabelled
        >>> unlabelled("photos", [Path("/photos/1.jpg")]).class_names
        ('unlabelled',)
    """
    return Listing(name, tuple(paths), torch.zeros(len(paths), dtype=torch.int64), (UNLABELLED,), tuple(skipped))


def drop_missing(listing: Listing, on_missing: OnMissing) -> Listing:
    """Return `listing` without the files that do not exist, which become skipped files.

    Raises:
        FileNotFoundError: a file does not exist and `on_missing` is "raise", or no file exists.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data.listing import drop_missing, unlabelled
        >>> drop_missing(unlabelled("photos", [Path("/nowhere/1.jpg")]), "skip")
        Traceback (most recent call last):
        ...
        FileNotFoundError: photos names 1 of 1 files that do not exist: /nowhere/1.jpg. ...
    """
    checks.choice(listing.name, "on_missing", on_missing, get_args(OnMissing))
    # Path.is_file raises OSError for a name that is too long, which a line of another kind of file can be.
    exists = torch.tensor([os.path.isfile(path) for path in listing.paths], dtype=torch.bool)
    if exists.all():
        return listing
    missing = [listing.paths[i] for i in (~exists).nonzero().flatten().tolist()]
    if on_missing == "raise" or len(missing) == len(listing):
        shown = ", ".join(map(str, missing[:_SHOWN])) + (f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else "")
        raise FileNotFoundError(
            f"{listing.name} names {len(missing):,} of {len(listing):,} files that do not exist: {shown}. "
            'Pass the folder that its paths start from as root, or leave such rows out with on_missing="skip"'
        )
    skipped = tuple(Skipped(path, "no such file") for path in missing)
    kept = listing.subset(exists.nonzero().flatten())
    return replace(kept, skipped=(*listing.skipped, *skipped))


def part_places(folder: Path, suffix: str, exists: Callable[[Path], bool]) -> dict[str, Path]:
    """Return the file or folder of each part in `folder`. Its name is a name in PARTS in any case, followed by `suffix`.

    Raises:
        ValueError: two of them are the same part.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data.listing import part_places
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("train.txt", "test.txt"):
        ...         (Path(folder) / name).touch()
        ...     [(part, path.name) for part, path in part_places(Path(folder), ".txt", Path.is_file).items()]
        [('train', 'train.txt'), ('query', 'test.txt')]
    """
    places = {}
    entries = sorted(os.listdir(folder)) if folder.is_dir() else []
    for part, names in PARTS.items():
        wanted = {f"{name}{suffix}" for name in names}
        found = [place for entry in entries if entry.lower() in wanted and exists(place := folder / entry)]
        if len(found) > 1:
            raise ValueError(f"{folder} has both {found[0].name} and {found[1].name}, two names of one part; keep one")
        if found:
            places[part] = found[0]
    return places


def part_of(name: str) -> str | None:
    """Return the key of PARTS for a part called `name`, ignoring case, or None if no part has this name.

    Example:
        >>> from orthohash_triton.data.listing import part_of
        >>> part_of("Test"), part_of("other")
        ('query', None)
    """
    return next((part for part, names in PARTS.items() if name.strip().lower() in names), None)


def load_parts(parts: dict[str, Listing], name: str, options: LoadOptions) -> Splits:
    """Load the listing of each part and return the three sets; see `Listing.load` and `splits_of`.

    Raises:
        ValueError: images cannot be decoded (see `Listing.load`), a class loses all its images, or a part is missing.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from orthohash_triton.data import LoadOptions
        >>> from orthohash_triton.data.listing import load_parts, unlabelled
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (9, 9)).save(Path(folder) / "1.png")
        ...     parts = {"all": unlabelled("photos", [Path(folder) / "1.png"])}
        ...     [len(part) for part in load_parts(parts, "photos", LoadOptions(size=4))]
        [1, 1, 0]
    """
    loaded = {part: listing.load(options) for part, listing in parts.items()}
    for part in {"all", "train"} & set(parts):
        require_every_class(parts[part], loaded[part])
    return splits_of(loaded, name, query_fraction=options.query_fraction, seed=options.seed)


def require_every_class(listing: Listing, loaded: Dataset) -> None:
    """Raise ValueError if no image of a class of `listing` could be decoded.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.data.listing import Listing, require_every_class
        >>> listing = Listing("photos", (), torch.tensor([0, 1]), ("cat", "dog"))
        >>> require_every_class(listing, Dataset(torch.zeros(1, 2), torch.tensor([0]), ("cat", "dog"), "photos"))
        Traceback (most recent call last):
        ...
        ValueError: photos: no image of class dog can be read (). Replace the images, or remove the class
    """
    lost = _present(listing.labels, listing.class_names) - _present(loaded.labels, listing.class_names)
    if lost:
        raise ValueError(
            f"{listing.name}: no image of class {', '.join(sorted(lost))} can be read ({listed(loaded.skipped)}). "
            "Replace the images, or remove the class"
        )


def _present(labels: Tensor, class_names: tuple[str, ...]) -> set[str]:
    """Return the names of the classes that `labels` contain."""
    ids = labels.any(0).nonzero().flatten() if labels.ndim == 2 else labels.unique()
    return {class_names[i] for i in ids.tolist()}


def joined(parts: Sequence[Listing], name: str) -> Listing:
    """Concatenate listings that have the same classes.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton.data.listing import joined, unlabelled
        >>> parts = [unlabelled("a", [Path("/1.jpg")]), unlabelled("b", [Path("/2.jpg"), Path("/3.jpg")])]
        >>> len(joined(parts, "both"))
        3
    """
    return Listing(
        name,
        tuple(path for part in parts for path in part.paths),
        torch.cat([part.labels for part in parts]),
        parts[0].class_names,
        tuple(file for part in parts for file in part.skipped),
    )


def splits_of(parts: dict[str, Dataset], name: str, *, query_fraction: float, seed: int) -> Splits:
    """Return the three sets of `parts`, which are named as in PARTS, or split the only part "all" at random.

    Without a gallery, the training set is the gallery. The validation part becomes `Dataset.validation` of the training set.
    Samples without labels are not split, because nothing could be measured: all of them are in the gallery, and there are no
    queries.

    Raises:
        ValueError: there is no training set, or there are no queries.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.data.listing import splits_of
        >>> part = Dataset(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), ("cat", "dog"), "toy")
        >>> [len(one) for one in splits_of({"all": part}, "toy", query_fraction=0.5, seed=0)]
        [2, 2, 2]
    """
    if "all" in parts:
        everything = parts["all"]
        if everything.is_labelled:
            return split_stratified(everything, query_fraction, seed)
        return Splits(everything, everything, everything.subset(torch.empty(0, dtype=torch.int64)))
    for part in ("train", "query"):
        if part not in parts or (parts[part].is_labelled and not len(parts[part])):
            raise ValueError(
                f"{name} has no {part} part; it has {', '.join(parts)}. Name one of its parts {' or '.join(PARTS[part])}, "
                "or give it no parts at all to have it split"
            )
    train = replace(parts["train"], validation=parts.get("validation"))
    return Splits(train, parts.get("gallery", train), parts["query"])
