"""The options with which a data set is read and split."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from .decoding import MAX_PIXELS
from .images import IN_MEMORY_BYTES, OnError

OnMissing = Literal["raise", "skip"]


@dataclass(frozen=True)
class LoadOptions:
    """Options of `load_splits` and of the readers behind it.

    Attributes:
        size: side length in pixels to which images in files are resized.
        grey: convert images in files to grey instead of RGB.
        query_fraction: fraction of the samples that become queries, if the source has no split of its own.
        seed: seed of that split.
        on_error: treatment of images that cannot be decoded. "skip" leaves them out, reports them on standard error and lists
            them in `Dataset.skipped`; "raise" raises ValueError for the first of them.
        in_memory: number of bytes up to which decoded images are held in memory. A larger set is decoded batch by batch
            (`ImageFiles`).
        max_pixels: number of pixels above which an image counts as one that cannot be decoded.
        every_image: whether images of a folder that are in no class folder are taken too, without a class, because labels are
            not needed; see `folders.list_images`. By default they are left out, and it is an error if they are the majority.
        root: folder that relative paths in manifests and lists start from. Default: the folder of the file.
        on_missing: treatment of missing files that manifests and lists name, "raise" (the default) or "skip".
        path_column: column of the paths in a manifest. Default: "path".
        label_column: column of the labels in a manifest, or several columns of zeros and ones, separated by commas; "" for no
            labels. Default: "labels" or "label", or all other columns if they hold zeros and ones.
        split_column: column of the parts in a manifest; "" for no parts. Default: "split", if there is one.
        labels: .npy file with the labels of one file of features. Default for X.npy: X.labels.npy.

    Example:
        >>> from orthohash_triton import data
        >>> options = data.LoadOptions(seed=1, query_fraction=0.5)
        >>> len(data.load_splits("digits", options).query) == len(data.load_splits("digits", seed=1).query)
        True
    """

    size: int = 64
    grey: bool = False
    query_fraction: float = 0.1
    seed: int = 0
    on_error: OnError = "skip"
    in_memory: int = IN_MEMORY_BYTES
    max_pixels: int = MAX_PIXELS
    every_image: bool = False
    root: str | Path | None = None
    on_missing: OnMissing | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    labels: str | Path | None = None

    def of_source(self) -> dict[str, Any]:
        """Return the options of particular kinds of sources that are set, by name; their default is None."""
        return {
            field.name: value
            for field in fields(self)
            if field.default is None and (value := getattr(self, field.name)) is not None
        }


def make_options(op: str, options: LoadOptions | None, keywords: Mapping[str, Any]) -> LoadOptions:
    """Return `options`, or the defaults, with the values of `keywords`.

    Raises:
        TypeError: an unknown keyword. The message begins with `op`.
    """
    known = [field.name for field in fields(LoadOptions)]
    if unknown := sorted(set(keywords) - set(known)):
        raise TypeError(f"{op}: unknown option {', '.join(unknown)}; expected one of {', '.join(known)}")
    return replace(options or LoadOptions(), **keywords)
