"""The run folder: the model, codes and figures of a training, in files that other tools can read.

    config.json           TrainConfig, the shape of a sample, class names, versions, and where the data set was
    metrics.json          one entry per epoch, and the retrieval figures after an evaluation
    model.safetensors     weights of backbone and head
    codebook.safetensors  int8 +-1 [C, bits], for methods that have a codebook
    index.ibxf            codes of the gallery, in FAISS's format (faiss.read_index_binary)
    labels.safetensors    labels of the gallery, int64 [N] or bool [N, C], in the order of the index
    paths.json            files of the gallery's images, if it was read from files
    queries.safetensors   codes uint8 [Q, bits/8] and labels int64 [Q] or bool [Q, C] of the evaluated queries
    query_paths.json      files of the queries' images, if they were read from files
    skipped.json          image files that could not be read, with the reasons, if there are any

Every file is written completely or not at all. config.json is written last: a folder without it holds no finished run. During a
training (see `train(folder=...)`) there are also

    checkpoint.pt         the state to resume from; removed when the run is finished
    metrics.jsonl         one line of JSON for each finished epoch
    tensorboard/          TensorBoard's logs, if they were asked for
    wandb.json            id of the run in Weights & Biases, if logging there was asked for

The names are declared in `_base/run_folder.py`.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__, methods
from .._base import formats, run_folder
from .._base.files import atomic_write
from .._base.quoting import quoted
from .._base.reading import reader
from .._base.tensors import write_tensors
from ..data import Dataset, places
from ..data.fingerprint import fingerprint
from ..models.backbones import SIZED_BY_SAMPLES, make_backbone
from ..models.model import HashModel
from ..models.pretrained_files import require_bits
from ..search import HammingIndex
from ..train.config import TrainConfig
from ..train.trainer import Trained

FORMAT = 2


@dataclass(frozen=True)
class Run:
    """The contents of a run folder, as `load_run` and `save_run` return them.

    Attributes:
        path: the folder.
        config: settings of the training. The paths of the data set are those that are valid now, see `load_run`.
        model: in evaluation mode.
        codebook: int8 +-1 [C, bits], or None.
        index: codes of the gallery.
        gallery_labels: int64 [N] or bool [N, C], in the order of the index.
        class_names: C names.
        gallery_paths: image file of each gallery sample, or None.
        metrics: contents of metrics.json.
        data: where the data set was ("places", see `data.places`), and the "fingerprint" of the gallery (see `data.fingerprint`).
        located: where the data set is now.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.runs import save_run
        >>> from orthohash_triton.train import TrainConfig, train
        >>> labels = torch.arange(60) % 2
        >>> data = Dataset(torch.randn(60, 8) + 4 * labels[:, None], labels, ("cat", "dog"), "toy")
        >>> config = TrainConfig(bits=16, epochs=1, batch_size=20, threads=1)
        >>> run = save_run("run", config, train(config, data, progress=False), data)
        >>> run.index.ntotal, run.class_names, len(run.metrics["epochs"])
        (60, ('cat', 'dog'), 1)
    """

    path: Path
    config: TrainConfig
    model: HashModel
    codebook: Tensor | None
    index: HammingIndex
    gallery_labels: Tensor
    class_names: tuple[str, ...]
    gallery_paths: tuple[str, ...] | None
    metrics: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    located: places.Located = field(default_factory=lambda: places.Located({}))

    def add_evaluation(self, figures: dict[str, Any]) -> None:
        """Store retrieval figures in metrics.json. Earlier figures are replaced."""
        self.metrics["evaluation"] = figures
        _write_json(self.path / run_folder.METRICS, self.metrics)

    def add_queries(self, codes: Tensor, labels: Tensor, paths: Sequence[Path] | None) -> None:
        """Store the queries of an evaluation: codes uint8 [Q, bits/8], labels [Q] or [Q, C], and the files of their images."""
        write_tensors(self.path / run_folder.QUERIES, {"codes": codes, "labels": labels})
        _write_paths(self.path / run_folder.QUERY_PATHS, paths)


def save_run(path: str | Path, config: TrainConfig, trained: Trained, gallery: Dataset, *, custom_backbone: bool = False) -> Run:
    """Encode `gallery`, write the run folder at `path`, and return its contents. The folder is created if it does not exist.

    Args:
        config: the settings that `trained` was trained with.
        custom_backbone: whether the backbone is a module of the caller, which `load_run` will need again.

    Example:
        >>> import torch
        >>> from orthohash_triton.data import Dataset
        >>> from orthohash_triton.runs import load_run, save_run
        >>> from orthohash_triton.train import TrainConfig, train
        >>> labels = torch.arange(60) % 2
        >>> data = Dataset(torch.randn(60, 8) + 4 * labels[:, None], labels, ("cat", "dog"), "toy")
        >>> config = TrainConfig(bits=16, epochs=1, batch_size=20, threads=1)
        >>> run = save_run("run", config, train(config, data, progress=False), data)
        >>> load_run("run").index.ntotal
        60
    """
    path = Path(path)
    index = HammingIndex(config.bits)
    index.add(trained.model.encode(gallery.inputs))
    path.mkdir(parents=True, exist_ok=True)
    (path / run_folder.CONFIG).unlink(missing_ok=True)
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
    data = {"places": places.record(asdict(config), path), "fingerprint": fingerprint(gallery)}
    metrics: dict[str, Any] = {"epochs": [asdict(epoch) for epoch in trained.history]}
    _write_json(path / run_folder.METRICS, metrics)
    write_tensors(path / run_folder.WEIGHTS, trained.model.state_dict())
    if trained.codebook is None:
        (path / run_folder.CODEBOOK).unlink(missing_ok=True)
    else:
        write_tensors(path / run_folder.CODEBOOK, {"codebook": trained.codebook})
    write_tensors(path / run_folder.LABELS, {"gallery": gallery.labels})
    _write_paths(path / run_folder.PATHS, gallery.paths)
    for name in (run_folder.QUERIES, run_folder.QUERY_PATHS):  # queries of the run that is replaced
        (path / name).unlink(missing_ok=True)
    index.save(path / run_folder.INDEX)
    _write_json(path / run_folder.CONFIG, {**description, "data": data})
    (path / run_folder.CHECKPOINT).unlink(missing_ok=True)
    paths = None if gallery.paths is None else tuple(map(str, gallery.paths))
    return Run(
        path, config, trained.model, trained.codebook, index, gallery.labels, gallery.class_names, paths, metrics, data
    )  # fmt: skip


def make_way(path: str | Path, *, overwrite: bool = False) -> None:
    """Prepare `path` for a new training, unless that would destroy a run and `overwrite` is False.

    With `overwrite` the checkpoint of an unfinished training is deleted. A finished run is kept until `save_run` replaces it.

    Raises:
        FileExistsError: `path` has a run, finished or not, and `overwrite` is False.
        ValueError: with `overwrite`, the config.json in `path` was not written by a training.
    """
    path = Path(path)
    unfinished = path / run_folder.CHECKPOINT
    if overwrite:
        if (path / run_folder.CONFIG).exists():
            _read_description(path / run_folder.CONFIG)
        unfinished.unlink(missing_ok=True)
    elif unfinished.exists():
        raise FileExistsError(
            f"{path} holds an unfinished training: resume it with --resume {path}, choose another folder, or add --overwrite"
        )
    elif (path / run_folder.CONFIG).exists():
        raise FileExistsError(f"{path} holds a finished run: choose another folder, or add --overwrite to replace it")


def load_run(path: str | Path, *, backbone: nn.Module | None = None, dataset: str | Path | None = None) -> Run:
    """Read the run folder at `path`.

    The data set is looked for beside the run, as it was during the training, and where it was. `Run.config` names the place where
    it is now, and so do the paths of its images.

    Args:
        backbone: needed if the run was trained with a module of the caller; its weights are read from the run.
        dataset: where the data set of the run is now, if it has moved.

    Raises:
        FileNotFoundError: the folder or one of its files does not exist, or the training is not finished.
        ValueError: a file is damaged, has another format, or does not fit the other files.

    Example:
        >>> from orthohash_triton.runs import load_run
        >>> load_run("nothing")
        Traceback (most recent call last):
        FileNotFoundError: nothing is not a run folder: it has no config.json. Make one with `orthohash train --out nothing`, ...
    """
    path = Path(path)
    if not (path / run_folder.CONFIG).is_file():
        if (path / run_folder.CHECKPOINT).exists():
            raise FileNotFoundError(
                f"{path} holds a training that is not finished: resume it with `orthohash train --resume {path}`"
            )
        advice = "Name a folder that" if path.exists() else f"Make one with `orthohash train --out {path}`, or name one that"
        raise FileNotFoundError(f"{path} is not a run folder: it has no config.json. {advice} `orthohash train` has written")
    description = _read_description(path / run_folder.CONFIG)
    if description["custom_backbone"] and backbone is None:
        raise ValueError(f"{path} was trained with a backbone of its own; open it in Python with load_run(path, backbone=...)")
    data = description["data"]
    located = places.locate(description["config"], data.get("places", {}), path, dataset=dataset)
    config = _config(path / run_folder.CONFIG, located.settings)
    sample_shape = tuple(description["sample_shape"])
    learned = methods.get(config.method).learned

    def untrained() -> HashModel:
        network = backbone or make_backbone(config.backbone, sample_shape, learned=learned, pretrained=False)
        return HashModel(network, config.bits, sample_shape, batch_norm=description["batch_norm"])

    model = _with_weights(path / run_folder.WEIGHTS, config, untrained, known=backbone is None)
    index = HammingIndex.load(path / run_folder.INDEX)
    labels = _tensor(path / run_folder.LABELS, "gallery")
    if index.ntotal != len(labels) or index.bits != config.bits:
        raise ValueError(
            f"{path}: index.ibxf has {index.ntotal} codes of {index.bits} bits, labels.safetensors {len(labels)} labels "
            f"and config.json {config.bits} bits; the files are not of one run"
        )
    paths = tuple(map(located.path, read_names(path / run_folder.PATHS))) if (path / run_folder.PATHS).is_file() else None
    codebook = _tensor(path / run_folder.CODEBOOK, "codebook") if description["codebook"] else None
    return Run(
        path, config, model.eval(), codebook, index, labels,
        tuple(description["class_names"]), paths, _read_metrics(path / run_folder.METRICS), data, located,
    )  # fmt: skip


def _with_weights(path: Path, config: TrainConfig, untrained: Callable[[], HashModel], *, known: bool) -> HashModel:
    """Return the model that `untrained` builds, with the weights in the file `path`.

    Args:
        known: whether the backbone is the one that `config` names.
    """
    weights = formats.read_tensors(_existing(path))
    require_bits(path, weights, config.bits)
    try:
        if known and config.backbone in SIZED_BY_SAMPLES:
            # Absurd sizes in config.json are noticed before memory is allocated for them.
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that nothing is copied
                untrained().load_state_dict(weights)
        model = untrained()
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model of config.json: {error}") from error
    return model


@reader("description of a run")
def _config(path: Path, values: dict[str, Any]) -> TrainConfig:
    """Return the configuration in config.json; raise ValueError for settings that this version does not have."""
    unknown = set(values) - {item.name for item in fields(TrainConfig)}
    if unknown:
        raise ValueError(f"{path} has settings that this version does not have: {', '.join(sorted(unknown))}")
    return TrainConfig(**values)


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())


def _write_paths(path: Path, paths: Sequence[Path] | None) -> None:
    """Write a list of paths, or delete the file if there is none."""
    if paths is None:
        path.unlink(missing_ok=True)
    else:
        _write_json(path, [str(file) for file in paths])


@reader("description of a run")
def _read_description(path: Path) -> dict[str, Any]:
    """Return the contents of config.json; raise ValueError if it was not written by a training, or lacks something."""
    description = formats.read_json(_existing(path))
    if not isinstance(description, dict) or "config" not in description or "sample_shape" not in description:
        raise ValueError(f"{path} was not written by orthohash train: it lacks the keys config and sample_shape")
    if description.get("format") != FORMAT:
        raise ValueError(
            f"{path.parent} has run format {quoted(description.get('format'))}; this version reads {FORMAT}. "
            "Train again, or update"
        )
    names, shape = description["class_names"], description["sample_shape"]
    flags = [description[name] for name in ("custom_backbone", "codebook", "batch_norm")]
    if not isinstance(description["config"], dict) or not all(isinstance(flag, bool) for flag in flags):
        raise ValueError("config must be a table, and custom_backbone, codebook and batch_norm true or false")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names must be a list of names")
    if not isinstance(shape, list) or len(shape) not in (1, 3) or not all(type(size) is int and size > 0 for size in shape):
        raise ValueError(f"sample_shape must be [C, H, W] or [D]; got {quoted(shape)}")
    data = description.setdefault("data", {})  # runs of earlier versions lack it
    if not isinstance(data, dict) or not places.is_record(data.get("places", {})):
        raise ValueError("data must be a table, and its places tables of paths")
    return description


@reader("list of file names")
def read_names(path: Path) -> tuple[str, ...]:
    """Return the names of files in a JSON list."""
    names = formats.read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it must hold a list of names")
    return tuple(names)


@reader("file of figures")
def _read_metrics(path: Path) -> dict[str, Any]:
    """Return the contents of metrics.json."""
    metrics = formats.read_json(_existing(path))
    if not isinstance(metrics["epochs"], list) or not isinstance(metrics.get("evaluation", {}), dict):
        raise ValueError("it must hold a list of epochs, and perhaps the figures of an evaluation by name")
    for epoch in metrics["epochs"]:
        if not all(isinstance(value, int | float | None) for value in (epoch["epoch"], epoch["loss"], *epoch.values())):
            raise ValueError(f"the figures of an epoch must be numbers; got {epoch!r:.80}")
    return metrics


def _existing(path: Path) -> Path:
    """Return `path`; raise FileNotFoundError if the run folder lacks this file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the run folder is not complete")
    return path


def _tensor(path: Path, name: str) -> Tensor:
    """Return one tensor of a safetensors file."""
    tensors = formats.read_tensors(_existing(path))
    if name not in tensors:
        raise ValueError(f"{path} lacks the tensor {quoted(name)}; it has {', '.join(sorted(tensors)) or 'none'}")
    return tensors[name]
