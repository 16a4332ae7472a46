"""The search for image files in a folder and everything below it."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from . import decoding
from .images import Skipped

SYSTEM_FOLDERS = frozenset({
    "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "lost+found", "recycler",
    "system volume information",
})  # fmt: skip
"""Folders of operating systems, storage devices and archives, in small letters. They hold copies and deleted files."""

Identity = tuple[int, int]


class Found(NamedTuple):
    """The images under a folder, in alphabetical order, and what was left out: hidden folders, and files that are not decoded."""

    images: list[Path]
    skipped: list[Skipped]


def walk(folder: Path, seen: Iterable[Identity] = ()) -> Found:
    """Return the images in `folder` and below it.

    Linked folders are entered, each folder once, whatever number of links lead to it. Broken links to images are among the
    images, so that they are reported. Folders that cannot be read are among what was left out.

    Args:
        folder: an absolute path.
        seen: identities of other folders that are not entered.
    """
    found = Found([], [])
    entered = {*seen}
    entered.discard(identity(folder))
    folders, links = [folder], list[Path]()
    while folders or links:  # links are followed last, so that an image keeps the path without a link if it has one
        place = folders.pop() if folders else links.pop(0)
        if (own := identity(place)) in entered:
            continue
        entered.add(own)
        try:
            inside = list_folder(place)
        except OSError as error:
            found.skipped.append(Skipped(place, str(error.strerror).lower()))
            continue
        found.images.extend(inside.images)
        found.skipped.extend(inside.skipped)
        for below in inside.folders:
            (links if below.is_symlink() else folders).append(below)
    found.images.sort()
    found.skipped.sort()
    return found


class Inside(NamedTuple):
    """The content of one folder, in alphabetical order: images, folders, and what is left out of it."""

    images: list[Path]
    folders: list[Path]
    skipped: list[Skipped]


def list_folder(folder: Path) -> Inside:
    """Return the images and the folders in `folder`.

    Raises:
        OSError: the folder cannot be read.
    """
    inside = Inside([], [], [])
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if os.path.isdir(path):
            if is_hidden(name):
                inside.skipped.extend(_hidden(path))
            else:
                inside.folders.append(path)
        elif name.startswith("."):
            continue
        elif is_image_name(path):
            inside.images.append(path)
        elif path.suffix.lower() in decoding.OTHER_SUFFIXES:
            inside.skipped.append(Skipped(path, f"{path.suffix.lower()} files are not decoded"))
    return inside


def is_image_name(path: Path) -> bool:
    """Return whether a file is taken for an image: because of its suffix or, without a suffix, because of its content."""
    if path.suffix:
        return path.suffix.lower() in decoding.SUFFIXES
    return path.is_file() and decoding.is_image(path)


def is_hidden(name: str) -> bool:
    """Return whether a folder called `name` is hidden or one of SYSTEM_FOLDERS."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def identity(folder: Path) -> Identity:
    """Return device and number of a folder, which are equal for all its paths; (-1, -1) if it is gone."""
    try:
        status = folder.stat()
    except OSError:
        return (-1, -1)
    return status.st_dev, status.st_ino


def identities_above(folder: Path) -> set[Identity]:
    """Return the identities of the folders that contain `folder`."""
    return {identity(place) for place in folder.resolve().parents}


def _hidden(folder: Path) -> list[Skipped]:
    """Return an entry for a hidden folder if it holds images."""
    names = (name for _, _, files in os.walk(folder) for name in files)
    count = sum(os.path.splitext(name)[1].lower() in decoding.SUFFIXES for name in names)
    return [Skipped(folder, f"a hidden or system folder with {count:,} image{'' if count == 1 else 's'}")] if count else []
