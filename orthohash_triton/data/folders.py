"""Folders of images, with one sub-folder per class.

    photos/cat/*.jpg  photos/dog/*.png                              split at random
    photos/train/cat/... photos/query/cat/... photos/gallery/...    with its own split; without gallery/, train/ is the gallery
    photos/*.jpg                                                    without classes: all images have the class "unlabelled"

In a folder with its own split, test/ is another name for query/, database/ another one for gallery/, and val/ holds the images
on which the best epoch is chosen. Folders are searched at any depth, and linked folders are followed. Folders without images are
ignored. Hidden folders and those of operating systems and storage devices are not searched, but listed if they hold images. Names
of classes are compared in the Unicode normal form NFC.

Images next to class folders have no class. Where labels are needed, such images are left out and listed, and it is an error if
most images would be left out. Where labels are not needed (`every_image`), they are taken too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .._base.file_names import normalized
from . import decoding
from ._walk import Identity, identities_above, identity, list_folder, walk
from .dataset import UNLABELLED, Dataset, Splits
from .images import Skipped, listed
from .listing import Listing, joined, load_parts, part_places, require_every_class, unlabelled
from .options import LoadOptions, make_options


def load(
    folder: str | Path, options: LoadOptions | None = None, *, class_names: tuple[str, ...] | None = None, **keywords: Any
) -> Dataset:
    """Load all images of `folder`: uint8 [N, 3, size, size], or [N, size, size] with `grey`.

    Args:
        folder: a folder of images.
        options: the fields `size`, `grey`, `on_error`, `in_memory`, `max_pixels` and `every_image` of `LoadOptions` apply; the
            defaults when None.
        class_names: classes in the order of their ids, as in `list_images`.
        **keywords: single options by name, which take precedence over those of `options`.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: it has no images, or most of them would be left out; no image of a class can be decoded; or, with
            on_error="raise", an image cannot be decoded.

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
    listing = list_images(folder, class_names=class_names, every_image=options.every_image)
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
    options = make_options("folders.load_splits", options, keywords)
    return load_parts(list_parts(folder, every_image=options.every_image), str(folder), options)


def list_images(folder: str | Path, *, class_names: tuple[str, ...] | None = None, every_image: bool = False) -> Listing:
    """List the images of `folder` with their classes, without opening them, class by class in alphabetical order.

    Args:
        folder: a folder of images.
        class_names: classes in the order of their ids; another sub-folder with images is then an error. Default: the sub-folders
            with images in alphabetical order.
        every_image: whether images next to the class folders are taken too, as the last ones. The labels are then bool [N, C],
            and such images have no class. If they are the majority, all images are unlabelled.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: it has no images; most images are next to the class folders and `every_image` is False; or a class folder is
            not among `class_names`.

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
    contents = _contents(_existing(folder))
    if every_image:
        return _list_every([contents], class_names)[0]
    return _list_classes(contents, class_names)


def list_parts(folder: str | Path, *, every_image: bool = False) -> dict[str, Listing]:
    """List the images of `folder`, without opening them, by part (see PARTS), or all under "all" if it has no split of its own.

    Args:
        folder: a folder of images.
        every_image: see `list_images`. Images in no part are left out and listed in any case.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: see `list_images`; or most images are in no part and `every_image` is False.

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
    folder = _existing(folder)
    places = part_folders(folder)
    if not places:
        return {"all": list_images(folder, every_image=every_image)}
    contents = {part: _contents(place) for part, place in places.items()}
    if every_image:
        listings = dict(zip(contents, _list_every(contents.values()), strict=True))
    else:
        listings = {"train": _list_classes(contents.pop("train"))}
        names = listings["train"].class_names
        listings |= {part: _list_classes(own, names) for part, own in contents.items()}
    outside = _outside(folder, places.values())
    if not every_image:
        _require_most(folder, outside.loose, sum(map(len, listings.values())), f"the parts {', '.join(places)}")
    skipped = (*outside.skipped, *(Skipped(path, "next to the parts, in none of them") for path in outside.loose))
    return listings | {"train": replace(listings["train"], skipped=(*listings["train"].skipped, *skipped))}


def list_everything(folder: str | Path) -> Listing:
    """List every image of `folder`, without opening them: part by part if it has a split of its own, then those in no part.

    The labels are those of `list_images` with `every_image`. Images in no part have no class.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: it has no images.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.data import folders
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "new").mkdir()
        ...     for name in ("1.png", "2.png", "new/3.png"):
        ...         (Path(folder) / name).touch()
        ...     [path.name for path in folders.list_everything(folder).paths]
        ['1.png', '2.png', '3.png']
    """
    folder = _existing(folder)
    places = part_folders(folder)
    if not places:
        return list_images(folder, every_image=True)
    contents = [*map(_contents, places.values()), _outside(folder, places.values())]
    return joined(_list_every(contents), str(folder))


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
    only_parts = len(places) > 1 and len(places) == len(list_folder(folder).folders)
    split = "query" in places or (only_parts and all(list_folder(place).folders for place in places.values()))
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
    return walk(folder, identities_above(folder)).images


@dataclass
class _Contents:
    """The content of a folder.

    Attributes:
        folder: its absolute path.
        classes: the images of each sub-folder, in alphabetical order of the names.
        loose: the images that are in no sub-folder.
        skipped: what was left out.
    """

    folder: Path
    classes: dict[str, list[Path]] = field(default_factory=dict)
    loose: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """All images, in alphabetical order."""
        return sorted([*self.loose, *(path for own in self.classes.values() for path in own)])

    @property
    def classed(self) -> int:
        """Number of images in sub-folders."""
        return sum(map(len, self.classes.values()))


def _existing(folder: str | Path) -> Path:
    """Return the absolute path of `folder`, which must exist."""
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected a folder with one sub-folder of images per class")
    return folder


def _contents(folder: Path) -> _Contents:
    """Search `folder`."""
    inside = list_folder(folder)
    contents = _Contents(folder, loose=inside.images, skipped=inside.skipped)
    own = {identity(folder), *identities_above(folder)}
    entered: dict[Identity, Path] = dict.fromkeys(own, folder)
    places = sorted(inside.folders, key=Path.is_symlink)  # a linked folder that is read under its own name too is skipped
    below = {identity(place) for place in places}
    for place in places:
        if (other := entered.setdefault(identity(place), place)) is not place:
            contents.skipped.append(Skipped(place, f"a link to {'a folder above it' if other is folder else other.name}"))
            continue
        found = walk(place, own | below)
        contents.classes.setdefault(normalized(place.name), []).extend(found.images)
        contents.skipped.extend(found.skipped)
    contents.classes = dict(sorted(contents.classes.items()))
    return contents


def _outside(folder: Path, parts: Iterable[Path]) -> _Contents:
    """Return the images of `folder` that are in none of its `parts`, all of them without a class."""
    inside = list_folder(folder)
    contents = _Contents(folder, loose=inside.images, skipped=inside.skipped)
    seen = {identity(place) for place in (folder, *parts)} | identities_above(folder)
    for place in sorted(inside.folders, key=Path.is_symlink):
        if (own := identity(place)) not in seen:
            found = walk(place, seen)
            contents.loose.extend(found.images)
            contents.skipped.extend(found.skipped)
            seen.add(own)
    return contents


def _list_classes(contents: _Contents, class_names: tuple[str, ...] | None = None) -> Listing:
    """List images of which each needs a class; see `list_images`."""
    folder, loose, skipped = contents.folder, contents.loose, contents.skipped
    if not contents.classed and loose and class_names in (None, (UNLABELLED,)):
        return unlabelled(str(folder), loose, skipped)
    _require_images([contents])
    found = tuple(name for name, paths in contents.classes.items() if paths)
    _require_most(folder, loose, contents.classed, f"the class folders ({', '.join(found)})")
    if class_names is not None and (unknown := set(found) - set(class_names)):
        raise ValueError(
            f"{folder} has classes that the training set lacks: {', '.join(sorted(unknown))}; it has {', '.join(class_names)}"
        )
    names = class_names or found
    rows = [(path, label) for label, name in enumerate(names) for path in contents.classes.get(name, ())]
    known = {path for path, _ in skipped}
    empty = [folder / name for name, paths in contents.classes.items() if not paths]
    skipped = [
        *skipped,
        *(Skipped(path, "a folder without images") for path in empty if path not in known),
        *(Skipped(path, "next to the class folders, in none of them") for path in loose),
    ]
    return Listing(
        str(folder), tuple(path for path, _ in rows), torch.tensor([label for _, label in rows]), names, tuple(skipped)
    )  # fmt: skip


def _list_every(contents: Iterable[_Contents], class_names: tuple[str, ...] | None = None) -> list[Listing]:
    """List every image of each of `contents`, with labels of one kind; see `list_images`."""
    contents = list(contents)
    classed, loose = sum(one.classed for one in contents), sum(len(one.loose) for one in contents)
    if not classed + loose:
        _require_images(contents)
    if loose > classed:
        return [unlabelled(str(one.folder), one.paths, one.skipped) for one in contents]
    found = sorted({name for one in contents for name, paths in one.classes.items() if paths})
    names = tuple(dict.fromkeys([*(class_names or ()), *found]))
    listings = []
    for one in contents:
        rows = [(path, label) for label, name in enumerate(names) for path in one.classes.get(name, ())]
        labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
        if loose:
            without = torch.zeros(len(one.loose), len(names), dtype=torch.bool)
            labels = torch.cat([torch.nn.functional.one_hot(labels, len(names)).bool(), without])
        paths = (*(path for path, _ in rows), *one.loose)
        listings.append(Listing(str(one.folder), paths, labels, names, tuple(one.skipped)))
    return listings


def _require_images(contents: Iterable[_Contents]) -> None:
    """Raise ValueError if a folder has no images in sub-folders."""
    for one in contents:
        if not one.classed:
            left_out = f". Left out: {listed(one.skipped)}" if one.skipped else ""
            raise ValueError(
                f"{one.folder} has no images: expected {one.folder}/CLASS/*.jpg, or {one.folder}/*.jpg where there are no labels "
                f"(or any of {', '.join(sorted(decoding.SUFFIXES))}){left_out}"
            )


def _require_most(folder: Path, left_out: list[Path], taken: int, places: str) -> None:
    """Raise ValueError if more images are left out, because they are next to `places`, than are taken."""
    if len(left_out) > taken:
        raise ValueError(
            f"{folder} has {len(left_out):,} images next to {places} and only {taken:,} in them, so that most would be left out. "
            "Move every image into one of these folders, or use a method that needs no labels, such as lsh or pca"
        )
