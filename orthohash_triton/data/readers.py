"""The kinds of data set on disk: how each is recognised, and which function reads it."""

import difflib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._base.file_names import FileFinder
from .._base.quoting import quoted
from . import features, folders, lists, manifest
from .dataset import Splits
from .listing import Listing, load_parts
from .options import LoadOptions


class Reader(NamedTuple):
    """One kind of data set on disk.

    Attributes:
        what: description for messages.
        recognises: function that returns True if an existing path is of this kind.
        parts: function (path, **source options) that lists the image files and their labels by part, without opening them; None
            for features.
        options: names of the source options of `LoadOptions` that this kind accepts.
        searches: whether `parts` searches folders, and accepts `every_image`.
    """

    what: str
    recognises: Callable[[Path], bool]
    parts: Callable[..., dict[str, Listing]] | None
    options: tuple[str, ...] = ()
    searches: bool = False

    def load_splits(self, path: str | Path, options: LoadOptions) -> Splits:
        """Return the training set, gallery and queries of the data set at `path`."""
        own, path = options.of_source(), FileFinder().find(Path(path))
        if self.parts is None:
            return features.load_splits(path, query_fraction=options.query_fraction, seed=options.seed, **own)
        searching = {"every_image": options.every_image} if self.searches else {}
        return load_parts(self.parts(path, **own, **searching), str(path), options)


def _has_suffix(*suffixes: str) -> Callable[[Path], bool]:
    """Return a function that returns True for an existing file with one of `suffixes`."""
    return lambda path: path.is_file() and path.suffix.lower() in suffixes


READERS = (  # the first one that recognises a path reads it
    Reader("a folder of features: train.npz, query.npz (and gallery.npz)", lambda path: features.has_member(path, "train"), None),
    Reader(
        "a folder of lists: train.txt, test.txt (and database.txt)",
        lambda path: bool(lists.part_files(path)),
        lists.read,
        ("root", "on_missing"),
    ),
    Reader(
        "a folder of images, with one sub-folder per class or without classes", Path.is_dir, folders.list_parts, searches=True
    ),
    Reader(
        "features (.npz, .safetensors, or .npy with its labels in .labels.npy)",
        _has_suffix(*features.EXTENSIONS),
        None,
        ("labels",),
    ),
    Reader(
        "a manifest (.csv, .tsv, .parquet) of image files",
        _has_suffix(*manifest.EXTENSIONS),
        manifest.read,
        ("root", "on_missing", "path_column", "label_column", "split_column"),
    ),
    Reader("a list (.txt) of image files", _has_suffix(lists.EXTENSION), lists.read, ("root", "on_missing")),
)


def find_reader(source: str | Path, given: dict[str, Any], named: Sequence[str]) -> Reader:
    """Return the reader of the data set at the path `source`.

    Args:
        source: a path.
        given: source options that are set (see `LoadOptions.of_source`).
        named: names of data sets that the caller understands too, for the message.

    Raises:
        FileNotFoundError: nothing exists at `source`.
        ValueError: no reader recognises it, or its reader does not accept one of the options.
    """
    path = FileFinder().find(Path(source))
    understood = "; ".join([*(reader.what for reader in READERS), f"or one of the names {', '.join(named)}"])
    if not path.exists():
        raise FileNotFoundError(
            f"no data set {quoted(str(source))}: {source} does not exist{_similar(path, named)}. Expected {understood}"
        )
    reader = next((reader for reader in READERS if reader.recognises(path)), None)
    if reader is None:
        raise ValueError(f"{source} is no data set of a known kind. Expected {understood}")
    check_options(source, given, reader.what, reader.options)
    return reader


def _similar(path: Path, named: Sequence[str]) -> str:
    """Return "; did you mean X?" with the file next to `path`, or the data set of `named`, whose name is most similar, or ""."""
    try:
        beside = os.listdir(path.parent)
    except OSError:
        beside = []
    near = difflib.get_close_matches(path.name, beside, n=1)
    if near:
        return f"; did you mean {path.with_name(near[0])}?"
    near = difflib.get_close_matches(str(path), named, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def check_options(source: object, given: dict[str, Any], what: str, options: tuple[str, ...]) -> None:
    """Raise ValueError if an option of `given` is not among `options`, those that the data set `source` accepts."""
    if foreign := sorted(set(given) - set(options)):
        accepts = f"it accepts {', '.join(options)}" if options else "it accepts no such option"
        raise ValueError(f"{source}: {', '.join(foreign)} cannot be set for {what}; {accepts}")
