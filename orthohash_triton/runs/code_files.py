"""Files of packed codes: formats, reading and writing.

    X.npy      uint8 [N, bits/8]
    X.ibxf     a binary index of FAISS (`faiss.read_index_binary`)
    X.parquet  columns path (of image files), code (bytes of fixed size) and label (a name, or a list of names), if known; the
               paths are text, or bytes if one of them is not UTF-8

Further files are written next to it:

    X.npy.paths.txt     the image file of each row, one per line, if they are known (a Parquet file has them in a column instead)
    X.npy.skipped.json  the image files that have no row, with the reasons, if there are any
    X.npy.files.json    sizes and checksums of these files, which are compared when codes are read

The files change together: after an interruption there are all old ones or all new ones. See `_base.file_set`. Codes without a
.files.json, from other programs, are read without these checks.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import torch

from .._base import checks, formats
from .._base.file_names import printable
from .._base.file_set import FileSet, NewFiles, checked, note_of, owning, replacing, settled
from .._base.files import is_device_or_pipe
from .._base.quoting import quoted
from .._base.reading import reader
from ..data.sources import is_plain_name
from ..search import HammingIndex, faiss_io

_ROWS = 2**16  # rows of a Parquet file that are in memory at a time


@dataclass(frozen=True)
class CodeFile:
    """Codes that were read from a file.

    Attributes:
        index: an index of the codes.
        paths: the image file of each code, if known.
        labels: the label of each code as text, if known.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton.runs.code_files import read_codes
        >>> np.save("codes.npy", np.zeros((5, 2), np.uint8))
        >>> found = read_codes("codes.npy")
        >>> len(found.index), found.paths, found.labels
        (5, None, None)
    """

    index: HammingIndex
    paths: Sequence[str] | None
    labels: Sequence[str] | None


class Readable(Protocol):
    """The protocol of an open file for reading."""

    def read(self, size: int = -1, /) -> bytes: ...


class Contents(NamedTuple):
    """The contents of a file of codes that is to be written: `codes` yields `rows` codes of `code_size` bytes."""

    codes: Readable
    rows: int
    code_size: int
    paths: list[str] | None
    labels: list[str] | list[list[str]] | None


Write = Callable[[Contents, BinaryIO], None]


def _write_npy(contents: Contents, file: BinaryIO) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (contents.rows, contents.code_size)}
    np.lib.format.write_array_header_1_0(file, header)
    shutil.copyfileobj(contents.codes, file)


def _write_ibxf(contents: Contents, file: BinaryIO) -> None:
    file.write(faiss_io.flat_header(contents.rows, contents.code_size))
    shutil.copyfileobj(contents.codes, file)


def _write_parquet(contents: Contents, file: BinaryIO) -> None:
    """Write the codes, and the paths and labels that are known, as columns of a Parquet file."""
    pa = formats.pyarrow()
    several = bool(contents.labels) and isinstance(contents.labels[0], list)  # type: ignore[index]
    code = pa.binary(contents.code_size)
    paths: Sequence[str | bytes] | None = contents.paths
    if not all(map(_is_unicode, contents.paths or ())):  # Parquet has no other lossless type for such names
        paths = [os.fsencode(path) for path in contents.paths or ()]
    columns: list[tuple[str, Any, Any]] = [
        ("path", pa.string() if paths is contents.paths else pa.binary(), paths),
        ("code", code, ()),
        ("label", pa.list_(pa.string()) if several else pa.string(), _printable_labels(contents.labels)),
    ]
    columns = [column for column in columns if column[2] is not None]
    schema = pa.schema([column[:2] for column in columns])
    with pa.parquet.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        for start in range(0, contents.rows, _ROWS):
            stop = min(start + _ROWS, contents.rows)
            raw = contents.codes.read((stop - start) * contents.code_size)
            codes = pa.FixedSizeBinaryArray.from_buffers(code, stop - start, [None, pa.py_buffer(raw)])
            arrays = [codes if name == "code" else pa.array(values[start:stop], kind) for name, kind, values in columns]
            writer.write_table(pa.table(arrays, schema=schema))


def _printable_labels(labels: list[str] | list[list[str]] | None) -> list[Any] | None:
    if labels is None:
        return None
    return [printable(label) if isinstance(label, str) else list(map(printable, label)) for label in labels]


def _is_unicode(name: str) -> bool:
    return printable(name) == name


_WRITERS: dict[str, Write] = {".npy": _write_npy, ".ibxf": _write_ibxf, ".parquet": _write_parquet}


def writer_for(out: Path) -> Write:
    """Return the function that writes the format of `out`.

    Raises:
        ValueError: `out` has another extension.
        ImportError: pyarrow, which Parquet files need, is not installed.
    """
    if out.suffix not in _WRITERS:
        raise ValueError(f"{out} must end in {' or '.join(_WRITERS)}; got {out.suffix or 'no extension'}")
    if out.suffix == ".parquet":
        formats.pyarrow()  # a missing package is reported before the codes are computed
    return _WRITERS[out.suffix]


def paths_file(codes: str | Path) -> Path:
    """Return the path of the list of image files that belongs to the file `codes`.

    Example:
        >>> from orthohash_triton.runs.code_files import paths_file
        >>> paths_file("codes.npy").name
        'codes.npy.paths.txt'
    """
    return Path(f"{codes}.paths.txt")


def skipped_file(codes: str | Path) -> Path:
    """Return the path of the list of images without a code that belongs to the file `codes`.

    Example:
        >>> from orthohash_triton.runs.code_files import skipped_file
        >>> skipped_file("codes.npy").name
        'codes.npy.skipped.json'
    """
    return Path(f"{codes}.skipped.json")


def read_codes(path: str | Path) -> CodeFile:
    """Read codes and their paths and labels from a .npy or .parquet file, or from a binary FAISS index (any other extension).

    An index is memory-mapped (`HammingIndex.load(..., mmap=True)`); the other formats are read into memory.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, was replaced by another program or has no codes, or the list of image files does not
            belong to it.
        ImportError: pyarrow, which Parquet files need, is not installed.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton.runs.code_files import read_codes
        >>> np.save("codes.npy", np.arange(6, dtype=np.uint8).reshape(3, 2))
        >>> read_codes("codes.npy").index.codes
        tensor([[0, 1],
                [2, 3],
                [4, 5]], dtype=torch.uint8)
    """
    path = Path(path)
    place = checked(path)
    if path.suffix == ".parquet":
        return _read_parquet(place)
    index = _read_npy(place) if path.suffix == ".npy" else HammingIndex.load(place, mmap=True)
    paths = _read_paths(path) if index.ids is None else None
    if paths is not None and len(paths) != len(index):
        raise ValueError(
            f"{path} has {len(index):,} codes, {paths_file(path)} {len(paths):,} files: they are not of one encoding"
        )
    return CodeFile(index, paths, None)


def holds_codes(path: str | Path) -> bool:
    """Return whether `path` is a file of codes: a binary FAISS index, or a .npy or .parquet file with codes.

    Raises:
        ValueError: a .npy or .parquet file is damaged.
        ImportError: pyarrow, which Parquet files need, is not installed.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton.runs.code_files import holds_codes
        >>> np.save("codes.npy", np.zeros((5, 2), np.uint8))
        >>> np.save("features.npy", np.zeros((5, 2), np.float32))
        >>> holds_codes("codes.npy"), holds_codes("features.npy"), holds_codes("nothing.npy")
        (True, False, False)
    """
    place = checked(path, check=False)
    if not place.is_file():
        return False
    if Path(path).suffix == ".npy":
        return _open_npy(place).dtype == np.uint8
    return faiss_io.is_index(place) or (Path(path).suffix == ".parquet" and "code" in formats.read_parquet_columns(place))


def require_free(out: Path, *, overwrite: bool) -> None:
    """Raise an error unless codes may be written to `out`: it does not exist, is empty, or has codes and `overwrite` is True.

    Raises:
        FileExistsError: `out` has codes and `overwrite` is False, or is a file of something else, which is never replaced.
        ValueError: `out` is a device or a pipe.
    """
    if is_device_or_pipe(out):
        raise ValueError(f"{out} is a device or a pipe; codes are written to a file with others next to it. Choose another name")
    if not out.is_file() or out.stat().st_size == 0:
        return
    try:
        has_codes = holds_codes(out)
    except ValueError:
        has_codes = note_of(out).is_file()  # damaged codes
    if not has_codes:
        raise FileExistsError(f"{out} is a file without codes. Choose another name, or delete it first")
    if not overwrite:
        raise FileExistsError(f"{out} is a finished file of codes: choose another name, or add --overwrite to replace it")


def save_index(codes: CodeFile, out: str | Path, *, overwrite: bool = False) -> None:
    """Write codes as a binary FAISS index, and the list of their image files if it is known.

    Args:
        overwrite: whether `out` is replaced if it has codes.

    Raises:
        ValueError: `out` has the extension of another format, or the name of an image file contains a line break.
        FileExistsError: `out` has codes and `overwrite` is False, or is a file without codes.
        FileNotFoundError: the folder of `out` does not exist.
        BlockingIOError: another process writes `out`.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton.runs.code_files import read_codes, save_index
        >>> np.save("codes.npy", np.zeros((5, 2), np.uint8))
        >>> save_index(read_codes("codes.npy"), "codes.ibxf")
        >>> len(read_codes("codes.ibxf").index)
        5
    """
    out = Path(out)
    if out.suffix in (".npy", ".parquet"):
        raise ValueError(f"{out}: an index is not a {out.suffix} file; choose a name with the extension .ibxf")
    require_names(out, codes.paths)
    with owning(note_of(out), str(out)):
        settled(note_of(out))
        require_free(out, overwrite=overwrite)
        with replacing(note_of(out), {}) as files:
            with files.create(out.name) as file:
                codes.index.save(file)
            add_paths(files, out, codes.paths)


def _read_npy(path: Path) -> HammingIndex:
    """Read the codes of a .npy file into an index."""
    codes = _open_npy(path)
    if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] == 0:
        came = f"{codes.dtype} {list(codes.shape)}"
        advice = checks.code_advice("int8") if codes.dtype == np.int8 else "Make them with `orthohash encode`"
        raise ValueError(f"{path} must hold packed codes, uint8 [N, bits/8]; got {came}. {advice}")
    return _index_of(np.array(codes))


def _open_npy(path: Path) -> np.ndarray:
    """Return the memory-mapped array of a .npy file."""
    if not path.exists():
        raise _no_codes(path)
    return formats.read_npy(path, mmap=True)


@reader("file of codes")
def _read_parquet(path: Path) -> CodeFile:
    """Read codes, paths and labels of a Parquet file."""
    pa = formats.pyarrow()
    if not path.exists():
        raise _no_codes(path)
    table = formats.read_parquet(path)
    if "code" not in table.column_names or not pa.types.is_fixed_size_binary(table.schema.field("code").type):
        raise ValueError(
            f"{path} must have a column code of bytes of fixed size; it has {', '.join(map(str, table.schema))}. "
            "Make it with `orthohash encode`"
        )
    column = table["code"]
    if column.null_count:
        raise ValueError(f"{path} lacks the code of {column.null_count:,} rows. Make it again with `orthohash encode`")
    codes = np.frombuffer(bytearray(b"".join(column.to_pylist())), np.uint8).reshape(len(column), column.type.byte_width)
    labels = table["label"].to_pylist() if "label" in table.column_names else None
    paths = table["path"].to_pylist() if "path" in table.column_names else None
    return CodeFile(
        _index_of(codes),
        paths if paths is None else [os.fsdecode(path) if isinstance(path, bytes) else path for path in paths],
        labels if labels is None else [", ".join(label) if isinstance(label, list) else str(label) for label in labels],
    )


def _no_codes(path: Path) -> FileNotFoundError:
    return FileNotFoundError(f"{path} does not exist; expected packed codes as `orthohash encode` writes them")


def _read_paths(codes: Path) -> list[str] | None:
    """Return the list of image files that belongs to the file `codes`, or None.

    Raises:
        ValueError: the list is damaged, or does not belong to the codes.
    """
    listed, note = paths_file(codes), note_of(codes)
    if os.path.isfile(note):
        files = FileSet(note)
        if listed.name in files:
            listed = files.path(listed.name)
        elif listed.is_file():
            raise ValueError(
                f"{listed} was not written together with {codes}, as {note.name} says. Delete the list, or delete {note.name} if "
                "you are sure that it belongs to the codes"
            )
    return _read_lines(listed) if os.path.isfile(listed) else None


@reader("list of image files")
def _read_lines(path: Path) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return [line.removesuffix("\n") for line in file]


def _index_of(codes: np.ndarray) -> HammingIndex:
    index = HammingIndex(8 * codes.shape[1])
    index.add(torch.from_numpy(codes))
    return index


def require_names(codes: Path, paths: Sequence[str] | None) -> None:
    """Raise ValueError if a name in `paths` cannot be written into the list of image files of `codes`."""
    for path in paths or ():
        if not is_plain_name(path):
            raise ValueError(
                f"{paths_file(codes)} has one file name per line; the name {quoted(path)} contains a line break or cannot exist"
            )


def add_paths(files: NewFiles, codes: Path, paths: Sequence[str] | None) -> None:
    """Add the list of image files of `codes` to a set, or remove an earlier list if `paths` is None."""
    name = paths_file(codes).name
    if paths is None:
        files.remove(name)
        return
    with files.create(name) as file:
        file.writelines(os.fsencode(f"{path}\n") for path in paths)
