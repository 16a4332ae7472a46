"""The place of a data set, so that a run can be used from another folder, and after its data set has moved.

A data set is named as the user typed it, often by a path relative to the folder that the training was started in. `record` stores
the absolute path, and the path relative to the run folder; `locate` finds the data set again:

    {"dataset": {"absolute": "/home/ada/photos", "relative": "../../photos"}}
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SETTINGS = ("dataset", "root", "labels")
"""The settings that can be paths of a data set."""

Places = dict[str, dict[str, str]]


class Located(NamedTuple):
    """The result of `locate`.

    Attributes:
        settings: the settings, with the paths that are valid now.
        folders: (old, new) of each folder that has moved, as absolute paths.

    Example:
        >>> from orthohash_triton.data.places import Located
        >>> located = Located({"dataset": "/new/photos"}, (("/old/photos", "/new/photos"),))
        >>> located.path("/old/photos/cat/1.jpg"), located.path("/elsewhere/2.jpg")
        ('/new/photos/cat/1.jpg', '/elsewhere/2.jpg')
    """

    settings: dict[str, Any]
    folders: tuple[tuple[str, str], ...] = ()

    def path(self, file: str) -> str:
        """Return where the file of the data set is that was at the absolute path `file`."""
        for old, new in self.folders:
            if file == old or file.startswith(old.rstrip(os.sep) + os.sep):
                return new + file[len(old) :]
        return file


def record(settings: Mapping[str, Any], folder: str | Path) -> Places:
    """Return where the paths in `settings` are: absolute, and relative to `folder`. Names of data sets are left out.

    The relative path is left out if both have only the root of the file system in common.

    Example:
        >>> import os, tempfile
        >>> from orthohash_triton.data import places
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     os.makedirs(f"{folder}/photos")
        ...     found = places.record({"dataset": f"{folder}/photos", "root": None}, f"{folder}/runs/1")
        >>> found["dataset"]["relative"]
        '../../photos'
    """
    found: Places = {}
    for name in SETTINGS:
        value = settings.get(name)
        if isinstance(value, str | Path) and os.path.exists(value):
            found[name] = {"absolute": os.path.abspath(value)}
            relative = _relative(os.path.abspath(value), os.path.abspath(folder))
            if relative is not None:
                found[name]["relative"] = relative
    return found


def locate(settings: Mapping[str, Any], places: Places, folder: str | Path, *, dataset: str | Path | None = None) -> Located:
    """Return `settings` with the paths that are valid now.

    A path is looked for beside the run first, because both may have been moved or copied together, and then where it was. A path
    that is in neither place remains as it is in `settings`.

    Args:
        settings: settings by name, with paths as the user typed them.
        places: the result of `record` at the time of the training; empty for a named data set.
        folder: the run folder, where it is now.
        dataset: where the data set is now, if the user says so.

    Example:
        >>> import os, tempfile
        >>> from orthohash_triton.data import places
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     os.makedirs(f"{folder}/new/photos")
        ...     recorded = {"dataset": {"absolute": "/old/photos", "relative": "../photos"}}
        ...     located = places.locate({"dataset": "photos"}, recorded, f"{folder}/new/run")
        ...     located.settings["dataset"] == f"{folder}/new/photos"
        True
    """
    now: dict[str, str] = {}
    if dataset is not None:
        now["dataset"] = os.fspath(dataset)
    for name in places:
        if name not in now:
            found = next((path for path in _candidates(name, places, folder, dataset) if os.path.exists(path)), None)
            if found is not None:
                # The words of the user are shorter, and remain where they still name the place.
                typed = str(settings.get(name))
                now[name] = typed if os.path.abspath(typed) == found else found
    folders = tuple(
        (_folder(places[name]["absolute"], now[name]), _folder(os.path.abspath(now[name]), now[name]))
        for name in ("root", "dataset")
        if name in now and name in places and os.path.abspath(now[name]) != places[name]["absolute"]
    )
    return Located({**settings, **now}, folders)


def is_record(value: object) -> bool:
    """Return whether `value`, which was read from a file, has the form of the result of `record`.

    Example:
        >>> from orthohash_triton.data import places
        >>> places.is_record({"dataset": {"absolute": "/photos"}}), places.is_record({"dataset": "/photos"})
        (True, False)
    """
    return isinstance(value, dict) and all(
        name in SETTINGS and isinstance(place, dict) and "absolute" in place and all(map(_is_text, place.values()))
        for name, place in value.items()
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def tried(places: Places, folder: str | Path) -> list[str]:
    """Return the paths at which `locate` looks for the data set of a run.

    Example:
        >>> from orthohash_triton.data import places
        >>> places.tried({"dataset": {"absolute": "/old/photos", "relative": "../photos"}}, "/new/run")
        ['/new/photos', '/old/photos']
    """
    return list(dict.fromkeys(_candidates("dataset", places, folder, None))) if "dataset" in places else []


def _candidates(name: str, places: Places, folder: str | Path, dataset: str | Path | None) -> list[str]:
    """Return the absolute paths at which a path may be, the most probable one first."""
    place = places[name]
    found = []
    if dataset is not None and "dataset" in places:  # labels and images have probably moved with the data set
        from_dataset = os.path.relpath(place["absolute"], os.path.dirname(places["dataset"]["absolute"]))
        found.append(os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(dataset)), from_dataset)))
    if "relative" in place:
        found.append(os.path.abspath(os.path.join(folder, place["relative"])))
    return [*found, place["absolute"]]


def _relative(path: str, folder: str) -> str | None:
    try:
        common = os.path.commonpath([path, folder])
    except ValueError:  # on different drives of Windows
        return None
    return None if common == os.path.dirname(common) else os.path.relpath(path, folder)


def _folder(path: str, now: str) -> str:
    """Return the folder that the files of a data set are in: `path`, or its parent if the data set is one file."""
    return path if os.path.isdir(now) else os.path.dirname(path)
