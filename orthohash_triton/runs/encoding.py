"""Codes of any number of samples, in files: encoding that streams and can be resumed, and reading the codes back.

    X.npy      uint8 [N, bits/8]
    X.ibxf     a FAISS binary index (`faiss.read_index_binary`)
    X.parquet  columns path (of image files), code (bytes, of fixed size) and label (a name, or a list of names), where known

Beside them, where there is something to say:

    X.npy.paths.txt     the image file of each row, one a line (a Parquet file holds them itself)
    X.npy.skipped.json  the files that were left out, with the reasons: they have no row

While an encoding runs, X.npy.partial holds the codes so far and X.npy.partial.json says how far it is.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._base import checks
from .._base.files import atomic_write
from .._base.progress import progress_bar
from ..data import Dataset, Skipped, Source, open_source
from ..data.images import OnError, report_skipped, write_skipped
from ..data.sources import is_plain_name
from ..search import HammingIndex, faiss_io
from ..train import HashModel

_FORMAT, _VERSION = "orthohash-triton encoding", 1
_ROWS = 2**16  # of a Parquet file that are in memory at a time


@dataclass(frozen=True)
class Encoded:
    """What was written: `count` codes of `bits` bits at `path`; `skipped` are the files that have no row there."""

    path: Path
    count: int
    bits: int
    skipped: tuple[Skipped, ...]


def encode_to(
    model: HashModel,
    source: str | Path | Dataset | Source,
    out: str | Path,
    *,
    batch_size: int = 256,
    resume: bool = False,
    on_error: OnError = "skip",
    split: str | None = None,
    save_every: float = 1.0,
    progress: bool = True,
    **reading: Any,
) -> Encoded:
    """Encode `source` into the file `out`, in the order of the source; memory holds a few batches at a time.

    The file appears when it is complete. A process that was killed goes on with resume=True where it was, and the file is then
    the same byte for byte. What may stand beside the file is told at the top of this module.

    source      as `data.open_source`: a folder, manifest or list of images, an image, a file of features, a Dataset
    out         ends in .npy, .ibxf or .parquet
    batch_size  samples that are encoded at a time
    resume      go on with what an earlier call left behind, if it did; False refuses to throw that away
    on_error    of images that cannot be decoded: "skip" leaves them out and lists them, "raise" makes the first an error
    split, reading  which part of the source, and how it is read: as `data.open_source`
    save_every  seconds between two notes of how far it is: so much work is lost at the most

    Raises:
        FileExistsError: an earlier call was stopped half way, and resume is False; or `out` is a file of something else.
        FileNotFoundError: no such source, or no folder to write into.
        ValueError: another ending of `out`; a source of another shape; resume with another model, source or batch size.
        ImportError: a Parquet file without pyarrow, images without Pillow.
    """
    out = Path(out)
    write = _writer(out)
    checks.integer("encode_to", "batch_size", batch_size, minimum=1)
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"cannot write {out}: the folder {out.parent} does not exist. Create it first")
    _check_place(out)
    opened = open_source(source, model.sample_shape, split=split, on_error=on_error, **reading)
    key = {"model": _fingerprint(model), "source": opened.fingerprint(), "batch size": str(batch_size)}
    work = _Work(out, key, -(-model.bits // 8), len(opened), resume=resume)
    batches = -(-len(opened) // batch_size)
    with work, progress_bar("encoding", batches, done=work.done // batch_size, enabled=progress) as advance:
        for batch in opened.batches(batch_size, start=work.done):
            codes = model.encode(batch.inputs, batch_size=batch_size) if len(batch.inputs) else None
            work.add(codes, batch.skipped)
            work.save(save_every)
            advance()
    return _finish(work, opened, out, write)


class _Work:
    """Codes so far, in a file beside the one to be, and a note of how far that is; closed, it can be taken up again.

    done     samples of the source that were encoded or skipped
    skipped  those that have no code, by their positions
    """

    def __init__(self, out: Path, key: dict[str, str], code_size: int, total: int, *, resume: bool) -> None:
        self.codes_file = out.with_name(f"{out.name}.partial")
        self._note = out.with_name(f"{out.name}.partial.json")
        self._key, self.code_size, self._total = key, code_size, total
        self.done, self.skipped = 0, dict[int, Skipped]()
        self._saved = time.monotonic()
        if self._note.exists():
            self._take_up(resume)

    @property
    def count(self) -> int:
        """Codes so far."""
        return self.done - len(self.skipped)

    def __enter__(self) -> "_Work":
        self._file: BinaryIO = open(self.codes_file, "r+b" if self.done else "wb")
        self._file.truncate(self.count * self.code_size)  # what was written after the last note is done again
        self._file.seek(0, os.SEEK_END)
        self.save()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.save()
        self._file.close()
        if kind is not None and self.done == 0:  # nothing to go on from
            self.remove()

    def add(self, codes: Tensor | None, skipped: dict[int, Skipped]) -> None:
        """The next samples of the source: their codes uint8 [M, code_size], and those that have none."""
        if codes is not None:
            self._file.write(codes.numpy().data)
        self.skipped |= skipped
        self.done += len(skipped) + (0 if codes is None else len(codes))

    def save(self, every: float = 0.0) -> None:
        """Note how far it is, if the last note is `every` seconds old."""
        if time.monotonic() - self._saved < every:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        skipped = {str(row): [str(file.path), file.reason] for row, file in self.skipped.items()}
        note = {"format": _FORMAT, "version": _VERSION, "key": self._key, "done": self.done, "skipped": skipped}
        with atomic_write(self._note) as file:
            file.write(json.dumps(note).encode())
        self._saved = time.monotonic()

    def remove(self) -> None:
        """When the file is complete."""
        self.codes_file.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _take_up(self, resume: bool) -> None:
        """Go on where the note says."""
        again = f"Delete {self._note} to start again"
        try:
            note = json.loads(self._note.read_bytes())
            kind, key, done = (note["format"], note["version"]), note["key"], int(note["done"])
            skipped = {int(row): Skipped(Path(path), reason) for row, (path, reason) in note["skipped"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._note} is damaged ({error!r}). {again}") from error
        if kind != (_FORMAT, _VERSION):
            raise ValueError(f"{self._note} was written by another version. {again}")
        if not resume:
            raise FileExistsError(
                f"{self.codes_file} has the codes of {done:,} of {self._total:,} samples, of an encoding that was stopped. "
                f"Resume it. {again}"
            )
        if other := [name for name, value in self._key.items() if key.get(name) != value]:
            raise ValueError(f"{self.codes_file} was made with another {' and another '.join(other)}: it cannot go on. {again}")
        size = self.codes_file.stat().st_size if self.codes_file.exists() else 0
        if size < (done - len(skipped)) * self.code_size:
            raise ValueError(f"{self.codes_file} is missing or shorter than {self._note.name} says. {again}")
        self.done, self.skipped = done, skipped


def _finish(work: _Work, source: Source, out: Path, write: "_Write") -> Encoded:
    """Make the file of the codes, after what stands beside it."""
    rows = torch.tensor([row for row in range(len(source)) if row not in work.skipped], dtype=torch.int64)
    paths = None if source.paths is None else [str(source.paths[row]) for row in rows.tolist()]
    skipped = (*source.skipped, *(work.skipped[row] for row in sorted(work.skipped)))
    report_skipped(source.name, skipped, len(source) + len(source.skipped))
    write_skipped(skipped_file(out), skipped)
    listed = None if out.suffix == ".parquet" else paths
    with open(work.codes_file, "rb") as codes, _with_paths(out, listed), atomic_write(out) as file:
        write(_Contents(codes, work.count, work.code_size, paths, _class_names(source, rows)), file)
    work.remove()
    return Encoded(out, work.count, 8 * work.code_size, skipped)


def _class_names(source: Source, rows: Tensor) -> list[str] | list[list[str]] | None:
    """The label of each of `rows`, in words."""
    if source.labels is None:
        return None
    names = source.class_names
    if source.labels.ndim == 1:
        return [names[label] for label in source.labels[rows].tolist()]
    return [[names[i] for i in row.nonzero().flatten().tolist()] for row in source.labels[rows]]


# ---- the kinds of files ----------------------------------------------------------------------------------------------------


class _Contents(NamedTuple):
    """What goes into a file: `rows` codes of `code_size` bytes, to be read from `codes`, and what is known of each."""

    codes: BinaryIO
    rows: int
    code_size: int
    paths: list[str] | None
    labels: list[str] | list[list[str]] | None


_Write = Callable[[_Contents, BinaryIO], None]


def _write_npy(contents: _Contents, file: BinaryIO) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (contents.rows, contents.code_size)}
    np.lib.format.write_array_header_1_0(file, header)
    shutil.copyfileobj(contents.codes, file)


def _write_ibxf(contents: _Contents, file: BinaryIO) -> None:
    file.write(faiss_io.flat_header(contents.rows, contents.code_size))
    shutil.copyfileobj(contents.codes, file)


def _write_parquet(contents: _Contents, file: BinaryIO) -> None:
    pa = _pyarrow()
    several = bool(contents.labels) and isinstance(contents.labels[0], list)  # type: ignore[index]
    code = pa.binary(contents.code_size)
    columns: list[tuple[str, Any, Any]] = [
        ("path", pa.string(), contents.paths),
        ("code", code, ()),
        ("label", pa.list_(pa.string()) if several else pa.string(), contents.labels),
    ]
    columns = [column for column in columns if column[2] is not None]
    schema = pa.schema([column[:2] for column in columns])
    with pa.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, contents.rows, _ROWS):
            stop = min(start + _ROWS, contents.rows)
            raw = contents.codes.read((stop - start) * contents.code_size)
            codes = pa.FixedSizeBinaryArray.from_buffers(code, stop - start, [None, pa.py_buffer(raw)])
            arrays = [codes if name == "code" else pa.array(values[start:stop], kind) for name, kind, values in columns]
            writer.write_table(pa.table(arrays, schema=schema))


_WRITERS: dict[str, _Write] = {".npy": _write_npy, ".ibxf": _write_ibxf, ".parquet": _write_parquet}


def _writer(out: Path) -> _Write:
    if out.suffix not in _WRITERS:
        raise ValueError(f"{out} must end in {' or '.join(_WRITERS)}; got {out.suffix or 'no ending'}")
    if out.suffix == ".parquet":
        _pyarrow()  # before the work, not after it
    return _WRITERS[out.suffix]


def paths_file(codes: str | Path) -> Path:
    """Where the image files of the codes at `codes` are listed."""
    return Path(f"{codes}.paths.txt")


def skipped_file(codes: str | Path) -> Path:
    """Where the files without a code at `codes` are listed."""
    return Path(f"{codes}.skipped.json")


@dataclass(frozen=True)
class CodeFile:
    """Codes that were read from a file.

    index   the codes, for searching
    paths   the image file of each, where they are known
    labels  the label of each in words, where they are known
    """

    index: HammingIndex
    paths: Sequence[str] | None
    labels: Sequence[str] | None


def read_codes(path: str | Path) -> CodeFile:
    """Codes of a .npy, .parquet or FAISS index file (any other ending), with what is known of them.

    A FAISS index stays in its file (`HammingIndex.load(..., mmap=True)`); the others are read into memory.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or is of another number of codes than the list of files beside it.
        ImportError: a Parquet file without pyarrow.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    index = _read_npy(path) if path.suffix == ".npy" else HammingIndex.load(path, mmap=True)
    paths = _read_paths(path) if index.ids is None else None
    if paths is not None and len(paths) != len(index):
        raise ValueError(
            f"{path} has {len(index):,} codes, {paths_file(path)} {len(paths):,} files: they are not of one encoding"
        )
    return CodeFile(index, paths, None)


def holds_codes(path: str | Path) -> bool:
    """Whether there is a file of codes at `path`: a binary index of FAISS, or a .npy or .parquet file that holds codes.

    Raises:
        ValueError: a .npy or .parquet file that cannot be read.
        ImportError: a Parquet file without pyarrow.
    """
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix == ".npy":
        return _open_npy(path).dtype == np.uint8
    return faiss_io.is_index(path) or (path.suffix == ".parquet" and "code" in _parquet(path, "read_schema").names)


def _check_place(out: Path) -> None:
    """Raises FileExistsError where `out` is a file of something else than codes, which writing would throw away."""
    try:
        free = not out.is_file() or out.stat().st_size == 0 or holds_codes(out)
    except ValueError:
        free = False
    if not free:
        raise FileExistsError(f"{out} is a file that holds no codes. Choose another name, or delete it first")


def save_index(codes: CodeFile, out: str | Path) -> None:
    """Write codes as a FAISS binary index, with the list of their files beside it where they are known.

    Raises:
        ValueError: `out` ends as a file of another kind; the name of an image file holds a line break or is no Unicode.
        FileExistsError: `out` is a file of something else.
        FileNotFoundError: no folder to write into.
    """
    out = Path(out)
    if out.suffix in (".npy", ".parquet"):
        raise ValueError(f"{out}: an index is no {out.suffix} file; let its name end in .ibxf")
    _check_place(out)
    with _with_paths(out, codes.paths):
        codes.index.save(out)


def _read_npy(path: Path) -> HammingIndex:
    codes = _open_npy(path)
    if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] == 0:
        came = f"{codes.dtype} {list(codes.shape)}"
        raise ValueError(f"{path} must hold packed codes, uint8 [N, bits/8]; got {came}. Make them with `orthohash encode`")
    return _index_of(np.array(codes))


def _open_npy(path: Path) -> np.ndarray:
    """The array in its file."""
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except FileNotFoundError:
        raise _no_codes(path) from None
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is not a .npy file ({error}); expected packed codes as `orthohash encode` writes them"
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive of arrays; expected packed codes as `orthohash encode` writes them")
    return array


def _read_parquet(path: Path) -> CodeFile:
    pa = _pyarrow()
    table = _parquet(path, "read_table")
    if "code" not in table.column_names or not pa.types.is_fixed_size_binary(table.schema.field("code").type):
        raise ValueError(
            f"{path} must have a column code of bytes of fixed size; it has {', '.join(map(str, table.schema))}. "
            "Make it with `orthohash encode`"
        )
    column = table["code"]
    if column.null_count:
        raise ValueError(f"{path} lacks the code of {column.null_count:,} rows. Make it anew with `orthohash encode`")
    codes = np.frombuffer(bytearray(b"".join(column.to_pylist())), np.uint8).reshape(len(column), column.type.byte_width)
    labels = table["label"].to_pylist() if "label" in table.column_names else None
    return CodeFile(
        _index_of(codes),
        table["path"].to_pylist() if "path" in table.column_names else None,
        labels if labels is None else [", ".join(label) if isinstance(label, list) else str(label) for label in labels],
    )


def _parquet(path: Path, read: str) -> Any:
    """What a function of pyarrow.parquet reads of a file."""
    pa = _pyarrow()
    try:
        return getattr(pa.parquet, read)(path)
    except FileNotFoundError:
        raise _no_codes(path) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file ({' '.join(str(error).split())})") from error


def _no_codes(path: Path) -> FileNotFoundError:
    return FileNotFoundError(f"{path} does not exist; expected packed codes as `orthohash encode` writes them")


def _read_paths(codes: Path) -> list[str] | None:
    try:
        with open(paths_file(codes), encoding="utf-8", newline="\n") as file:
            return [line.removesuffix("\n") for line in file]
    except FileNotFoundError:
        return None


def _index_of(codes: np.ndarray) -> HammingIndex:
    index = HammingIndex(8 * codes.shape[1])
    index.add(torch.from_numpy(codes))
    return index


@contextmanager
def _with_paths(codes: Path, paths: Sequence[str] | None) -> Iterator[None]:
    """Around the writing of the file `codes`: it gets the list of its image files, and never stands beside the list of others.

    Where the writing fails an earlier list stays; where it is killed there may be none.
    """
    place = paths_file(codes)
    for path in paths or ():
        if not is_plain_name(path):
            raise ValueError(f"{place} is a list of one file a line; the name {path!r} holds a line break or is no Unicode")
    aside = place.with_name(f".{place.name}.old")
    aside.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        os.replace(place, aside)
    try:
        yield
    except BaseException:
        with suppress(FileNotFoundError):
            os.replace(aside, place)
        raise
    if paths is not None:
        with atomic_write(place) as file:
            file.writelines(f"{path}\n".encode() for path in paths)
    aside.unlink(missing_ok=True)


def _fingerprint(model: HashModel) -> str:
    digest = hashlib.sha256(f"{type(model.backbone).__name__} {model.bits} {model.sample_shape}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet files need pyarrow: pip install "orthohash-triton[parquet]"') from error
    return pyarrow
