"""FAISS's file of a flat binary index ("IBxF"), little-endian:

| bytes | field | value |
| --- | --- | --- |
| 0-3 | fourcc | `IBxF` |
| 4-7 | d, int32 | bits of a code |
| 8-11 | code_size, int32 | d / 8 |
| 12-19 | ntotal, int64 | codes |
| 20 | is_trained, uint8 | 1 |
| 21-24 | metric, int32 | 1 (FAISS writes its default; Hamming distance is understood) |
| 25-32 | payload bytes, uint64 | ntotal * code_size |
| from 33 | codes | ntotal rows of code_size bytes |
"""

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .._files import atomic_write

_HEADER = struct.Struct("<4siiqBiQ")
_FOURCC = b"IBxF"
_METRIC_DEFAULT = 1
_FOREIGN = {
    b"IBwF": "a binary IVF index",
    b"IBHf": "a binary HNSW index",
    b"IBHc": "a binary CAGRA index",
    b"IBHh": "a binary hash index",
    b"IBHm": "a binary multi-hash index",
    b"IBMp": "a binary index with an id map",
    b"IBM2": "a binary index with a two-way id map",
    b"IBFf": "a binary index over a float index",
}


def write(path: str | os.PathLike[str], codes: np.ndarray) -> None:
    """Write packed codes, uint8 [N, bits/8], as a flat binary index; atomically (see `atomic_write`)."""
    count, code_size = codes.shape
    with atomic_write(path) as file:
        file.write(_HEADER.pack(_FOURCC, 8 * code_size, code_size, count, 1, _METRIC_DEFAULT, codes.nbytes))
        file.write(np.ascontiguousarray(codes).data)


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """The packed codes of a flat binary index, uint8 [N, bits/8].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, another kind of index, or contradicts itself; nothing is allocated by what it claims.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no index file {path}")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return _read(file, size, f"index file {path}")


def decode(data: np.ndarray, source: str) -> np.ndarray:
    """The packed codes of a serialised flat binary index (its bytes, uint8), uint8 [N, bits/8]; errors name `source`."""
    return _read(io.BytesIO(data.data), len(data), source)


def _read(file: BinaryIO, size: int, source: str) -> np.ndarray:
    count, code_size = _shape(file.read(_HEADER.size), size, source)
    codes = np.empty((count, code_size), dtype=np.uint8)
    if file.readinto(codes.data.cast("B") if codes.size else bytearray()) != codes.nbytes:  # type: ignore[attr-defined]
        raise ValueError(f"{source} became shorter while it was read. Write it again")
    return codes


def _shape(header: bytes, size: int, source: str) -> tuple[int, int]:
    """(codes, bytes a code) after every check of the header against itself and against the size in bytes."""
    fourcc = header[:4]
    if len(fourcc) == 4 and fourcc != _FOURCC:
        raise ValueError(_foreign(fourcc, source))
    if len(header) < _HEADER.size:
        raise ValueError(f"{source} is truncated: it has {size} bytes, the header alone takes {_HEADER.size}. Write it again")
    _, bits, code_size, count, _, _, payload = _HEADER.unpack(header)
    if bits <= 0 or bits % 8 or code_size != bits // 8:
        raise ValueError(
            f"{source} is damaged: its header says {bits} bits in {code_size} bytes a code; "
            "expected a positive multiple of 8 and an eighth of it. Write it again"
        )
    if count < 0 or payload != count * code_size:
        raise ValueError(
            f"{source} is damaged: its header says {count} codes of {code_size} bytes in a payload of {payload} bytes; "
            f"expected {max(count, 0) * code_size}. Write it again"
        )
    if size != _HEADER.size + payload:
        state = "truncated" if size < _HEADER.size + payload else "damaged"
        raise ValueError(
            f"{source} is {state}: it has {size} bytes; expected {_HEADER.size + payload} "
            f"for {count} codes of {bits} bits. Write it again"
        )
    return count, code_size


def _foreign(fourcc: bytes, source: str) -> str:
    name = fourcc.decode("ascii", errors="backslashreplace")
    if fourcc in _FOREIGN:
        found = f"{_FOREIGN[fourcc]} ({name!r})"
    elif fourcc[:2] == b"Ix":
        found = f"a FAISS index over float vectors ({name!r})"
    else:
        found = f"no FAISS binary index (it starts with {name!r})"
    return f"{source} is {found}; expected a flat binary index ('IBxF'). Save an IndexBinaryFlat with faiss.write_index_binary"
