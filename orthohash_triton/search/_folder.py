"""The folder of a sharded index: one file for each shard, which FAISS can read, and a manifest that names the files.

    manifest.json
    shard-0-of-2-1f00c3a9.ibxf
    shard-1-of-2-1f00c3a9.ibxf
    shard-1-of-2-1f00c3a9.ibxf.oht    (the structures of a shard, if it has any)

Each save gives its shards new names, and replaces the manifest atomically at the end. So the folder holds the old index or the
new one at any time. A shard that the manifest does not name belongs to neither.
"""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from .._base import checks
from .._base.file_set import owning, read_note, write_note
from .._base.files import remove_if_dead
from .._base.quoting import quoted
from .._base.reading import reader
from . import _saving, _side_file, faiss_io
from ._gallery import Gallery

_FORMAT = "orthohash sharded index"
_VERSION = 1
_MANIFEST = "manifest.json"
_SHARD_NAME = re.compile(r"shard-\d+-of-\d+-[0-9a-f]+\.ibxf")
_HALF_SHARD = re.compile(rf"\.{_SHARD_NAME.pattern}(\.oht)?\.\d+\.tmp")  # of a process that was killed while it wrote
_CHECKED_ROWS = 2**20  # codes per checksum: a rank that reads a part of a shard checks little more than its part


@dataclass(frozen=True)
class ShardFile:
    """The entry of one shard in the manifest."""

    file: str
    codes: int
    bytes: int
    checksums: list[int]  # CRC-32 of the codes, then of their ids if there are any, for each _CHECKED_ROWS codes


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest."""

    bits: int
    with_ids: bool
    shards: list[ShardFile]

    @property
    def summary(self) -> str:
        """A short text that identifies this index: the manifests of other indexes have other texts."""
        return f"{len(self.shards)} shards of {self.ntotal} codes with checksum {crc32(repr(self).encode()):08x}"

    @property
    def ntotal(self) -> int:
        """The number of codes in all shards."""
        return sum(shard.codes for shard in self.shards)


def shard_name(rank: int, ranks: int, token: str) -> str:
    """Return the file name of a shard; `token` is a random number, in hex, of this save."""
    return f"shard-{rank}-of-{ranks}-{token}.ibxf"


def write_shard(path: Path, shard: Gallery) -> ShardFile:
    """Write `shard` to `path` and return its entry for the manifest."""
    _saving.save(path, shard)
    checksums = [_checksum(shard, start) for start in range(0, shard.count, _CHECKED_ROWS)]
    return ShardFile(path.name, shard.count, path.stat().st_size, checksums)


def check_seen(folder: Path, manifest: Manifest) -> None:
    """Raise FileNotFoundError unless this rank finds the files of all ranks in `folder`, with the right sizes."""
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.exists() or path.stat().st_size != shard.bytes:
            raise FileNotFoundError(
                f"{path}, written by another rank, is not visible to this rank. A sharded index needs a folder on a file system "
                "that all ranks share"
            )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` atomically and with a checksum of its own, which makes its shards the index of this folder."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "ntotal": manifest.ntotal,
        "ranks": len(manifest.shards),
        **asdict(manifest),
    }
    write_note(folder / _MANIFEST, content)


def owning_folder(folder: Path) -> AbstractContextManager[None]:
    """Lock `folder` during the block, so that no other process saves an index into it."""
    return owning(folder / _MANIFEST, str(folder))


def remove_unnamed(folder: Path) -> None:
    """Remove the shards of an older index or of a failed save, which the manifest does not name."""
    path = folder / _MANIFEST
    named = set(_SHARD_NAME.findall(path.read_text(encoding="utf-8", errors="replace"))) if path.exists() else set()
    for path in folder.iterdir():
        shard = path.name.removesuffix(_side_file.ENDING)
        if _SHARD_NAME.fullmatch(shard) and shard not in named:
            with suppress(FileNotFoundError):
                path.unlink()
        elif _HALF_SHARD.fullmatch(path.name):
            remove_if_dead(path)


@reader("folder of a sharded index")
def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of `folder`, and check that it is consistent and that the files have the sizes in it.

    Raises:
        FileNotFoundError: The manifest or a shard is missing.
        ValueError: The manifest is damaged or not one of a sharded index, or a shard has another size.
    """
    path = folder / _MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"there is no sharded index in {folder}: it has no {_MANIFEST}")
    manifest = _parsed(path)
    for number, shard in enumerate(manifest.shards):
        part = folder / shard.file
        which = f"shard {number} of the {len(manifest.shards)} that {path} names"
        if not part.exists():
            raise FileNotFoundError(f"{part} is missing: it is {which}. Restore it, or save the index again")
        if (size := part.stat().st_size) != shard.bytes:
            raise ValueError(f"{part} has {size} bytes; expected {shard.bytes}: it is {which}. Save the index again")
    return manifest


@reader("manifest of a sharded index", advice="Save the index again")
def _parsed(path: Path) -> Manifest:
    """Return the manifest in the file `path` after checking its format and consistency."""
    content = read_note(path, "manifest of a sharded index", advice="Save the index again")
    kind, version = content.pop("format"), content.pop("version")
    ntotal, ranks = content.pop("ntotal"), content.pop("ranks")
    shards = [ShardFile(**shard) for shard in content.pop("shards")]
    manifest = Manifest(**content, shards=shards)
    if (kind, version) != (_FORMAT, _VERSION):
        raise ValueError(
            f"{path} is of format {quoted(kind)}, version {quoted(version)}; expected {quoted(_FORMAT)}, version {_VERSION}"
        )
    if trouble := _trouble(manifest, ntotal, ranks):
        raise ValueError(f"{path} is damaged: {trouble}. Save the index again")
    return manifest


def _trouble(manifest: Manifest, ntotal: Any, ranks: Any) -> str | None:
    """Return a description of the first inconsistency in a manifest, or None if there is none."""
    for shard in manifest.shards:
        if not (isinstance(shard.file, str) and _SHARD_NAME.fullmatch(shard.file)):
            return f"it names {quoted(shard.file)} as a shard"
        if not (_is_count(shard.codes) and _is_count(shard.bytes) and isinstance(shard.checksums, list)):
            return f"it says {quoted(shard.codes)} codes in {quoted(shard.bytes)} bytes about {shard.file}"
        if len(shard.checksums) != -(-shard.codes // _CHECKED_ROWS):
            return f"it has {len(shard.checksums)} checksums for the {shard.codes} codes of {shard.file}"
    if not isinstance(manifest.with_ids, bool):
        return f"it says {quoted(manifest.with_ids)} about ids"
    if not _is_count(manifest.bits) or manifest.bits == 0 or manifest.bits % 8:
        return f"it says {quoted(manifest.bits)} bits; expected a positive multiple of 8"
    if len(manifest.shards) != ranks or ranks == 0:
        return f"it says {quoted(ranks)} shards and names {len(manifest.shards)}"
    if manifest.bits > checks.MOST_BITS:
        return f"it says {manifest.bits} bits; codes of up to {checks.MOST_BITS} bits can be searched"
    for shard in manifest.shards:
        expected = faiss_io.size_of(shard.codes, manifest.bits // 8, with_ids=manifest.with_ids)
        if shard.codes and shard.bytes != expected:
            kind = f"{manifest.bits} bits {'with' if manifest.with_ids else 'without'} ids"
            return f"it says {shard.codes} codes of {kind} in {shard.bytes} bytes about {shard.file}; expected {expected} bytes"
    if manifest.ntotal != ntotal:
        return f"it says {quoted(ntotal)} codes, its shards have {manifest.ntotal}"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read_part(folder: Path, manifest: Manifest, start: int, stop: int) -> Iterator[faiss_io.Contents]:
    """Yield blocks of the codes at positions `start` to `stop - 1` with their ids. Other parts of the files are not read.

    Raises:
        ValueError: A shard does not match its checksums or the manifest.
    """
    first = 0
    for shard in manifest.shards:
        begin, end = max(start - first, 0), min(stop - first, shard.codes)
        first += shard.codes
        if begin < end:
            mapped = open_shard(folder, manifest, shard)
            for block in range(begin // _CHECKED_ROWS, -(-end // _CHECKED_ROWS)):
                at = block * _CHECKED_ROWS
                if _checksum(mapped, at) != shard.checksums[block]:
                    raise ValueError(
                        f"{folder / shard.file} is damaged: the codes from {at} on do not match their checksum in {_MANIFEST}. "
                        "Save the index again"
                    )
                yield _block(mapped, slice(max(begin, at), min(end, at + _CHECKED_ROWS)))


@reader("folder of a sharded index")
def open_shard(folder: Path, manifest: Manifest, shard: ShardFile, device: torch.device | str | None = None) -> Gallery:
    """Return a shard whose codes stay in its file.

    Raises:
        ValueError: The file does not match the manifest.
    """
    path = folder / shard.file
    mapped = Gallery.mapped(faiss_io.MappedFile(path), device)
    has_ids = mapped.ids is not None if mapped.count else manifest.with_ids  # a shard without codes is of either kind
    found = (mapped.bits, mapped.count, has_ids)
    if found != (manifest.bits, shard.codes, manifest.with_ids):
        kinds = {True: "with ids", False: "without ids"}
        raise ValueError(
            f"{path} holds {found[1]} codes of {found[0]} bits {kinds[found[2]]}; {_MANIFEST} says {shard.codes} of "
            f"{manifest.bits} bits {kinds[manifest.with_ids]}. Save the index again"
        )
    return mapped


def _checksum(shard: Gallery, start: int) -> int:
    """Return the checksum of the codes from position `start` on, and of their ids."""
    codes, ids = _block(shard, slice(start, min(start + _CHECKED_ROWS, shard.count)))
    checksum = crc32(np.ascontiguousarray(codes).data)
    return checksum if ids is None else crc32(ids.astype("<i8").data, checksum)


def _block(shard: Gallery, rows: slice) -> faiss_io.Contents:
    """Return the codes and ids at a range of positions."""
    ids = None if shard.ids is None else shard.ids_at(torch.arange(rows.start, rows.stop, device=shard.device)).cpu().numpy()
    return faiss_io.Contents(shard.codes[rows].cpu().numpy(), ids)


def folder_at(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a folder, which is created if it does not exist.

    Raises:
        FileNotFoundError: Its parent does not exist.
        NotADirectoryError: It is a file.
    """
    folder = Path(path)
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {folder}: the folder {folder.absolute().parent} does not exist. Create it first")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a sharded index is saved in a folder. Choose another name")
    folder.mkdir(exist_ok=True)
    return folder
