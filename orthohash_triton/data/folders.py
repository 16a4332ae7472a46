"""A folder of images, one sub-folder per class.

photos/cat/*.jpg  photos/dog/*.png                      split by a seed
photos/train/cat/... photos/query/cat/... photos/gallery/...   split by hand; without gallery/, train/ is the gallery
photos/*.jpg                                            no classes: all images are of the one class "unlabelled"

Split by hand, test/ is understood for query/, database/ for gallery/, and val/ is what the best epoch is chosen on. A class
folder without images is an error, and images beside class folders are skipped. Names that begin with a dot are left alone.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from .dataset import Dataset, Splits
from .images import IN_MEMORY_BYTES, Skipped, open_images
from .listing import Listing, load_parts, part_places, require_every_class, unlabelled

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def load(
    folder: str | Path,
    *,
    size: int = 64,
    grey: bool = False,
    class_names: tuple[str, ...] | None = None,
    on_error: str = "skip",
    in_memory: int = IN_MEMORY_BYTES,
) -> Dataset:
    """Every image of `folder`, resized to `size` x `size`: uint8 [N, 3, size, size], or [N, size, size] with `grey`.

    class_names  fixes the classes, as `list_images`
    on_error     of images that cannot be decoded: "skip" or "raise", as `open_images`
    in_memory    bytes of decoded images that are held in memory; a larger set is decoded batch by batch
    """
    listing = list_images(folder, class_names=class_names)
    dataset = listing.load(size=size, grey=grey, on_error=on_error, in_memory=in_memory)
    if class_names is None:
        require_every_class(listing, dataset)
    return dataset


def load_splits(
    folder: str | Path,
    *,
    size: int = 64,
    grey: bool = False,
    query_fraction: float = 0.1,
    seed: int = 0,
    on_error: str = "skip",
    in_memory: int = IN_MEMORY_BYTES,
) -> Splits:
    """The three sets of `folder`: by its sub-folders train/, query/ and gallery/, or else by `seed`."""
    return load_parts(
        list_parts(folder), str(folder),
        size=size, grey=grey, query_fraction=query_fraction, seed=seed, on_error=on_error, in_memory=in_memory,
    )  # fmt: skip


def list_images(folder: str | Path, *, class_names: tuple[str, ...] | None = None) -> Listing:
    """The images of `folder`, unopened, class by class and in alphabetical order.

    Classes are the sub-folders in alphabetical order, unless `class_names` fixes them (a folder that is none of them is then an
    error).

    Raises:
        FileNotFoundError: no such folder.
        ValueError: there is no image in it, or in one of its class folders.
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
    skipped = tuple(Skipped(path, "beside the class folders, in none of them") for path in loose)
    return Listing(
        str(folder), tuple(path for path, _ in rows), torch.tensor([label for _, label in rows]), names, skipped
    )  # fmt: skip


def list_parts(folder: str | Path) -> dict[str, Listing]:
    """The images of `folder`, unopened: of its parts, by the keys of PARTS, or all under "all" where it is not split by hand."""
    places = part_folders(Path(folder))
    if not places:
        return {"all": list_images(folder)}
    train = list_images(places.pop("train"))
    return {"train": train} | {part: list_images(place, class_names=train.class_names) for part, place in places.items()}


def part_folders(folder: Path) -> dict[str, Path]:
    """The sub-folders that split `folder` by hand, by part; empty where it is not split.

    It is split if it has parts for training and of queries, or if it has nothing but parts with class folders in them.
    """
    places = part_places(folder, "", Path.is_dir)
    only_parts = len(places) > 1 and len(places) == len(_class_folders(folder))
    split = "query" in places or (only_parts and all(map(_class_folders, places.values())))
    return places if "train" in places and split else {}


def image_files(folder: Path) -> list[Path]:
    """The image files under `folder`, at any depth, in alphabetical order."""
    return _images(folder, "**/*")


def read_images(paths: Iterable[Path], *, size: int, grey: bool) -> Tensor:
    """The images at `paths`, resized: uint8 [N, size, size] when `grey`, else [N, 3, size, size].

    Raises:
        ValueError: one cannot be read.
    """
    inputs = open_images(list(paths), size=size, grey=grey, on_error="raise").inputs
    return inputs if isinstance(inputs, Tensor) else inputs[:]


def _images(folder: Path, pattern: str) -> list[Path]:
    """Those that are images by their names: links that lead nowhere too, so that they are told of."""
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (path.is_file() or path.is_symlink())
    )


def _class_folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
