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

config.json names the other files with their sizes and checksums, which are compared when a run is loaded. The files change
together: after an interruption the folder has the old run or the new one (see `_base.file_set`). During a
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
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import __version__, methods
from .._base import formats, run_folder
from .._base.file_set import FileSet, NewFiles, owning, replacing, updating
from .._base.reading import naming, reader
from .._base.tensors import pack_tensors
from ..data import Dataset, Skipped, places
from ..data.fingerprint import fingerprint
from ..data.images import skipped_as_json
from ..models.backbones import SIZED_BY_SAMPLES, make_backbone
from ..models.model import HashModel
from ..models.pretrained_files import require_bits
from ..search import HammingIndex
from ..train.config import TrainConfig
from ..train.trainer import Trained
from . import _run_files


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

    def add_evaluation(self, figures: dict[str, Any], queries: "Queries | None" = None) -> None:
        """Store retrieval figures in metrics.json, and the queries that they are of. Earlier figures and queries are replaced."""
        metrics = {**self.metrics, "evaluation": figures}
        with self._updating() as files:
            _add_json(files, run_folder.METRICS, metrics)
            if queries is not None:
                _add_queries(files, queries)
        self.metrics["evaluation"] = figures

    def add_queries(self, codes: Tensor, labels: Tensor, paths: Sequence[str | Path] | None) -> None:
        """Store the queries of an evaluation: codes uint8 [Q, bits/8], labels [Q] or [Q, C], and the files of their images."""
        with self._updating() as files:
            _add_queries(files, Queries(codes, labels, paths))

    def queries(self) -> "Queries | None":
        """Return the queries of the last evaluation, or None if there was none.

        Raises:
            ValueError: the files of the queries are damaged, or do not fit each other or the run.
        """
        files = _run_files.open_folder(self.path)
        try:
            found = _run_files.find(files, run_folder.QUERIES)
        except FileNotFoundError:
            found = None  # it was deleted, and can be made again
        if found is None:
            return None
        place = self.path / run_folder.QUERIES
        tensors = formats.read_tensors(found)
        codes, labels = tensors.get("codes"), tensors.get("labels")
        if codes is None or labels is None or codes.ndim != 2 or codes.shape[1:] != self.index.codes.shape[1:]:
            raise ValueError(
                f"{place} must hold codes uint8 [Q, {self.index.bits // 8}] and labels; "
                f"make it again with `orthohash evaluate {self.path}`"
            )
        _run_files.check_labels(place, labels, len(codes), len(self.class_names))
        paths = _run_files.read_paths(files, run_folder.QUERY_PATHS, len(codes), run_folder.QUERIES)
        return Queries(codes, labels, None if paths is None else tuple(map(self.located.path, paths)))

    def _updating(self) -> AbstractContextManager[NewFiles]:
        return updating(self.path / run_folder.CONFIG, adopting=_MEMBERS)


class Queries(NamedTuple):
    """The queries of an evaluation: codes uint8 [Q, bits/8], labels [Q] or [Q, C], and the files of their images or None."""

    codes: Tensor
    labels: Tensor
    paths: Sequence[str | Path] | None


_MEMBERS = (
    run_folder.METRICS, run_folder.WEIGHTS, run_folder.CODEBOOK, run_folder.INDEX, run_folder.LABELS, run_folder.PATHS,
    run_folder.QUERIES, run_folder.QUERY_PATHS, run_folder.SKIPPED,
)  # fmt: skip


def save_run(
    path: str | Path,
    config: TrainConfig,
    trained: Trained,
    gallery: Dataset,
    *,
    custom_backbone: bool = False,
    skipped: Sequence[Skipped] = (),
) -> Run:
    """Encode `gallery`, write the run folder at `path`, and return its contents. The folder is created if it does not exist.

    A run that is there already is replaced by the new one as a whole.

    Args:
        config: the settings that `trained` was trained with.
        custom_backbone: whether the backbone is a module of the caller, which `load_run` will need again.
        skipped: image files that could not be read.

    Raises:
        BlockingIOError: another process trains into the folder.

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
    index.centres = trained.codebook
    path.mkdir(parents=True, exist_ok=True)
    description = {
        "format": _run_files.FORMAT,
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
    with owning(path / run_folder.CONFIG, str(path)):
        with replacing(path / run_folder.CONFIG, {**description, "data": data}) as files:
            for name in _MEMBERS:  # those of an earlier version are not named in its config.json
                files.remove(name)
            _add_members(files, trained, metrics, gallery, index, skipped)
        (path / run_folder.CHECKPOINT).unlink(missing_ok=True)
    paths = None if gallery.paths is None else tuple(map(str, gallery.paths))
    return Run(
        path, config, trained.model, trained.codebook, index, gallery.labels, gallery.class_names, paths, metrics, data
    )  # fmt: skip


def _add_members(
    files: NewFiles, trained: Trained, metrics: Any, gallery: Dataset, index: HammingIndex, skipped: Sequence[Skipped]
) -> None:
    """Write all files of a run except config.json."""
    _add_json(files, run_folder.METRICS, metrics)
    _add_tensors(files, run_folder.WEIGHTS, trained.model.state_dict())
    if trained.codebook is not None:
        _add_tensors(files, run_folder.CODEBOOK, {"codebook": trained.codebook})
    _add_tensors(files, run_folder.LABELS, {"gallery": gallery.labels})
    if gallery.paths is not None:
        _add_json(files, run_folder.PATHS, [str(path) for path in gallery.paths])
    if skipped:
        _add(files, run_folder.SKIPPED, skipped_as_json(skipped))
    with files.create(run_folder.INDEX) as file:
        index.save(file)


def _add_queries(files: NewFiles, queries: Queries) -> None:
    _add_tensors(files, run_folder.QUERIES, {"codes": queries.codes, "labels": queries.labels})
    if queries.paths is None:
        files.remove(run_folder.QUERY_PATHS)
    else:
        _add_json(files, run_folder.QUERY_PATHS, [str(path) for path in queries.paths])


def _add_json(files: NewFiles, name: str, value: Any) -> None:
    _add(files, name, (json.dumps(value, indent=2) + "\n").encode())


def _add_tensors(files: NewFiles, name: str, tensors: dict[str, Tensor]) -> None:
    _add(files, name, pack_tensors(tensors))


def _add(files: NewFiles, name: str, content: bytes) -> None:
    with files.create(name) as file:
        file.write(content)


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
            _run_files.open_folder(path)
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
    files = _run_files.open_folder(path)
    description = files.content
    if description["custom_backbone"] and backbone is None:
        raise ValueError(f"{path} was trained with a backbone of its own; open it in Python with load_run(path, backbone=...)")
    data = description["data"]
    located = places.locate(description["config"], data.get("places", {}), path, dataset=dataset)
    config = _config(path / run_folder.CONFIG, located.settings)
    names = tuple(description["class_names"])
    index, labels = _gallery(files, config.bits, len(names))
    listed = _run_files.read_paths(files, run_folder.PATHS, index.ntotal, run_folder.INDEX)
    paths = None if listed is None else tuple(map(located.path, listed))
    codebook = None
    if description["codebook"]:
        codebook = _run_files.read_tensor(files, run_folder.CODEBOOK, "codebook")
        _run_files.check_codebook(path / run_folder.CODEBOOK, codebook, config.bits, len(names))
        index.centres = codebook
    return Run(
        path, config, _model(files, config, backbone), codebook, index, labels, names, paths,
        _run_files.read_metrics(files), data, located,
    )  # fmt: skip


def _gallery(files: FileSet, bits: int, classes: int) -> tuple[HammingIndex, Tensor]:
    """Return the index and the labels of a run."""
    index = HammingIndex.load(_run_files.require(files, run_folder.INDEX))
    labels = _run_files.read_tensor(files, run_folder.LABELS, "gallery")
    if index.ntotal != len(labels) or index.bits != bits:
        raise ValueError(
            f"{files.note.parent}: index.ibxf has {index.ntotal} codes of {index.bits} bits, labels.safetensors {len(labels)} "
            f"labels and config.json {bits} bits; the files are not of one run"
        )
    _run_files.check_labels(files.note.with_name(run_folder.LABELS), labels, index.ntotal, classes)
    return index, labels


def _model(files: FileSet, config: TrainConfig, backbone: nn.Module | None) -> HashModel:
    """Return the model of a run, in evaluation mode."""
    sample_shape = tuple(files.content["sample_shape"])
    learned = methods.get(config.method).learned

    def untrained() -> HashModel:
        with naming(files.note, "description of a run"):
            network = backbone or make_backbone(config.backbone, sample_shape, learned=learned, pretrained=False)
        return HashModel(network, config.bits, sample_shape, batch_norm=files.content["batch_norm"])

    return _with_weights(_run_files.require(files, run_folder.WEIGHTS), config, untrained, known=backbone is None).eval()


def _with_weights(path: Path, config: TrainConfig, untrained: Callable[[], HashModel], *, known: bool) -> HashModel:
    """Return the model that `untrained` builds, with the weights in the file `path`.

    Args:
        known: whether the backbone is the one that `config` names.
    """
    weights = formats.read_tensors(path)
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


def holds_run(path: str | Path) -> bool:
    """Return whether `path` is a folder with a finished run, rather than one with a pretrained model.

    Example:
        >>> from orthohash_triton.runs.run import holds_run
        >>> holds_run("nothing")
        False
    """
    return _run_files.is_run(Path(path))


def has_own_backbone(run: Run) -> bool:
    """Return whether the backbone of `run` is not part of this package."""
    return bool(_run_files.open_folder(run.path).content["custom_backbone"])
