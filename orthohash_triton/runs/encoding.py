"""Encoding of any number of samples into a file of codes. An encoding that was stopped can be resumed.

    X.npy      uint8 [N, bits/8]
    X.ibxf     a binary index of FAISS (`faiss.read_index_binary`)
    X.parquet  columns path (of image files), code (bytes of fixed size) and label (a name, or a list of names), if known

Further files are written next to it, together with it (see `code_files`):

    X.npy.paths.txt     the image file of each row, one per line (a Parquet file has them in a column instead)
    X.npy.skipped.json  the image files that could not be read, with the reasons; they have no row
    X.npy.files.json    sizes and checksums of these files, and what the codes depend on

During an encoding, X.npy.partial has the codes so far, X.npy.partial.json says how many samples are done, and a hidden lock file
names the process that writes them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._base import checks, formats
from .._base.file_set import FileSet, note_of, owning, replacing, settled
from .._base.files import target_of
from .._base.moved import find_moved
from .._base.progress import progress_bar
from .._base.reading import reader
from ..data import Dataset, Skipped, Source, open_source
from ..data.images import OnError, report_skipped, skipped_as_json
from ..models.model import HashModel
from .code_files import Contents, Write, add_paths, require_free, require_names, skipped_file, writer_for
from .partial_codes import PartialCodes, discard_partial, may_overwrite


@dataclass(frozen=True)
class Encoded:
    """The result of `encode_to`.

    Attributes:
        path: the file that was written.
        count: number of codes in it.
        bits: length of one code.
        skipped: image files without a code, with the reasons.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.models import HashModel
        >>> from orthohash_triton.runs import encode_to
        >>> samples = Dataset(torch.randn(5, 8), torch.zeros(5, dtype=torch.int64), ("any",), "toy")
        >>> encoded = encode_to(HashModel("features", 16, (8,)), samples, "codes.npy", progress=False)
        >>> encoded.count, encoded.bits, encoded.skipped
        (5, 16, ())
    """

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
    overwrite: bool = False,
    on_error: OnError = "skip",
    split: str | None = None,
    save_every: float = 1.0,
    progress: bool = True,
    **reading: Any,
) -> Encoded:
    """Encode `source` into the file `out`, in the order of the source. Only a few batches are in memory at a time.

    The file is created when the encoding is complete. If the process was killed, another call with `resume=True` continues it and
    writes a file with the same bytes. The other files that are written are described at the top of this module.

    Args:
        model: encodes the samples.
        source: see `data.open_source`: a folder, manifest or list of images, an image, a file of features, or a `Dataset`.
        out: a path with the extension .npy, .ibxf or .parquet.
        batch_size: number of samples that are encoded at a time.
        resume: whether to continue an encoding that was stopped. An encoding that is complete is not repeated.
        overwrite: whether to replace `out` if it has codes. An encoding that was stopped is then discarded, unless it is resumed.
        on_error: "skip" leaves out images that cannot be decoded and lists them; "raise" stops at the first one.
        split, reading: which part of the source is read, and how; see `data.open_source`.
        save_every: seconds between two notes of the progress. This is the most work that is lost if the process is killed.
        progress: whether to show a progress bar on standard error.

    Raises:
        FileExistsError: `out` has codes, or an earlier encoding into it was stopped, and neither `overwrite` nor `resume` allows
            it; or `out` is a file without codes.
        BlockingIOError: another process is encoding into `out`.
        FileNotFoundError: the source or the folder of `out` does not exist.
        ValueError: `out` has another extension or is a device; the samples have another shape than the model takes; or an
            encoding with another model, source or batch size cannot be resumed.
        ImportError: pyarrow, which Parquet files need, or Pillow, which images need, is not installed.

    Example:
        >>> import numpy as np
        >>> from orthohash_triton.models import HashModel
        >>> from orthohash_triton.runs import encode_to
        >>> np.save("features.npy", np.ones((5, 8), np.float32))
        >>> encode_to(HashModel("features", 16, (8,)), "features.npy", "encoded.npy", progress=False).count
        5
        >>> np.load("encoded.npy").shape
        (5, 2)
    """
    out = Path(out)
    checks.integer("encode_to", "batch_size", batch_size, minimum=1)
    write = writer_for(out)
    target_of(out)  # reports a missing folder
    with owning(note_of(out), str(out)):
        settled(note_of(out))
        overwrite = overwrite or (resume and may_overwrite(out))
        require_free(out, overwrite=overwrite or resume)
        opened = open_source(source, model.sample_shape, split=split, on_error=on_error, **reading)
        key = {"model": _fingerprint(model), "source": opened.fingerprint(), "batch size": str(batch_size)}
        if out.suffix != ".parquet" and opened.paths is not None:
            require_names(out, [str(path) for path in opened.paths])
        if resume and (finished := _finished(out, key)) is not None:
            discard_partial(out)
            return finished
        require_free(out, overwrite=overwrite)
        partial = PartialCodes(out, key, -(-model.bits // 8), len(opened), resume=resume, overwrite=overwrite)
        batches = -(-len(opened) // batch_size)
        with partial, progress_bar("encoding", batches, done=partial.done // batch_size, enabled=progress) as advance:
            for batch in opened.batches(batch_size, start=partial.done):
                codes = model.encode(batch.inputs, batch_size=batch_size) if len(batch.inputs) else None
                partial.add(codes, batch.skipped)
                partial.save(save_every)
                advance()
        return _finish(partial, key, opened, out, write)


def _finished(out: Path, key: Mapping[str, str]) -> Encoded | None:
    """Return the result of an encoding with the same `key` that is complete, or None.

    Raises:
        FileNotFoundError, ValueError: the encoding is complete, but one of its files is missing or damaged.
    """
    if not note_of(out).is_file():
        return None
    files = FileSet(note_of(out))
    if files.content.get("key") != key or out.name not in files:
        return None
    listed = {name: files.path(name) for name in files}.get(skipped_file(out).name)
    skipped = () if listed is None else _read_skipped(listed)
    return Encoded(out, files.content["codes"], files.content["bits"], skipped)


@reader("list of skipped files")
def _read_skipped(path: Path) -> tuple[Skipped, ...]:
    return tuple(Skipped(Path(entry["path"]), str(entry["reason"])) for entry in formats.read_json(path))


def _finish(partial: PartialCodes, key: Mapping[str, str], source: Source, out: Path, write: Write) -> Encoded:
    """Write the file of codes together with the files that accompany it."""
    rows = torch.tensor([row for row in range(len(source)) if row not in partial.skipped], dtype=torch.int64)
    paths = None if source.paths is None else [str(source.paths[row]) for row in rows.tolist()]
    listed = None if out.suffix == ".parquet" else paths
    skipped = (*source.skipped, *(partial.skipped[row] for row in sorted(partial.skipped)))
    report_skipped(source.name, skipped, len(source) + len(source.skipped))
    encoded = Encoded(out, partial.count, 8 * partial.code_size, skipped)
    with replacing(note_of(out), {"key": key, "codes": encoded.count, "bits": encoded.bits}) as files:
        with partial.reading() as codes, files.create(out.name) as file:
            write(Contents(codes, partial.count, partial.code_size, paths, _class_names(source, rows)), file)
        add_paths(files, out, listed)
        if skipped:
            with files.create(skipped_file(out).name) as file:
                file.write(skipped_as_json(skipped))
        else:
            files.remove(skipped_file(out).name)
    partial.remove()
    return encoded


def _class_names(source: Source, rows: Tensor) -> list[str] | list[list[str]] | None:
    """Return the class name, or the list of class names, of each of `rows`; None without labels."""
    if source.labels is None:
        return None
    names = source.class_names
    if source.labels.ndim == 1:
        return [names[label] for label in source.labels[rows].tolist()]
    return [[names[i] for i in row.nonzero().flatten().tolist()] for row in source.labels[rows]]


def _fingerprint(model: HashModel) -> str:
    """Return a checksum of the architecture's name and all weights."""
    digest = hashlib.sha256(f"{type(model.backbone).__name__} {model.bits} {model.sample_shape}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def __getattr__(name: str) -> Any:
    return find_moved(__name__, name)
