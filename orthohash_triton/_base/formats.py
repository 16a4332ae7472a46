"""Readers of common file formats, which allocate no memory for sizes that a file only claims.

A damaged or hostile file can claim any size. Each reader therefore compares the claim with the bytes that the file has before it
allocates. Compressed files may expand, but not from little to more than EXPANDED_BYTES. No reader unpickles anything that could
run code.
"""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .extras import install
from .quoting import quoted
from .reading import naming, reader
from .tensors import safetensors

EXPANDED_BYTES = 2**30
"""A compressed file that becomes larger than this number of bytes must not become more than EXPANSION times its own size."""

EXPANSION = 10

_PARQUET_ROWS = 1024  # rows that are expanded before the size is checked: a dictionary repeats each value in few bytes
_DEFLATE_RATIO = 1032  # no deflated byte becomes more than this number of bytes
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_json(path: str | Path, kind: str = "JSON file", *, advice: str = "") -> Any:
    """Return the contents of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        kind, advice: see `reading.reader`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not JSON.

    Example:
        >>> from pathlib import Path
        >>> from orthohash_triton._base.formats import read_json
        >>> Path("paths.json").write_text('["1.jpg"]') and read_json("paths.json")
        ['1.jpg']
    """
    with naming(path, kind, advice=advice):
        return json.loads(Path(path).read_bytes())


@reader(".npy file")
def read_npy(path: str | Path, *, mmap: bool = False) -> np.ndarray:
    """Return the array of a .npy file, or map it into memory, which reads its values on access.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged, holds Python objects, or has more or fewer bytes than its header says.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton._base.formats import read_npy
        >>> np.save("rows.npy", np.arange(3))
        >>> read_npy("rows.npy")
        array([0, 1, 2])
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(4)
        if start in (b"PK\x03\x04", b"PK\x05\x06"):
            raise ValueError(f"{path} is an archive of arrays; give it a name that ends in .npz")
        _check_npy(file, path.stat().st_size)
    array = np.load(path, allow_pickle=False, mmap_mode="r" if mmap else None)
    return array if mmap else _checked_bools(array)


@reader(".npz file")
def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file by name.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged, holds something else than arrays, or expands too much (see EXPANDED_BYTES).

    Example:
        >>> import numpy as np
        >>> from orthohash_triton._base.formats import read_npz
        >>> np.savez("arrays.npz", features=np.ones((2, 3)))
        >>> read_npz("arrays.npz")["features"].shape
        (2, 3)
    """
    path = Path(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_expansion(members, path.stat().st_size)
        arrays = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                raise ValueError(f"its member {quoted(name)} is not an array; expected a name that ends in .npy")
            if name in arrays:
                raise ValueError(f"it has two members {quoted(name)}")
            with archive.open(member) as file:
                _check_npy(file, member.file_size)
            with archive.open(member) as file:
                arrays[name] = _checked_bools(np.lib.format.read_array(file, allow_pickle=False))
    return arrays


@reader(".safetensors file", advice="It may be truncated or damaged; get or write it again")
def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged, or is a pickle of torch.save, which is refused before anything of it is interpreted.
        ImportError: safetensors is not installed.

    Example:
        >>> import torch
        >>> from safetensors.torch import save_file
        >>> from orthohash_triton._base.formats import read_tensors
        >>> save_file({"gallery": torch.arange(3)}, "labels.safetensors")
        >>> read_tensors("labels.safetensors")
        {'gallery': tensor([0, 1, 2])}
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(2)
    if start in (b"PK", b"\x80\x02"):  # the first bytes of what torch.save writes: a zip archive, or a pickle
        raise ValueError(
            f"{path} is a pickle of torch.save, not safetensors, and is not opened: a pickle can run code. "
            "Convert it where you trust it: safetensors.torch.save_file(torch.load(file, weights_only=True), ...)"
        )
    tensors = safetensors().torch.load_file(path)
    size = path.stat().st_size
    for name, tensor in tensors.items():
        require_plausible(name, tuple(tensor.shape), size)
        if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
            raise ValueError(f"the truth values of {quoted(name)} are not all 0 or 1")
    return tensors


def read_torch(path: str | Path, kind: str = "file of torch.save", *, advice: str = "") -> Any:
    """Return the tensors and plain values of a file of `torch.save`, on the CPU. Nothing in it can run code.

    The checksums in the file are verified, which torch.load does not do.

    Args:
        kind, advice: see `reading.reader`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged, or pickles other objects than tensors and plain values.

    Example:
        >>> import torch
        >>> from orthohash_triton._base.formats import read_torch
        >>> torch.save({"step": 3}, "state.pt")
        >>> read_torch("state.pt")
        {'step': 3}
    """
    path = Path(path)
    with naming(path, kind, advice=advice):
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        if not zipped:  # a file of PyTorch before 1.6, which has no checksums; from memory no more can be read than it holds
            return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
        with zipfile.ZipFile(path) as archive:
            _check_expansion(archive.infolist(), path.stat().st_size)
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"its member {quoted(damaged)} does not match its checksum")
        return torch.load(path, map_location="cpu", weights_only=True)


@reader("Parquet file")
def read_parquet(path: str | Path) -> Any:
    """Return the table of a Parquet file, a pyarrow.Table.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged, or expands too much (see EXPANDED_BYTES).
        ImportError: pyarrow is not installed.

    Example:
        >>> import pyarrow as pa
        >>> import pyarrow.parquet
        >>> from orthohash_triton._base.formats import read_parquet
        >>> pa.parquet.write_table(pa.table({"path": ["1.jpg"]}), "images.parquet")
        >>> read_parquet("images.parquet")["path"].to_pylist()
        ['1.jpg']
    """
    pa, path = pyarrow(), Path(path)
    size = path.stat().st_size
    batches, expanded = [], 0
    with path.open("rb") as opened:  # pyarrow's own reader of files reports a missing file and a damaged one alike
        file = pa.parquet.ParquetFile(opened, page_checksum_verification=True)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        require_expansion(sum(group.total_byte_size for group in groups), size)
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            expanded += batch.nbytes
            require_expansion(expanded, size)
            batches.append(batch)
        table = pa.Table.from_batches(batches, schema=file.schema_arrow)
        if len(table) != file.metadata.num_rows:
            raise ValueError(f"it has {len(table):,} rows; its footer says {file.metadata.num_rows:,}")
    table.validate(full=True)
    return table


@reader("Parquet file")
def read_parquet_columns(path: str | Path) -> list[str]:
    """Return the names of the columns of a Parquet file, without reading the columns.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `read_parquet`.

    Example:
        >>> import pyarrow as pa
        >>> import pyarrow.parquet
        >>> from orthohash_triton._base.formats import read_parquet_columns
        >>> pa.parquet.write_table(pa.table({"path": ["1.jpg"]}), "images.parquet")
        >>> read_parquet_columns("images.parquet")
        ['path']
    """
    with Path(path).open("rb") as file:
        return list(pyarrow().parquet.read_schema(file).names)


def pyarrow() -> Any:
    """Return the module pyarrow with its submodules csv and parquet.

    Raises:
        ImportError: it is not installed.

    Example:
        >>> from orthohash_triton._base.formats import pyarrow
        >>> pyarrow().__name__
        'pyarrow'
    """
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"manifests and Parquet files need pyarrow: {install('pyarrow', extra='parquet')}") from error
    return pyarrow


def require_plausible(name: str, shape: tuple[int, ...], size: int) -> None:
    """Raise ValueError for an empty array of absurd length, such as [2**40, 0], which needs no bytes until rows are counted.

    Args:
        name: what the message calls the array.
        size: bytes of the file.

    Example:
        >>> from orthohash_triton._base.formats import require_plausible
        >>> require_plausible("features", (0, 128), 200)
        >>> require_plausible("features", (2**40, 0), 200)
        Traceback (most recent call last):
        ...
        ValueError: features [1099511627776, 0] has no elements, but a length that its file of 200 bytes cannot have
    """
    if 0 in shape and max(shape) > max(size, 2**20):
        raise ValueError(f"{name} {list(shape)} has no elements, but a length that its file of {size:,} bytes cannot have")


def _check_npy(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless the array that the header of a .npy file declares fills exactly `size` bytes with the header."""
    file.seek(0)
    version = np.lib.format.read_magic(file)
    if version not in _NPY_HEADERS:
        raise ValueError(f"its format has version {version[0]}.{version[1]}; expected 1.0 or 2.0, which numpy writes for numbers")
    try:
        shape, _, dtype = _NPY_HEADERS[version](file)
    except MemoryError:  # Python's parser raises this too when its stack is full
        raise ValueError("its header is nested too deeply") from None
    if dtype.hasobject:
        raise ValueError("it pickles Python objects, which could run code. Save an array of numbers or of text")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"its header has the shape {shape}")
    count: int = math.prod(shape)
    need, found = count * dtype.itemsize, size - file.tell()
    if need != found:
        raise ValueError(f"its header says {dtype} {list(shape)}, which is {need:,} bytes; it has {found:,}")
    if dtype.itemsize == 0 and count:
        raise ValueError(f"its elements of type {dtype} have no bytes")
    require_plausible("array", shape, size)


def _checked_bools(array: np.ndarray) -> np.ndarray:
    """Return `array`; raise ValueError for truth values other than 0 and 1, which no array has that numpy wrote."""
    if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise ValueError("its truth values are not all 0 or 1")
    return array


def _check_expansion(members: list[zipfile.ZipInfo], size: int) -> None:
    """Raise ValueError if a zip archive of `size` bytes claims contents that it cannot have, or that expand too much."""
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its member {quoted(member.filename)} is neither stored nor deflated, as numpy writes members")
        ratio = 1 if member.compress_type == zipfile.ZIP_STORED else _DEFLATE_RATIO
        if member.file_size > ratio * member.compress_size:
            raise ValueError(
                f"its member {quoted(member.filename)} claims {member.file_size:,} bytes in {member.compress_size:,}"
            )
    if sum(member.compress_size for member in members) > size:
        raise ValueError("its members overlap")
    require_expansion(sum(member.file_size for member in members), size)


def require_expansion(expanded: int, size: int) -> None:
    """Raise ValueError if a compressed file of `size` bytes becomes `expanded` bytes, and that is too much for its size.

    Example:
        >>> from orthohash_triton._base.formats import require_expansion
        >>> require_expansion(2**20, 2**10)
        >>> require_expansion(2**40, 2**30)
        Traceback (most recent call last):
        ...
        ValueError: its 1,073,741,824 bytes become 1,099,511,627,776; above 1 GiB at most 10 times are accepted. Write it ...
    """
    if expanded > max(EXPANDED_BYTES, EXPANSION * size):
        raise ValueError(
            f"its {size:,} bytes become {expanded:,}; above {EXPANDED_BYTES // 2**30} GiB at most {EXPANSION} times are "
            "accepted. Write it without compression if its contents are right"
        )
