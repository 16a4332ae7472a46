"""Checkpoints, from which a training can be resumed after it was stopped at any moment.

RUN/checkpoint.pt contains everything that the rest of the training depends on; torch.load opens it with weights_only=True. It is
written completely or not at all: when a stage begins, at the end of every epoch and, within an epoch, every `checkpoint_every`
steps. `save_run` removes it when the run folder is complete.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from .._base import formats, run_folder
from .._base.file_set import owning
from .._base.files import atomic_write, remove_temporary_files
from .._base.quoting import quoted, short_repr
from .._base.reading import naming, reader
from ..data import Dataset, places
from ..data.fingerprint import fingerprint
from .config import WITHOUT_EFFECT, TrainConfig

FORMAT = 1


class Checkpoints:
    """The checkpoints of one training in `folder`. Without a folder no checkpoint is written.

    Args:
        resume: whether to resume from the checkpoint in `folder`.
        writes: whether this process writes checkpoints. One of several processes writes; all of them read.

    Raises:
        FileExistsError: `folder` has a checkpoint, and `resume` is False.
        FileNotFoundError: `resume` is True, and `folder` has no checkpoint.
        ValueError: the checkpoint is damaged, or was written with other settings or data; or the run is finished.
    """

    def __init__(self, folder: Path | None, config: TrainConfig, data: Dataset, *, resume: bool = False, writes: bool = True):
        self.folder = folder
        self.writes = writes
        self._finished: dict[str, Any] = {}  # stage -> its result, for finished stages
        self._resumed: dict[str, Any] | None = None  # contents of the checkpoint, until its stage has taken them
        self._description: dict[str, Any] = {}
        if folder is None:
            if resume:
                raise ValueError("train: resume=True needs the folder that holds the checkpoint; give folder=...")
            return
        if writes:
            remove_temporary_files(folder / run_folder.CHECKPOINT)
        settings = asdict(config)
        self._description = {
            "format": FORMAT, "config": settings, "data": fingerprint(data), "places": places.record(settings, folder),
        }  # fmt: skip
        if resume:
            content = read_checkpoint(folder)
            _require_same(folder, content, self._description)
            self._finished, self._resumed = content["finished"], content
        elif (folder / run_folder.CHECKPOINT).exists():
            raise FileExistsError(
                f"{folder} holds an unfinished training; resume it (orthohash train --resume {folder}, or resume=True), "
                f"or delete {folder / run_folder.CHECKPOINT} to start again"
            )

    @property
    def position(self) -> tuple[str, int, int] | None:
        """Position of the checkpoint: stage, finished epochs, batches of the next epoch. None without a checkpoint."""
        if self._resumed is None or self.folder is None:
            return None
        with naming(self.folder / run_folder.CHECKPOINT, "checkpoint", advice="Delete it to start again"):
            state = self._resumed["state"]
            return self._resumed["stage"], len(state["history"]), state["batch"]

    def result_of(self, stage: str) -> Any:
        """Return the result that `finish` was given for a finished stage, else None."""
        return self._finished.get(stage)

    def state_of(self, stage: str) -> dict[str, Any] | None:
        """Return the state to resume `stage` from, or None if the checkpoint belongs to another stage."""
        if self._resumed is None or self._resumed["stage"] != stage:
            return None
        state, self._resumed = self._resumed["state"], None
        return state

    def finish(self, stage: str, result: Any) -> None:
        """Store the `result` (tensors and plain values) of a stage, which later stages need."""
        self._finished[stage] = result

    def save(self, stage: str, state: Callable[[], dict[str, Any]]) -> None:
        """Write a checkpoint of `stage`. `state` is called only if this process writes."""
        if self.folder is None or not self.writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {**self._description, "finished": self._finished, "stage": stage, "state": state()}
        with atomic_write(self.folder / run_folder.CHECKPOINT) as file, _with_checksums():
            try:
                torch.save(content, file)
            except RuntimeError as error:  # torch.save raises this if the disk is full
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


@contextmanager
def _with_checksums() -> Iterator[None]:
    """Let torch.save write checksums, which `read_checkpoint` compares, even if the caller has switched them off."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


@contextmanager
def owning_run(folder: Path | None) -> Iterator[None]:
    """Be the only process that trains into `folder` during the block. The folder is created if it does not exist.

    Raises:
        BlockingIOError: another process trains into the folder.
    """
    if folder is None:
        yield
        return
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with owning(folder / run_folder.CONFIG, str(folder)):
            yield
    except BaseException:
        if is_new:
            with suppress(OSError):  # it has a checkpoint
                folder.rmdir()
        raise


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the contents of the checkpoint in `folder`.

    Raises:
        FileNotFoundError: `folder` has no checkpoint and no run.
        ValueError: the run in `folder` is finished, or the checkpoint is damaged or has another format.
    """
    path = folder / run_folder.CHECKPOINT
    if not path.is_file():
        if (folder / run_folder.CONFIG).is_file():
            raise ValueError(
                f"{folder} holds a finished run: nothing is left to resume. Evaluate it with `orthohash evaluate {folder}`"
            )
        raise FileNotFoundError(
            f"{folder} has no {run_folder.CHECKPOINT}: no training was started there. Start one with `orthohash train --out`"
        )
    return _read_content(path)


@reader("checkpoint", advice="Delete it to start again")
def _read_content(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint; raise ValueError if it is damaged or has another format."""
    content = formats.read_torch(path, "checkpoint", advice="Delete it to start again")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path} has checkpoint format {quoted(found)}; this version reads {FORMAT}. Delete it to start again, or update"
        )
    if not all(isinstance(content[name], dict) for name in ("config", "data", "finished", "state")):
        raise ValueError("its config, data, finished and state must be tables")
    if not places.is_record(content.get("places", {})):  # checkpoints of earlier versions lack it
        raise ValueError("its places must be tables of paths")
    return content


def checkpoint_settings(folder: Path) -> dict[str, Any]:
    """Return the settings that the training in `folder` was started with, by the names of TrainConfig's fields.

    The paths of the data set are those that are valid now (see `data.places`).
    """
    content = read_checkpoint(folder)
    return places.locate(content["config"], content.get("places", {}), folder).settings


def _require_same(folder: Path, content: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError unless the checkpoint `content` has the settings and the data set of the description `now`."""
    then = {**{item.name: item.default for item in fields(TrainConfig)}, **content["config"]}
    changed = [
        f"{name} was {short_repr(then.get(name))}, now {short_repr(now['config'].get(name))}"
        for name in sorted(then.keys() | now["config"].keys())
        if name not in (*WITHOUT_EFFECT, *places.SETTINGS) and then.get(name) != now["config"].get(name)
    ]
    if changed:
        raise ValueError(
            f"the training in {folder} was started with other settings: {'; '.join(changed)}. "
            "Resume it with the settings it was started with, or start another training in another folder"
        )
    if content["data"] != now["data"]:
        names = [name for name in now["data"] if content["data"].get(name) != now["data"][name]]
        raise ValueError(
            f"the data set is not the one that the training in {folder} was started with: it differs in its {', '.join(names)}. "
            "Restore the old data set, or start another training in another folder"
        )
