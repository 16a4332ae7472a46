"""The side file of an index file: the structures over its codes, in the format of safetensors.

It is a cache. An index file without a side file, or with one that does not fit it, gives the same answers; the structures are
then built again when that pays. The side file says which codes it belongs to: their number, width and checksum, and the size and
time of change of the index file, so that the codes of a mapped file need not be read to know that they are the same.
"""

import json
import os
import struct
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from .._base.quoting import quoted
from .._base.reading import reader
from .._base.tensors import safetensors
from ..kernels.filing import Filing
from ..ops.dispatch import implementation
from ._structures import Mapping, Structures, lookups

if TYPE_CHECKING:
    from ._lookup import Lookup

ENDING = ".oht"
FORMAT = "orthohash structures"
VERSION = 1

_BLOCK = 2**24  # bytes of codes whose checksum is computed at a time
_TYPES = {torch.uint8: "U8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64"}


def side_of(path: str | os.PathLike[str]) -> Path:
    """Return the path of the side file of an index file."""
    return Path(f"{os.fspath(path)}{ENDING}")


def checksum_of(codes: np.ndarray) -> int:
    """Return the CRC-32 of codes, uint8 [N, B]."""
    rows, checksum = max(1, _BLOCK // max(codes.shape[1], 1)), 0
    for start in range(0, len(codes), rows):
        checksum = crc32(np.ascontiguousarray(codes[start : start + rows]).data, checksum)
    return checksum


# ---- writing ---------------------------------------------------------------------------------------------------------------


def write(file: BinaryIO, structures: Structures, codes: np.ndarray, index: os.stat_result) -> None:
    """Write the structures over `codes` to an open file; index: the status of the index file with these codes."""
    tensors = arrays_of(structures)
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "bits": 8 * codes.shape[1],
        "count": len(codes),
        "covered": structures.count,
        "checksum": checksum_of(codes),
        "bytes": index.st_size,
        "changed": index.st_mtime_ns,
        "content": _checksum_of_arrays(tensors),
        "radius": -1 if structures.radius is None else structures.radius,
    }
    header: dict[str, Any] = {"__metadata__": {name: str(value) for name, value in facts.items()}}
    start = 0
    for name, tensor in tensors.items():  # the widest numbers first, so that all of them are aligned
        offsets = [start, start + tensor.nbytes]
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        start += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for tensor in tensors.values():
        file.write(tensor.cpu().contiguous().numpy().data)


def arrays_of(structures: Structures) -> dict[str, Tensor]:
    """Return the tensors of structures by name, those of the widest numbers first."""
    named: dict[str, Tensor] = {}
    if structures.filing is not None:
        named |= {f"filing.{name}": part for name, part in structures.filing._asdict().items()}
    if structures.lookup is not None:
        named |= {f"lookup.{name}": part for name, part in structures.lookup.arrays().items()}
    return dict(sorted(named.items(), key=lambda item: -item[1].element_size()))


def _checksum_of_arrays(arrays: dict[str, Tensor]) -> int:
    """Return the CRC-32 of tensors and their names."""
    checksum = 0
    for name in sorted(arrays):
        checksum = crc32(arrays[name].cpu().contiguous().numpy().data, crc32(name.encode(), checksum))
    return checksum


# ---- reading ---------------------------------------------------------------------------------------------------------------


def opened(path: Path, codes: Tensor, index: os.stat_result, *, mmap: bool) -> Structures | None:
    """Return the structures in the side file `path` for `codes`, uint8 [N, B]; None without a file, or if it does not fit.

    If it does not fit, or is damaged, a warning says so.
    """
    if not path.exists():
        return None
    try:
        return read(path, codes, index, mmap=mmap)
    except (ValueError, OSError, ImportError) as error:
        warnings.warn(
            f"the side file {path} is not used: {error}. The answers are right without it; save the index again to replace it, "
            "or remove it",
            RuntimeWarning,
            stacklevel=4,
        )
        return None


@reader("side file of an index", advice="Save the index again")
def read(path: Path, codes: Tensor, index: os.stat_result, *, mmap: bool) -> Structures:
    """Return the structures in the side file `path`, which must belong to `codes`.

    Everything that a search follows is checked, so that no content of the file makes it read outside of an array.

    Args:
        codes: uint8 [N, B], of the index file.
        index: the status of the index file.
        mmap: leave the structures in the file.

    Raises:
        ValueError: The file is damaged, of another version, or belongs to other codes.
    """
    with safetensors().safe_open(path, "pt") as file:
        said = _Facts(file.metadata() or {})
        said.check(codes, index, trusts_time=mmap)
        arrays = {name: file.get_tensor(name) if mmap else file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if (content := _checksum_of_arrays(arrays)) != said.number("content"):
        raise ValueError(f"it is damaged: its checksum is {content:08x}, its entry content says {said.number('content'):08x}")
    covered, width = said.number("covered"), codes.shape[1]
    if not 0 < covered <= len(codes):
        raise ValueError(f"it covers {covered} of {len(codes)} codes")
    structures = _structures(arrays, codes[:covered], said.number("radius"), covered, width)
    return replace(structures, file=Mapping(path)) if mmap else structures


class _Facts:
    """The metadata of a side file."""

    def __init__(self, metadata: dict[str, str]) -> None:
        self._said = metadata

    def number(self, name: str) -> int:
        """Return a whole number of the metadata."""
        said = self._said.get(name, "")
        if not said.lstrip("-").isdecimal() or len(said) > 20:
            raise ValueError(f"its entry {name} must be a whole number; got {quoted(said)}")
        return int(said)

    def check(self, codes: Tensor, index: os.stat_result, *, trusts_time: bool) -> None:
        """Raise ValueError unless the file has this version and belongs to `codes` of the index file."""
        if self._said.get("format") != FORMAT:
            raise ValueError(f"it is of format {quoted(self._said.get('format'))}; expected {quoted(FORMAT)}")
        if (version := self.number("version")) != VERSION:
            raise ValueError(f"it has version {version}; this version of the package reads version {VERSION}")
        found = 8 * codes.shape[1], len(codes)
        if (said := (self.number("bits"), self.number("count"))) != found:
            raise ValueError(f"it belongs to {said[1]} codes of {said[0]} bits; the index has {found[1]} of {found[0]}")
        if trusts_time and (self.number("bytes"), self.number("changed")) == (index.st_size, index.st_mtime_ns):
            return
        if (checksum := checksum_of(codes.numpy())) != self.number("checksum"):
            other = f"{self.number('checksum'):08x}"
            raise ValueError(f"it belongs to codes with checksum {other}; those of the index have {checksum:08x}")


def _structures(arrays: dict[str, Tensor], codes: Tensor, radius: int, covered: int, width: int) -> Structures:
    """Return the structures in `arrays` after checking everything that a search follows."""
    filing, lookup = None, None
    if any(name.startswith("filing.") for name in arrays):
        filing = Filing(**{name: arrays[f"filing.{name}"] for name in Filing._fields})
        _check_filing(filing, covered, width)
    if any(name.startswith("lookup.") for name in arrays):
        parts = {name.removeprefix("lookup."): part for name, part in arrays.items() if name.startswith("lookup.")}
        lookup = lookups().of_arrays(codes, parts)
        _check_lookup(lookup, covered, width)
    if filing is None and lookup is None:
        raise ValueError("it holds no structures")
    return Structures(covered, filing, lookup, radius if lookup is not None else None)


def _check_filing(filing: Filing, count: int, width: int) -> None:
    """Raise ValueError unless each position occurs once, and entries, rings and centres refer to what exists."""
    entries, centres, rings = len(filing.entries), len(filing.centres), len(filing.ring_distances)
    _expect("entries", filing.entries, torch.uint8, (entries, width))
    _expect("centres", filing.centres, torch.uint8, (max(centres, 1), width))
    _expect("positions", filing.positions, torch.int32 if count < 2**31 else torch.int64, (count,))
    _expect("ring_distances", filing.ring_distances, torch.int32, (rings,))
    _check_starts("entry_starts", filing.entry_starts, entries, count)
    _check_starts("ring_starts", filing.ring_starts, rings, entries)
    _check_starts("centre_rings", filing.centre_rings, centres, rings)
    if rings and not (int(filing.ring_distances.min()) >= 0 and int(filing.ring_distances.max()) <= 8 * width):
        raise ValueError("its ring_distances are not distances of codes")
    steps = np.diff(filing.ring_distances.numpy().astype(np.int64))
    inside = np.ones(max(rings - 1, 0), bool)
    first = filing.centre_rings.numpy()[1:-1]
    inside[first[(first > 0) & (first < rings)] - 1] = False
    if (steps[inside] != 1).any():
        raise ValueError("its ring_distances are not consecutive within a centre")
    seen = np.zeros(count, bool)
    positions = filing.positions.numpy()
    if count and (positions.min() < 0 or positions.max() >= count):
        raise ValueError("its positions are beyond its codes")
    seen[positions] = True
    if not seen.all():
        raise ValueError("its positions do not name each code once")


def _check_lookup(lookup: "Lookup", count: int, width: int) -> None:
    """Raise ValueError unless the tables refer to rows, buckets and bits that exist. Their shapes are right already."""
    tables = lookup.tables
    number = len(tables.starts)
    if lookup.codes.shape != (count, width):
        raise ValueError(f"its lookup is of {list(lookup.codes.shape)} codes; expected {[count, width]}")
    if int(tables.of_bits.min()) < -1 or int(tables.of_bits.max()) >= number:
        raise ValueError("its of_bits name tables that do not exist")
    steps = tables.steps
    if len(steps) and (int(steps.min()) < 0 or int(steps[:, 0].max()) >= number or int(steps[:, 1].max()) > 8 * width):
        raise ValueError("its steps name tables or numbers of bits that do not exist")
    for table in range(number):
        weights = steps[steps[:, 0] == table, 1].tolist()
        if weights != list(range(len(weights))) or len(weights) > int((tables.of_bits == table).sum()) + 1:
            raise ValueError("its steps do not count the bits that differ in a table")
    starts, numbered = tables.starts.numpy(), tables.rows.numpy().view(np.uint64)
    row_of = (np.uint64(1) << implementation("lookup", "cpu").row_bits(starts)) - np.uint64(1)
    for table in range(number):
        rows = numbered[table] & row_of
        if (np.diff(starts[table]) < 0).any() or starts[table, 0] != 0 or starts[table, -1] != count:
            raise ValueError("its buckets do not ascend")
        if count and rows.max() >= count:
            raise ValueError("its rows are beyond its codes")


def _check_starts(name: str, starts: Tensor, count: int, total: int) -> None:
    _expect(name, starts, torch.int64, (count + 1,))
    values = starts.numpy()
    if values[0] != 0 or values[-1] != total or (np.diff(values) < 0).any():
        raise ValueError(f"its {name} do not ascend from 0 to {total}")


def _expect(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise ValueError(f"its {name} are {tensor.dtype} {list(tensor.shape)}; expected {dtype} {list(shape)}")
