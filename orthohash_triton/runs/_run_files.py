"""Reading of the files of a run folder, which config.json names with their checksums, and their comparison with each other."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._base import formats, run_folder
from .._base.file_set import FileSet
from .._base.quoting import quoted
from .._base.reading import reader
from ..data import places

FORMAT = 2


def open_folder(path: Path) -> FileSet:
    """Return the files of the run folder at `path`, whose content is the description in config.json.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: config.json is damaged or of another version, lacks something, or was not written by a training.
    """
    return _open(path / run_folder.CONFIG)


@reader("description of a run")
def _open(note: Path) -> FileSet:
    files = FileSet(note)
    content = files.content
    if "config" not in content or "sample_shape" not in content:
        raise ValueError(f"{note} was not written by orthohash train: it lacks the keys config and sample_shape")
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{note.parent} has run format {quoted(content.get('format'))}; this version reads {FORMAT}. Train again, or update"
        )
    names, shape = content["class_names"], content["sample_shape"]
    flags = [content[name] for name in ("custom_backbone", "codebook", "batch_norm")]
    if not isinstance(content["config"], dict) or not all(isinstance(flag, bool) for flag in flags):
        raise ValueError("config must be a table, and custom_backbone, codebook and batch_norm true or false")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names must be a list of names; got {str(names)[:60]}")
    if not isinstance(shape, list) or len(shape) not in (1, 3) or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"sample_shape must be [C, H, W] or [D]; got {quoted(shape)}")
    data = content.setdefault("data", {})  # runs of earlier versions lack it
    if not isinstance(data, dict) or not places.is_record(data.get("places", {})):
        raise ValueError("data must be a table, and its places tables of paths")
    return files


def is_run(path: Path) -> bool:
    """Return whether `path` is a folder with a finished run, rather than one with a pretrained model."""
    if (path / run_folder.INDEX).is_file():
        return (path / run_folder.CONFIG).is_file()
    try:
        return run_folder.INDEX in FileSet(path / run_folder.CONFIG)  # where its writer was interrupted at the end
    except (FileNotFoundError, ValueError):
        return False


def find(files: FileSet, name: str) -> Path | None:
    """Return where a file of the run is, after comparing its checksum; None if the run has no such file.

    Folders of before the checksums have the files under their names.
    """
    if files.names_files:
        return files.path(name) if name in files else None
    path = files.note.with_name(name)
    return path if path.is_file() else None


def require(files: FileSet, name: str) -> Path:
    """Return where a file of the run is, as `find` does; raise FileNotFoundError if the run has no such file."""
    path = find(files, name)
    if path is None:
        raise FileNotFoundError(f"{files.note.with_name(name)} is missing: the run folder is not complete")
    return path


def read_tensors(files: FileSet, name: str) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file of the run."""
    return formats.read_tensors(require(files, name))


def read_tensor(files: FileSet, name: str, tensor: str) -> Tensor:
    """Return one tensor of a .safetensors file of the run."""
    tensors = read_tensors(files, name)
    if tensor not in tensors:
        place = files.note.with_name(name)
        raise ValueError(f"{place} lacks the tensor {quoted(tensor)}; it has {', '.join(sorted(tensors)) or 'none'}")
    return tensors[tensor]


def read_paths(files: FileSet, name: str, count: int, whose: str) -> tuple[str, ...] | None:
    """Return the image files of `count` codes, or None if the run has no such list.

    Args:
        whose: the file with the codes, for messages.
    """
    path = find(files, name)
    if path is None:
        return None
    paths = _read_names(path)
    if len(paths) != count:
        place = files.note.with_name(name)
        raise ValueError(f"{place} has {len(paths):,} file names, {whose} {count:,} codes; the files are not of one run")
    return paths


@reader("list of file names")
def _read_names(path: Path) -> tuple[str, ...]:
    names = formats.read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it must hold a list of names")
    return tuple(names)


def read_metrics(files: FileSet) -> dict[str, Any]:
    """Return the contents of metrics.json."""
    return _read_metrics(require(files, run_folder.METRICS))


@reader("file of figures")
def _read_metrics(path: Path) -> dict[str, Any]:
    metrics = formats.read_json(path)
    if not isinstance(metrics["epochs"], list) or not isinstance(metrics.get("evaluation", {}), dict):
        raise ValueError("it must hold a list of epochs, and perhaps the figures of an evaluation by name")
    for epoch in metrics["epochs"]:
        if not all(isinstance(value, int | float | None) for value in (epoch["epoch"], epoch["loss"], *epoch.values())):
            raise ValueError(f"the figures of an epoch must be numbers; got {epoch!r:.80}")
    return metrics


def check_labels(place: Path, labels: Tensor, count: int, classes: int) -> None:
    """Raise ValueError unless `labels` are those of `count` codes: int64 [N], class ids below `classes`, or bool [N, classes]."""
    came = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
    if len(labels) != count if labels.ndim else True:
        raise ValueError(f"{place} has labels {came} for {count:,} codes; the files are not of one run")
    if labels.ndim == 2 and labels.dtype == torch.bool and labels.shape[1] == classes:
        return
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(f"{place} must hold class ids int64 [N] or bool [N, {classes}], one column for each class; got {came}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"{place} has class ids from {int(labels.min())} to {int(labels.max())}, config.json the names of {classes} classes; "
            "the files are not of one run"
        )


def check_codebook(place: Path, codebook: Tensor, bits: int, classes: int) -> None:
    """Raise ValueError unless `codebook` has one code of `bits` values of +-1 for each class."""
    if codebook.dtype != torch.int8 or tuple(codebook.shape) != (classes, bits):
        raise ValueError(
            f"{place} has a codebook {str(codebook.dtype).removeprefix('torch.')} {list(codebook.shape)}; config.json says "
            f"{classes} classes and {bits} bits, int8 [{classes}, {bits}]. The files are not of one run"
        )
    if not bool((codebook.abs() == 1).all()):
        raise ValueError(
            f"{place} is damaged: its codebook has other values than 1 and -1. Train the run again, or get the file again"
        )
