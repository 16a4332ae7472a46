"""Image files with their labels, before any of them is opened: what folders, manifests and lists have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .._base import checks
from .dataset import UNLABELLED, Dataset, Splits, split_stratified
from .images import IN_MEMORY_BYTES, Skipped, listed, open_images, report_skipped

ON_MISSING = ("raise", "skip")
PARTS = {
    "train": ("train", "training"),
    "gallery": ("gallery", "database", "db", "index"),
    "query": ("query", "queries", "test"),
    "validation": ("validation", "valid", "val"),
}
"""The parts of a data set, and the names that are understood for each."""

_SHOWN = 3


@dataclass(frozen=True)
class Listing:
    """Image files and what is known of them.

    name         where they came from, for people
    paths        absolute
    labels       int64 [N] or bool [N, C], as in `Dataset`
    class_names  C of them
    skipped      files of the source that were left out already
    """

    name: str
    paths: tuple[Path, ...]
    labels: Tensor
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, rows: Tensor) -> "Listing":
        """The files at `rows`, int64 [M], in that order."""
        return replace(self, paths=tuple(self.paths[i] for i in rows.tolist()), labels=self.labels[rows])

    def load(self, *, size: int = 64, grey: bool = False, on_error: str = "skip", in_memory: int = IN_MEMORY_BYTES) -> Dataset:
        """The images, decoded or in their files (see `open_images`); those left out are told on standard error.

        Raises:
            ValueError: an image cannot be read, with on_error="raise"; or none can be.
        """
        opened = open_images(self.paths, size=size, grey=grey, on_error=on_error, in_memory=in_memory)
        readable = self if len(opened.rows) == len(self) else self.subset(opened.rows)
        skipped = (*self.skipped, *opened.skipped)
        report_skipped(self.name, skipped, len(self) + len(self.skipped))
        return Dataset(opened.inputs, readable.labels, self.class_names, self.name, paths=readable.paths, skipped=skipped)


def unlabelled(name: str, paths: Sequence[Path], skipped: Sequence[Skipped] = ()) -> Listing:
    """Files of which nothing is known: all of one class."""
    return Listing(name, tuple(paths), torch.zeros(len(paths), dtype=torch.int64), (UNLABELLED,), tuple(skipped))


def drop_missing(listing: Listing, on_missing: str) -> Listing:
    """`listing` without the files that are not there.

    Raises:
        FileNotFoundError: with on_missing="raise", if there are any.
    """
    checks.choice(listing.name, "on_missing", on_missing, ON_MISSING)
    there = torch.tensor([path.is_file() for path in listing.paths], dtype=torch.bool)
    if there.all():
        return listing
    missing = [listing.paths[i] for i in (~there).nonzero().flatten().tolist()]
    if on_missing == "raise" or len(missing) == len(listing):
        shown = ", ".join(map(str, missing[:_SHOWN])) + (f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else "")
        raise FileNotFoundError(
            f"{listing.name} names {len(missing):,} files of {len(listing):,} that are not there: {shown}. "
            'Give the folder that its paths start from as root, or leave such rows out with on_missing="skip"'
        )
    skipped = tuple(Skipped(path, "no such file") for path in missing)
    kept = listing.subset(there.nonzero().flatten())
    return replace(kept, skipped=(*listing.skipped, *skipped))


def part_places(folder: Path, suffix: str, is_there: Callable[[Path], bool]) -> dict[str, Path]:
    """What `folder` has for each part, under one of its names with `suffix`.

    Raises:
        ValueError: two names of one part are there.
    """
    places = {}
    for part, names in PARTS.items():
        there = [place for name in names if is_there(place := folder / f"{name}{suffix}")]
        if len(there) > 1:
            raise ValueError(f"{folder} has both {there[0].name} and {there[1].name}, two names of one part; keep one")
        if there:
            places[part] = there[0]
    return places


def part_of(name: str) -> str | None:
    """The key of PARTS that `name` stands for; None for another word."""
    return next((part for part, names in PARTS.items() if name.strip().lower() in names), None)


def load_parts(
    parts: dict[str, Listing],
    name: str,
    *,
    size: int = 64,
    grey: bool = False,
    query_fraction: float = 0.1,
    seed: int = 0,
    on_error: str = "skip",
    in_memory: int = IN_MEMORY_BYTES,
) -> Splits:
    """The three sets of the listings of `parts`, loaded; see `Listing.load` and `splits_of`."""
    loaded = {part: own.load(size=size, grey=grey, on_error=on_error, in_memory=in_memory) for part, own in parts.items()}
    for part in {"all", "train"} & set(parts):
        require_every_class(parts[part], loaded[part])
    return splits_of(loaded, name, query_fraction=query_fraction, seed=seed)


def require_every_class(listing: Listing, loaded: Dataset) -> None:
    """Raises ValueError if a class of `listing` has lost its last image, as none of them could be read."""
    lost = _present(listing.labels, listing.class_names) - _present(loaded.labels, listing.class_names)
    if lost:
        raise ValueError(
            f"{listing.name}: no image can be read of class {', '.join(sorted(lost))} ({listed(loaded.skipped)}). "
            "Replace the images, or remove the class"
        )


def _present(labels: Tensor, class_names: tuple[str, ...]) -> set[str]:
    there = labels.any(0).nonzero().flatten() if labels.ndim == 2 else labels.unique()
    return {class_names[i] for i in there.tolist()}


def joined(parts: Sequence[Listing], name: str) -> Listing:
    """All files of `parts`, which have one set of classes, in turn."""
    return Listing(
        name,
        tuple(path for part in parts for path in part.paths),
        torch.cat([part.labels for part in parts]),
        parts[0].class_names,
        tuple(file for part in parts for file in part.skipped),
    )


def splits_of(parts: dict[str, Dataset], name: str, *, query_fraction: float, seed: int) -> Splits:
    """The three sets of `parts`, by the names of PARTS; or of {"all": Dataset}, split by `seed`.

    Without a gallery the training set is it. A validation part goes with the training set (`Dataset.validation`). Samples
    without labels are not split: all are in the gallery, and no query is held out, as nothing can be measured.

    Raises:
        ValueError: there is no training set, or no queries.
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
