"""Reading and writing FAISS's files of flat binary indexes, which are little-endian. An index without ids ("IBxF"):

| bytes | field | value |
| --- | --- | --- |
| 0-3 | fourcc | `IBxF` |
| 4-7 | d, int32 | bits of a code |
| 8-11 | code_size, int32 | d / 8 |
| 12-19 | ntotal, int64 | codes |
| 20 | is_trained, uint8 | 1 |
| 21-24 | metric, int32 | 1 (the default that FAISS writes; binary indexes always use the Hamming distance) |
| 25-32 | payload bytes, uint64 | ntotal * code_size |
| from 33 | codes | ntotal rows of code_size bytes |

A file with ids begins with bytes 0-24 under the fourcc `IBM2` (FAISS's older `IBMp` is read too). The whole index above follows,
then the number of ids, uint64, and the ids, int64.
"""

import io
import mmap
import os
import struct
import sys
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from .._base import checks
from .._base.file_set import note_of, replacing
from .._base.files import atomic_write, is_device_or_pipe
from .._base.quoting import quoted
from .._base.reading import reader

_HEAD = struct.Struct("<4siiqBi")
_COUNT = struct.Struct("<Q")
_FLAT = b"IBxF"
_WITH_IDS = b"IBM2"
_ID_MAPS = (_WITH_IDS, b"IBMp")
_METRIC_DEFAULT = 1
_FOREIGN = {
    b"IBwF": "a binary IVF index",
    b"IBHf": "a binary HNSW index",
    b"IBHc": "a binary CAGRA index",
    b"IBHh": "a binary hash index",
    b"IBHm": "a binary multi-hash index",
    b"IBFf": "a binary index over a float index",
}
# Python that gets the codes of a FAISS `index`, and the ids of an inverted file; a hash index does not store the codes. The lists
# of an inverted file are read one by one. `reconstruct_n` after `make_direct_map` writes out of bounds before FAISS 1.15.1, and
# fails if the codes have ids of their own.
_CODES_OF = {
    b"IBwF": (
        "from faiss.contrib.inspect_tools import get_invlist; "
        "ids, codes = map(np.concatenate, zip(*[get_invlist(index.invlists, i) for i in range(index.nlist)]))"
    ),
    b"IBHf": "codes = index.reconstruct_n(0, index.ntotal)",
    b"IBHc": "codes = index.reconstruct_n(0, index.ntotal)",
    b"IBHm": "codes = faiss.downcast_IndexBinary(index.storage).reconstruct_n(0, index.ntotal)",
    b"IBFf": "codes = np.packbits(faiss.downcast_index(index.index).reconstruct_n(0, index.ntotal) > 0, 1, 'little')",
}
# Python defines this flag from version 3.13 on; the number is the one of Linux on x86 and Arm.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Contents(NamedTuple):
    """The content of an index file."""

    codes: np.ndarray  # uint8 [N, bits/8]
    ids: np.ndarray | None  # int64 [N]


@reader("index file")
def is_index(path: str | os.PathLike[str]) -> bool:
    """Return whether the file at `path` begins like a binary FAISS index of any kind."""
    with _open(path) as file:
        return file.read(4) in (_FLAT, *_ID_MAPS, *_FOREIGN)


def flat_header(count: int, code_size: int) -> bytes:
    """Return the bytes before the `count` codes of `code_size` bytes in an index file without ids."""
    return _HEAD.pack(_FLAT, 8 * code_size, code_size, count, 1, _METRIC_DEFAULT) + _COUNT.pack(count * code_size)


def size_of(count: int, code_size: int, *, with_ids: bool) -> int:
    """Return the number of bytes of an index file."""
    flat = _HEAD.size + _COUNT.size + count * code_size
    return flat + (_HEAD.size + _COUNT.size + 8 * count if with_ids else 0)


def write(
    path: str | os.PathLike[str] | BinaryIO, codes: np.ndarray, ids: np.ndarray | None = None, *, checksum: bool = False
) -> None:
    """Write packed codes, uint8 [N, bits/8], and ids, int64 [N], as a flat binary index.

    Args:
        path: a path, which is written atomically (see `atomic_write`), or an open binary file.
        checksum: whether to write the checksum of the file into a second one, `<path>.files.json`. If there is such a file, it is
            always replaced by one for the new index.
    """
    if not isinstance(path, str | os.PathLike):
        _write(path, codes, ids)
    elif (checksum or os.path.isfile(note_of(path))) and not is_device_or_pipe(path):
        with replacing(note_of(path), {}, remove_others=False) as files, files.create(Path(path).name) as file:
            _write(file, codes, ids)
    else:
        with atomic_write(path) as file:
            _write(file, codes, ids)


def _write(file: BinaryIO, codes: np.ndarray, ids: np.ndarray | None) -> None:
    count, code_size = codes.shape
    for fourcc in (_FLAT,) if ids is None else (_WITH_IDS, _FLAT):
        file.write(_HEAD.pack(fourcc, 8 * code_size, code_size, count, 1, _METRIC_DEFAULT))
    file.write(_COUNT.pack(codes.nbytes))
    file.write(np.ascontiguousarray(codes).data)
    if ids is not None:
        file.write(_COUNT.pack(count))
        file.write(np.ascontiguousarray(ids, dtype="<i8").data)


@reader("index file")
def read(path: str | os.PathLike[str]) -> Contents:
    """Read a flat binary index, with or without ids.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is truncated, another kind of index, or inconsistent. The sizes in its header are compared with the
            size of the file before memory is allocated.
    """
    with _open(path) as file:
        return _read(file, os.fstat(file.fileno()).st_size, f"index file {path}")


def decode(data: np.ndarray, source: str) -> Contents:
    """Return the contents of a serialised flat binary index, uint8 [bytes]; errors name `source`."""
    return _read(io.BytesIO(data.data), len(data), source)


class MappedFile:
    """A memory-mapped file of a flat binary index.

    Writing to the mapped memory does not change the file. If another file replaces it, as `write` does, the old one stays mapped.
    If the file is cut shorter in place, `check` raises an error.

    Raises:
        FileNotFoundError, ValueError: As `read`.
    """

    @reader("index file")
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)
        with _open(path) as file:
            status = os.fstat(file.fileno())
            self.size, self.version = status.st_size, (status.st_size, status.st_mtime_ns)
            layout = _layout(file, self.size, self.source)
            self._map = _private_map(file.fileno())
        everything = np.frombuffer(self._map, dtype=np.uint8)
        self.codes = everything[layout.codes : layout.codes + layout.payload].reshape(layout.ntotal, layout.code_size)
        self.id_bytes: np.ndarray | None = None  # uint8 [N, 8], because int64 values would need aligned addresses
        if layout.ids is not None:
            self.id_bytes = everything[layout.ids : layout.ids + 8 * layout.ntotal].reshape(layout.ntotal, 8)

    @property
    def source(self) -> str:
        """The name of the file in errors."""
        return f"index file {self.path}"

    def check(self) -> None:
        """Raise ValueError if the file has become shorter, because reading the missing part would kill the process."""
        size = self._map.size()
        if size < self.size:
            raise ValueError(
                f"{self.source} is truncated: it has {size} bytes, and had {self.size} when it was mapped. "
                "Write it again and load it again; replace index files (as save does) instead of writing into them"
            )


class _Layout(NamedTuple):
    """The number and size of the codes in a file, and the offsets of its parts in bytes."""

    ntotal: int
    code_size: int
    codes: int
    payload: int
    ids: int | None


def _open(path: str | os.PathLike[str]) -> BinaryIO:
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no index file {path}")
    return open(path, "rb")


def _private_map(descriptor: int) -> mmap.mmap:
    """Map the whole file, copied on write, without reserving memory, so that a file may be larger than memory."""
    if os.name != "posix":
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    return mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _read(file: BinaryIO, size: int, source: str) -> Contents:
    layout = _layout(file, size, source)
    codes = np.empty((layout.ntotal, layout.code_size), dtype=np.uint8)
    _fill(file, layout.codes, codes, source)
    if layout.ids is None:
        return Contents(codes, None)
    ids = np.empty(layout.ntotal, dtype="<i8")
    _fill(file, layout.ids, ids, source)
    return Contents(codes, ids.astype(np.int64, copy=False))


def _fill(file: BinaryIO, start: int, array: np.ndarray, source: str) -> None:
    file.seek(start)
    if file.readinto(array.data.cast("B") if array.size else bytearray()) != array.nbytes:  # type: ignore[attr-defined]
        raise ValueError(f"{source} became shorter while it was read. Write it again")


def _layout(file: BinaryIO, size: int, source: str) -> _Layout:
    """Return the layout of a file of `size` bytes, after checking its headers against each other and against `size`."""
    file.seek(0)
    inner = first = _head(file, size, source, (*_ID_MAPS, _FLAT))
    with_ids = first.fourcc in _ID_MAPS
    if with_ids:
        inner = _head(file, size, f"{source}: the index in its id map", (_FLAT,), inner=True)
        if inner[1:4] != first[1:4]:
            raise ValueError(
                f"{source} is damaged: its id map is of {first.ntotal} codes of {first.bits} bits, the index in it "
                f"of {inner.ntotal} of {inner.bits} bits. Write it again"
            )
    payload = _count(file, size, source)
    count, code_size = inner.ntotal, inner.code_size
    if count < 0 or payload != count * code_size:
        raise ValueError(
            f"{source} is damaged: its header says {count} codes of {code_size} bytes in a payload of {payload} bytes; "
            f"expected {max(count, 0) * code_size}. Write it again"
        )
    codes = file.tell()
    expected = codes + payload + (_COUNT.size + 8 * count if with_ids else 0)
    if size != expected:
        state = "truncated" if size < expected else "damaged"
        raise ValueError(
            f"{source} is {state}: it has {size} bytes; expected {expected} for {count} codes of {inner.bits} bits"
            f"{' and their ids' if with_ids else ''}. Write it again"
        )
    if not with_ids:
        return _Layout(count, code_size, codes, payload, None)
    file.seek(codes + payload)
    ids = _count(file, size, source)
    if ids != count:
        raise ValueError(f"{source} is damaged: it has {count} codes and {ids} ids. Write it again")
    return _Layout(count, code_size, codes, payload, file.tell())


class _Head(NamedTuple):
    """The fields of a header."""

    fourcc: bytes
    bits: int
    code_size: int
    ntotal: int
    trained: int
    metric: int


def _head(file: BinaryIO, size: int, source: str, known: tuple[bytes, ...], *, inner: bool = False) -> _Head:
    """Read the next header, which must be of one of the `known` kinds; `inner` means that it is the one in an id map."""
    header = file.read(_HEAD.size)
    fourcc = header[:4]
    if len(fourcc) == 4 and fourcc not in known:
        raise ValueError(_foreign(fourcc, source, inner))
    if len(header) < _HEAD.size:
        raise _too_short(size, source)
    head = _Head(*_HEAD.unpack(header))
    if head.bits <= 0 or head.bits % 8 or head.code_size != head.bits // 8:
        raise ValueError(
            f"{source} is damaged: its header says {head.bits} bits in {head.code_size} bytes a code; "
            "expected a positive multiple of 8 and an eighth of it. Write it again"
        )
    if head.bits > checks.MOST_BITS:
        raise ValueError(f"{source} holds codes of {head.bits} bits; codes of up to {checks.MOST_BITS} bits can be searched")
    return head


def _count(file: BinaryIO, size: int, source: str) -> int:
    field = file.read(_COUNT.size)
    if len(field) < _COUNT.size:
        raise _too_short(size, source)
    return _COUNT.unpack(field)[0]


def _too_short(size: int, source: str) -> ValueError:
    return ValueError(
        f"{source} is truncated: it has {size} bytes, the header alone takes {_HEAD.size + _COUNT.size} or more. Write it again"
    )


def _foreign(fourcc: bytes, source: str, inner: bool) -> str:
    """Return the error message for a file of another kind, or one whose id map holds one, with advice on how to convert it."""
    name = fourcc.decode("ascii", errors="backslashreplace")
    if fourcc in _FOREIGN:
        found = f"{_FOREIGN[fourcc]} ({quoted(name)})"
    elif fourcc in _ID_MAPS:
        found = f"another id map ({quoted(name)})"
    elif fourcc[:2] == b"Ix":
        found = f"a FAISS index over float vectors ({quoted(name)})"
    else:
        found = f"not a FAISS binary index (it starts with {quoted(name)})"
    return f"{source} is {found}; expected a flat binary index ('IBxF'). {_conversion(fourcc, inner)}"


def _conversion(fourcc: bytes, inner: bool) -> str:
    """Return how to get the codes out of an index of another kind."""
    if fourcc not in _CODES_OF:
        return "Add the codes to a HammingIndex, or save an IndexBinaryFlat of them with faiss.write_index_binary"
    python, with_ids = _CODES_OF[fourcc], fourcc == b"IBwF"
    if inner:
        own_ids = "ids = faiss.vector_to_array(outer.id_map)" + ("[ids]" if with_ids else "")
        python, with_ids = f"outer, index = index, faiss.downcast_IndexBinary(index.index); {python}; {own_ids}", True
    what, add = ("codes and ids", "add_with_ids(codes, ids)") if with_ids else ("codes", "add(codes)")
    return f"Get its {what}, with index = faiss.read_index_binary(...): `{python}`, and put them into a HammingIndex with {add}"
