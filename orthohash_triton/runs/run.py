"""The run folder: everything that a trained model left behind, in files that other tools can open.

    config.json           TrainConfig, the shape of a sample, class names, versions
    metrics.json          one entry per epoch, and the retrieval figures once evaluated
    model.safetensors     weights of backbone and head
    codebook.safetensors  int8 +-1 [C, bits], for methods that have one
    index.ibxf            codes of the gallery, as FAISS reads them (faiss.read_index_binary)
    labels.safetensors    labels of the gallery, int64 [N] or bool [N, C], in the order of the index
    paths.json            files of the gallery's images, where there are any
    queries.safetensors   of the evaluation: codes uint8 [Q, bits/8] and labels int64 [Q] or bool [Q, C]
    query_paths.json      files of the queries' images, where there are any
    skipped.json          image files that were left out, with the reasons, where there are any

Every file is written whole or not at all, config.json last: a folder without it holds no run. While a training goes on (see
`train(folder=...)`) there are also

    checkpoint.pt         where it stands, to go on from; removed when the run is complete
    metrics.jsonl         one line of JSON per epoch, as they end
    tensorboard/          logs, where they are asked for
    wandb.json            id of the run of Weights & Biases, where it is asked for
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__, methods
from .._base.files import atomic_write
from .._base.tensors import safetensors, write_tensors
from ..data import Dataset
from ..models.backbones import make_backbone
from ..models.model import HashModel
from ..search import HammingIndex
from ..train import checkpoint
from ..train.trainer import TrainConfig, Trained

FORMAT = 2
_OF_THE_EVALUATION = ("queries.safetensors", "query_paths.json")


@dataclass(frozen=True)
class Run:
    """A run folder, opened."""

    path: Path
    config: TrainConfig
    model: HashModel
    codebook: Tensor | None
    index: HammingIndex
    gallery_labels: Tensor
    class_names: tuple[str, ...]
    gallery_paths: tuple[str, ...] | None
    metrics: dict[str, Any]

    def add_evaluation(self, figures: dict[str, Any]) -> None:
        """Keep retrieval figures in metrics.json, in the place of earlier ones."""
        self.metrics["evaluation"] = figures
        _write_json(self.path / "metrics.json", self.metrics)

    def add_queries(self, codes: Tensor, labels: Tensor, paths: Sequence[Path] | None) -> None:
        """Keep what was searched for: codes uint8 [Q, bits / 8], labels [Q] or [Q, C], and the images' files."""
        write_tensors(self.path / "queries.safetensors", {"codes": codes, "labels": labels})
        _write_paths(self.path / "query_paths.json", paths)


def save_run(path: str | Path, config: TrainConfig, trained: Trained, gallery: Dataset, *, custom_backbone: bool = False) -> Run:
    """Encode and index `gallery`, and write the folder at `path` (made where it is missing)."""
    path = Path(path)
    index = HammingIndex(config.bits)
    index.add(trained.model.encode(gallery.inputs))
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").unlink(missing_ok=True)
    description = {
        "format": FORMAT,
        "orthohash_triton": __version__,
        "torch": torch.__version__,
        "sample_shape": list(gallery.sample_shape),
        "class_names": list(gallery.class_names),
        "custom_backbone": custom_backbone,
        "codebook": trained.codebook is not None,
        "batch_norm": trained.model.head.batch_norm is not None,
        "config": asdict(config),
    }
    metrics: dict[str, Any] = {"epochs": [asdict(epoch) for epoch in trained.history]}
    _write_json(path / "metrics.json", metrics)
    write_tensors(path / "model.safetensors", trained.model.state_dict())
    if trained.codebook is None:
        (path / "codebook.safetensors").unlink(missing_ok=True)
    else:
        write_tensors(path / "codebook.safetensors", {"codebook": trained.codebook})
    write_tensors(path / "labels.safetensors", {"gallery": gallery.labels})
    _write_paths(path / "paths.json", gallery.paths)
    for name in _OF_THE_EVALUATION:
        (path / name).unlink(missing_ok=True)
    index.save(path / "index.ibxf")
    _write_json(path / "config.json", description)
    (path / checkpoint.NAME).unlink(missing_ok=True)
    paths = None if gallery.paths is None else tuple(map(str, gallery.paths))
    return Run(
        path, config, trained.model, trained.codebook, index, gallery.labels, gallery.class_names, paths, metrics
    )  # fmt: skip


def make_way(path: str | Path, *, overwrite: bool = False) -> None:
    """See that a new training can be kept at `path`: nothing that is there is lost unless `overwrite`.

    A finished run stays until `save_run` replaces it.

    Raises:
        FileExistsError: a run is there, finished or not.
    """
    path = Path(path)
    unfinished = path / checkpoint.NAME
    if overwrite:
        if (path / "config.json").exists():
            _read_description(path)
        unfinished.unlink(missing_ok=True)
    elif unfinished.exists():
        raise FileExistsError(
            f"{path} holds an unfinished training: go on with --resume {path}, choose another folder, or add --overwrite"
        )
    elif (path / "config.json").exists():
        raise FileExistsError(f"{path} holds a finished run: choose another folder, or add --overwrite to replace it")


def load_run(path: str | Path, *, backbone: nn.Module | None = None) -> Run:
    """Open the run folder at `path`.

    A run that was trained with a backbone of the caller's own needs that `backbone` again (its weights come from the run).
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        if (path / checkpoint.NAME).exists():
            raise FileNotFoundError(f"{path} holds a training that is not finished: go on with `orthohash train --resume {path}`")
        advice = "Name a folder that" if path.exists() else f"Make one with `orthohash train --out {path}`, or name one that"
        raise FileNotFoundError(f"{path} is not a run folder: it has no config.json. {advice} `orthohash train` has written")
    description = _read_description(path)
    if description.get("format") != FORMAT:
        raise ValueError(
            f"{path} has run format {description.get('format')!r}; this version reads {FORMAT}. Train again, or update"
        )
    if description["custom_backbone"] and backbone is None:
        raise ValueError(f"{path} was trained with a backbone of its own; open it in Python with load_run(path, backbone=...)")
    config = _config(path, description["config"])
    sample_shape = tuple(description["sample_shape"])
    learned = methods.get(config.method).learned
    backbone = backbone or make_backbone(config.backbone, sample_shape, learned=learned, pretrained=False)  # weights follow
    model = HashModel(backbone, config.bits, sample_shape, batch_norm=description["batch_norm"])
    try:
        model.load_state_dict(_read_tensors(path / "model.safetensors"))
    except RuntimeError as error:
        raise ValueError(f"{path / 'model.safetensors'} does not fit the model of config.json: {error}") from error
    index = HammingIndex.load(path / "index.ibxf")
    labels = _tensor(path / "labels.safetensors", "gallery")
    if index.ntotal != len(labels) or index.bits != config.bits:
        raise ValueError(
            f"{path}: index.ibxf holds {index.ntotal} codes of {index.bits} bits, labels.safetensors {len(labels)} labels "
            f"and config.json {config.bits} bits; the files are not of one run"
        )
    paths = tuple(_read_json(path / "paths.json")) if (path / "paths.json").is_file() else None
    codebook = _tensor(path / "codebook.safetensors", "codebook") if description["codebook"] else None
    return Run(
        path, config, model.eval(), codebook, index, labels,
        tuple(description["class_names"]), paths, _read_json(path / "metrics.json"),
    )  # fmt: skip


def _config(path: Path, values: dict[str, Any]) -> TrainConfig:
    unknown = set(values) - {field.name for field in fields(TrainConfig)}
    if unknown:
        raise ValueError(f"{path / 'config.json'} has settings that this version does not know: {', '.join(sorted(unknown))}")
    return TrainConfig(**values)


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


def _write_paths(path: Path, paths: Sequence[Path] | None) -> None:
    if paths is None:
        path.unlink(missing_ok=True)
    else:
        _write_json(path, [str(file) for file in paths])


def _read_description(path: Path) -> dict[str, Any]:
    description = _read_json(path / "config.json")
    if not isinstance(description, dict) or "config" not in description or "sample_shape" not in description:
        raise ValueError(f"{path / 'config.json'} was not written by orthohash train: it lacks the keys config and sample_shape")
    return description


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: the run folder is not complete") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the run folder is not complete")
    library = safetensors()
    try:
        return library.torch.load_file(path)
    except library.SafetensorError as error:
        raise ValueError(f"{path} is not a readable .safetensors file ({error})") from error


def _tensor(path: Path, name: str) -> Tensor:
    tensors = _read_tensors(path)
    if name not in tensors:
        raise ValueError(f"{path} lacks the tensor {name!r}; it has {', '.join(sorted(tensors)) or 'none'}")
    return tensors[name]
