"""Folders of images, with one sub-folder per class.

    photos/cat/*.jpg  photos/dog/*.png                              split at random
    photos/train/cat/... photos/query/cat/... photos/gallery/...    with its own split; without gallery/, train/ is the gallery
    photos/*.jpg                                                    without classes: all images have the class "unlabelled"

In a folder with its own split, test/ is another name for query/, database/ another one for gallery/, and val/ holds the images
on which the best epoch is chosen. A class folder without images is an error. Images next to class folders are skipped. Names
that begin with a dot are ignored.
"""

from pathlib import Path
from typing import Any

import torch

from .dataset import Dataset, Splits
from .images import Skipped
from .listing import Listing, load_parts, part_places, require_every_class, unlabelled
from .options import LoadOptions, make_options

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def load(
    folder: str | Path, options: LoadOptions | None = None, *, class_names: tuple[str, ...] | None = None, **keywords: Any
) -> Dataset:
    """Load all images of `folder`: uint8 [N, 3, size, size], or [N, size, size] with `grey`.

    Args:
        folder: a folder of images.
        options: the fields `size`, `grey`, `on_error` and `in_memory` of `LoadOptions` apply; the defaults when None.
        class_names: classes in the order of their ids, as in `list_images`.
        **keywords: single options by name, which take precedence over those of `options`.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: it has no images, or a class of which no image can be decoded; or, with on_error="raise", an image cannot be
            decoded.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from orthohash_triton.data import folders
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat", "dog"):
        ...         (Path(folder) / name).mkdir()
        ...         Image.new("L", (9, 9)).save(Path(folder) / name / "1.png")
        ...     dataset = folders.load(folder, size=4)
        >>> dataset.inputs.shape, dataset.class_names, dataset.labels
        (torch.Size([2, 3, 4, 4]), ('cat', 'dog'), tensor([0, 1]))
    """
    options = make_options("folders.load", options, keywords)
    listing = list_images(folder, class_names=class_names)
    dataset = listing.load(options)
    if class_names is None:
        require_every_class(listing, dataset)
    return dataset


def load_splits(folder: str | Path, options: LoadOptions | None = None, **keywords: Any) -> Splits:
    """Load the three sets of `folder`: from its sub-folders train/, query/ and gallery/, or else split at random.

    Args:
        folder: a folder of images.
        options: see `LoadOptions`; the defaults when None. The options of manifests, lists and features have no effect.
        **keywords: single options by name, which take precedence over those of `options`.

    Raises:
        FileNotFoundError, ValueError: see `load`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from orthohash_triton.data import folders
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("train", "query"):
        ...         (Path(folder) / part / "cat").mkdir(parents=True)
        ...         Image.new("L", (9, 9)).save(Path(folder) / part / "cat" / "1.png")
        ...     [len(part) for part in folders.load_splits(folder, size=4)]
        [1, 1, 1]
    """
    return load_parts(list_parts(folder), str(folder), make_options("folders.load_splits", options, keywords))


def list_images(folder: str | Path, *, class_names: tuple[str, ...] | None = None) -> Listing:
    """List the images of `folder` with their classes, without opening them, class by class in alphabetical order.

    Args:
        folder: a folder of images.
        class_names: classes in the order of their ids; another sub-folder is then an error. Default: the sub-folders in
            alphabetical order.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: it has no images, or a class folder without images, or one that `class_names` does not contain.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data import folders
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "cat").mkdir()
        ...     (Path(folder) / "cat" / "1.png").touch()
        ...     folders.list_images(folder).class_names
        ('cat',)
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected a folder with one sub-folder of images per class")
    found, loose = _class_folders(folder), _images(folder, "*")
    members = {name: image_files(folder / name) for name in found}
    if not any(members.values()):
        if class_names is not None or not loose:
            raise ValueError(
                f"{folder} has no images: expected {folder}/CLASS/*.jpg, or {folder}/*.jpg where there are no labels "
                f"(or any of {', '.join(sorted(EXTENSIONS))})"
            )
        return unlabelled(str(folder), loose)
    if class_names is None:
        empty = [name for name in found if not members[name]]
        if empty:
            raise ValueError(
                f"{folder} has class folders without images: {', '.join(empty)}. Remove them, or put images into them"
            )
    names = class_names or found
    unknown = set(found) - set(names)
    if unknown:
        raise ValueError(
            f"{folder} has classes that the training set lacks: {', '.join(sorted(unknown))}; it has {', '.join(names)}"
        )
    rows = [(path, label) for label, name in enumerate(names) for path in members.get(name, [])]
    skipped = tuple(Skipped(path, "next to the class folders, in none of them") for path in loose)
    return Listing(
        str(folder), tuple(path for path, _ in rows), torch.tensor([label for _, label in rows]), names, skipped
    )  # fmt: skip


def list_parts(folder: str | Path) -> dict[str, Listing]:
    """List the images of `folder`, without opening them, by part (see PARTS), or all under "all" if it has no split of its own.

    Raises:
        FileNotFoundError, ValueError: see `list_images`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data import folders
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("train", "test"):
        ...         (Path(folder) / part / "cat").mkdir(parents=True)
        ...         (Path(folder) / part / "cat" / "1.png").touch()
        ...     list(folders.list_parts(folder))
        ['train', 'query']
    """
    places = part_folders(Path(folder))
    if not places:
        return {"all": list_images(folder)}
    train = list_images(places.pop("train"))
    return {"train": train} | {part: list_images(place, class_names=train.class_names) for part, place in places.items()}


def part_folders(folder: Path) -> dict[str, Path]:
    """Return the sub-folders that hold the parts of `folder`, by part (see PARTS); empty if it has no split of its own.

    A folder has a split of its own if it has parts for training and for queries, or if all its sub-folders are parts that have
    class folders themselves.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data import folders
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("train", "test"):
        ...         (Path(folder) / part).mkdir()
        ...     [(part, place.name) for part, place in folders.part_folders(Path(folder)).items()]
        [('train', 'train'), ('query', 'test')]
    """
    places = part_places(folder, "", Path.is_dir)
    only_parts = len(places) > 1 and len(places) == len(_class_folders(folder))
    split = "query" in places or (only_parts and all(map(_class_folders, places.values())))
    return places if "train" in places and split else {}


def image_files(folder: Path) -> list[Path]:
    """Return the image files under `folder`, at any depth, in alphabetical order.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data import folders
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.jpg", "a.png", "notes.txt"):
        ...         (Path(folder) / name).touch()
        ...     [path.name for path in folders.image_files(Path(folder))]
        ['a.png', 'b.jpg']
    """
    return _images(folder, "**/*")


def _images(folder: Path, pattern: str) -> list[Path]:
    """Return the files whose names say that they are images. Broken links are included, so that they are reported."""
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (path.is_file() or path.is_symlink())
    )


def _class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the sub-folders, in alphabetical order."""
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
