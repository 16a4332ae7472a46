"""The folder of a sharded index: a file for each shard, which FAISS reads too, and a manifest that names them.

    manifest.json
    shard-0-of-2-1f00c3a9.ibxf
    shard-1-of-2-1f00c3a9.ibxf

The manifest is written last and at once; each save gives its shards new names. So the folder holds the old index or the new one,
and a file that the manifest does not name is of no meaning.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from .._base.files import atomic_write
from .index import HammingIndex

_FORMAT = "orthohash sharded index"
_VERSION = 1
_MANIFEST = "manifest.json"
_SHARD_NAME = re.compile(r"shard-\d+-of-\d+-[0-9a-f]+\.ibxf")
_CHECKED_ROWS = 2**20  # codes under one checksum: a rank that reads a part of a shard checks little more than that


@dataclass(frozen=True)
class ShardFile:
    """What the manifest says about a shard."""

    file: str
    codes: int
    bytes: int
    checksums: list[int]  # CRC-32 of the codes, then of their ids if there are any, for each _CHECKED_ROWS codes


@dataclass(frozen=True)
class Manifest:
    bits: int
    with_ids: bool
    shards: list[ShardFile]

    @property
    def summary(self) -> str:
        """In a few words that tell it apart from others."""
        return f"{len(self.shards)} shards of {self.ntotal} codes with checksum {crc32(repr(self).encode()):08x}"

    @property
    def ntotal(self) -> int:
        return sum(shard.codes for shard in self.shards)


def shard_name(rank: int, ranks: int, token: str) -> str:
    return f"shard-{rank}-of-{ranks}-{token}.ibxf"


def write_shard(path: Path, shard: HammingIndex) -> ShardFile:
    shard.save(path)
    checksums = [_checksum(shard, start) for start in range(0, len(shard), _CHECKED_ROWS)]
    return ShardFile(path.name, len(shard), path.stat().st_size, checksums)


def check_seen(folder: Path, manifest: Manifest) -> None:
    """Raises FileNotFoundError unless this rank sees the shards of all."""
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.exists() or path.stat().st_size != shard.bytes:
            raise FileNotFoundError(
                f"{path}, written by another rank, is not seen here. A sharded index needs a folder on a file system "
                "that all ranks share"
            )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make the shards that `manifest` names the index of this folder."""
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "ntotal": manifest.ntotal,
        "ranks": len(manifest.shards),
        **asdict(manifest),
    }
    with atomic_write(folder / _MANIFEST) as file:
        file.write(json.dumps(content, indent=1).encode())


def remove_unnamed(folder: Path) -> None:
    """Remove shards that the manifest does not name: those of an older index, or of a save that failed."""
    path = folder / _MANIFEST
    named = set(_SHARD_NAME.findall(path.read_text(encoding="utf-8", errors="replace"))) if path.exists() else set()
    for path in folder.iterdir():
        if _SHARD_NAME.fullmatch(path.name) and path.name not in named:
            with suppress(FileNotFoundError):
                path.unlink()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of `folder`, after every check of it against itself and against the sizes of the files.

    Raises:
        FileNotFoundError: no manifest, or a shard is missing.
        ValueError: a damaged or foreign manifest, or a shard of another size.
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


def _parsed(path: Path) -> Manifest:
    try:
        content = json.loads(path.read_bytes())
        kind, version = content.pop("format"), content.pop("version")
        ntotal, ranks = content.pop("ntotal"), content.pop("ranks")
        shards = [ShardFile(**shard) for shard in content.pop("shards")]
        manifest = Manifest(**content, shards=shards)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or no manifest of a sharded index ({error!r}). Save the index again") from error
    if (kind, version) != (_FORMAT, _VERSION):
        raise ValueError(f"{path} is of format {kind!r}, version {version!r}; expected {_FORMAT!r}, version {_VERSION}")
    if trouble := _trouble(manifest, ntotal, ranks):
        raise ValueError(f"{path} is damaged: {trouble}. Save the index again")
    return manifest


def _trouble(manifest: Manifest, ntotal: Any, ranks: Any) -> str | None:
    """What is wrong in a manifest, in words."""
    for shard in manifest.shards:
        if not (isinstance(shard.file, str) and _SHARD_NAME.fullmatch(shard.file)):
            return f"it names {shard.file!r} as a shard"
        if not (_is_count(shard.codes) and _is_count(shard.bytes) and isinstance(shard.checksums, list)):
            return f"it says {shard.codes!r} codes in {shard.bytes!r} bytes about {shard.file}"
        if len(shard.checksums) != -(-shard.codes // _CHECKED_ROWS):
            return f"it has {len(shard.checksums)} checksums for the {shard.codes} codes of {shard.file}"
    if not isinstance(manifest.with_ids, bool):
        return f"it says {manifest.with_ids!r} about ids"
    if not _is_count(manifest.bits) or manifest.bits == 0 or manifest.bits % 8:
        return f"it says {manifest.bits!r} bits; expected a positive multiple of 8"
    if len(manifest.shards) != ranks or ranks == 0:
        return f"it says {ranks!r} shards and names {len(manifest.shards)}"
    if manifest.ntotal != ntotal:
        return f"it says {ntotal!r} codes, its shards have {manifest.ntotal}"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def read_part(folder: Path, manifest: Manifest, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The codes from position `start` to `stop` - 1 and their ids, piece by piece; other parts of the files are not read.

    Raises:
        ValueError: a shard that is not as the manifest says.
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
                rows = slice(max(begin, at), min(end, at + _CHECKED_ROWS))
                yield mapped.codes[rows], _ids_of(mapped, rows)


def open_shard(folder: Path, manifest: Manifest, shard: ShardFile, device: Any = None) -> HammingIndex:
    """A shard that stays in its file."""
    path = folder / shard.file
    mapped = HammingIndex.load(path, device, mmap=True)
    found = (mapped.bits, mapped.ntotal, mapped._ids is not None)
    if found != (manifest.bits, shard.codes, manifest.with_ids):
        kinds = {True: "with ids", False: "without ids"}
        raise ValueError(
            f"{path} holds {found[1]} codes of {found[0]} bits {kinds[found[2]]}; {_MANIFEST} says {shard.codes} of "
            f"{manifest.bits} bits {kinds[manifest.with_ids]}. Save the index again"
        )
    return mapped


def _checksum(index: HammingIndex, start: int) -> int:
    rows = slice(start, min(start + _CHECKED_ROWS, len(index)))
    checksum, ids = crc32(index.codes[rows].cpu().contiguous().numpy().data), _ids_of(index, rows)
    return checksum if ids is None else crc32(ids.cpu().numpy().astype("<i8").data, checksum)


def _ids_of(index: HammingIndex, rows: slice) -> Tensor | None:
    return None if index._ids is None else index._ids_at(torch.arange(rows.start, rows.stop, device=index.device))


def folder_at(path: str | os.PathLike[str]) -> Path:
    """`path`, a folder, which is made where there is none."""
    folder = Path(path)
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {folder}: the folder {folder.absolute().parent} does not exist. Create it first")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a sharded index is saved in a folder. Choose another name")
    folder.mkdir(exist_ok=True)
    return folder
