"""What a data set on disk may be: every kind of source, how it is known, and how it is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from . import features, folders, lists, manifest
from .listing import Listing


class Reader(NamedTuple):
    """One kind of source.

    what     for people
    knows    whether a path, which exists, is of this kind
    parts    the image files of a source and what is known of them, by part, unopened; None for features
    options  what it takes beside the path: the keywords of `parts`, or of `features.load_splits`
    """

    what: str
    knows: Callable[[Path], bool]
    parts: Callable[..., dict[str, Listing]] | None
    options: tuple[str, ...] = ()


def _has_suffix(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and path.suffix.lower() in suffixes


READERS = (  # the first that knows a path reads it
    Reader("a folder of features: train.npz, query.npz (and gallery.npz)", lambda path: features.has_member(path, "train"), None),
    Reader(
        "a folder of lists: train.txt, test.txt (and database.txt)",
        lambda path: bool(lists.part_files(path)),
        lists.read,
        ("root", "on_missing"),
    ),
    Reader("a folder of images, by class or all together", Path.is_dir, folders.list_parts),
    Reader(
        "features (.npz, .safetensors, or .npy with .labels.npy beside it)",
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


def find_reader(source: str | Path, given: dict[str, Any], named: tuple[str, ...]) -> Reader:
    """The reader of `source`, which takes the options `given`.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: no reader knows it, or the one that does has no such option.
    """
    path = Path(source)
    understood = "; ".join([*(reader.what for reader in READERS), f"or one of the names {', '.join(named)}"])
    if not path.exists():
        raise FileNotFoundError(f"no data set {str(source)!r}: {source} does not exist. Expected {understood}")
    reader = next((reader for reader in READERS if reader.knows(path)), None)
    if reader is None:
        raise ValueError(f"{source} is no data set that is understood. Expected {understood}")
    if foreign := sorted(set(given) - set(reader.options)):
        takes = f"it takes {', '.join(reader.options)}" if reader.options else "it takes no option"
        raise ValueError(f"{source}: {', '.join(foreign)} cannot be set for {reader.what}; {takes}")
    return reader
