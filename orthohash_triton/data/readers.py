"""The kinds of data set on disk: how each is recognised, and which function reads it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
    """

    what: str
    recognises: Callable[[Path], bool]
    parts: Callable[..., dict[str, Listing]] | None
    options: tuple[str, ...] = ()

    def load_splits(self, path: str | Path, options: LoadOptions) -> Splits:
        """Return the training set, gallery and queries of the data set at `path`."""
        own = options.of_source()
        if self.parts is None:
            return features.load_splits(path, query_fraction=options.query_fraction, seed=options.seed, **own)
        return load_parts(self.parts(path, **own), str(path), options)


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
    Reader("a folder of images, with one sub-folder per class or without classes", Path.is_dir, folders.list_parts),
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
    path = Path(source)
    understood = "; ".join([*(reader.what for reader in READERS), f"or one of the names {', '.join(named)}"])
    if not path.exists():
        raise FileNotFoundError(f"no data set {str(source)!r}: {source} does not exist. Expected {understood}")
    reader = next((reader for reader in READERS if reader.recognises(path)), None)
    if reader is None:
        raise ValueError(f"{source} is no data set of a known kind. Expected {understood}")
    check_options(source, given, reader.what, reader.options)
    return reader


def check_options(source: object, given: dict[str, Any], what: str, options: tuple[str, ...]) -> None:
    """Raise ValueError if an option of `given` is not among `options`, those that the data set `source` accepts."""
    if foreign := sorted(set(given) - set(options)):
        accepts = f"it accepts {', '.join(options)}" if options else "it accepts no such option"
        raise ValueError(f"{source}: {', '.join(foreign)} cannot be set for {what}; {accepts}")
