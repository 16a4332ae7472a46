"""The search for the files of a data set that the user installs."""

import os
from collections.abc import Sequence
from pathlib import Path


def find_folder(
    problem: str, files: Sequence[str], *, folder: str | Path | None, variable: str, places: Sequence[Path], advice: str
) -> Path:
    """Return the first folder that holds all `files`.

    If `folder` or else the environment variable `variable` names a folder, only that folder is tried, otherwise all `places`.

    Raises:
        FileNotFoundError: no folder holds the files. The message consists of `problem`, the folders and `advice`.
    """
    named = folder or os.environ.get(variable)
    candidates = [Path(named)] if named else places
    for candidate in candidates:
        if all((candidate / file).is_file() for file in files):
            return candidate
    raise FileNotFoundError(
        f"{problem} {' or '.join(map(str, candidates))}: expected a folder with {' and '.join(files)}. "
        f"{advice}, or set {variable} to the folder"
    )
