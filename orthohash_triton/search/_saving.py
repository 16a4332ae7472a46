"""An index file and its side file, which are written and read together."""

import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from .._base.files import atomic_write, is_device_or_pipe
from . import _side_file, faiss_io
from ._gallery import Gallery


def save(path: str | os.PathLike[str] | BinaryIO, gallery: Gallery, *, checksum: bool = False, structures: bool = True) -> None:
    """Write a gallery to an index file that FAISS reads, and its structures to the side file of a path.

    The old side file is removed before the index file is replaced, and the new one is written after it. So whenever this is
    interrupted, there is no side file beside an index file of other codes.
    """
    codes, ids = gallery.exported()
    if not isinstance(path, str | os.PathLike) or is_device_or_pipe(path):
        faiss_io.write(path, codes, ids, checksum=checksum)
        return
    side = _side_file.side_of(path)
    side.unlink(missing_ok=True)
    faiss_io.write(path, codes, ids, checksum=checksum)
    if structures and gallery.structures is not None:
        with atomic_write(side) as file:
            _side_file.write(file, gallery.structures, codes, os.stat(path))


def with_structures(gallery: Gallery, place: Path, side: Path, *, mmap: bool, required: bool = False) -> Gallery:
    """Return a gallery that was read from the index file `place` with the structures of the file `side`, if they fit.

    required: raise an error if they do not fit, or there is no such file, instead of a warning.
    """
    if required and not side.exists():
        raise FileNotFoundError(f"there is no side file {side}. Save the index again after build, or load it without structures")
    if gallery.count == 0 or (mmap and gallery.home != gallery.device):
        return gallery
    codes, status = gallery.codes.cpu(), os.stat(place)
    read = _side_file.read if required else _side_file.opened
    structures = read(side, codes, status, mmap=mmap)
    return replace(gallery, structures=structures if structures is None or mmap else structures.placed(gallery.codes))
