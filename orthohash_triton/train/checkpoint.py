"""Where a training stands, on disk, so that it can go on after it was stopped at any moment.

RUN/checkpoint.pt holds everything that the rest of the training depends on; torch.load opens it with weights_only=True. It is
written whole or not at all: when a stage begins, at the end of every epoch and, within an epoch, every `checkpoint_every` steps.
`save_run` removes it once the run folder is complete.
"""

import zlib
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._base.files import atomic_write
from ..data import Dataset
from .config import WITHOUT_EFFECT, TrainConfig

NAME = "checkpoint.pt"
FORMAT = 1


class Checkpoints:
    """Those of one training in `folder`; without a folder, nothing is kept.

    resume  go on from the checkpoint that is there
    writes  whether this process writes (one of several does; all of them read)

    Raises:
        FileExistsError: there is a checkpoint, and it is not to be resumed.
        FileNotFoundError: there is none to resume.
        ValueError: it is of other settings or data, or no checkpoint; or the run is finished.
    """

    def __init__(self, folder: Path | None, config: TrainConfig, data: Dataset, *, resume: bool = False, writes: bool = True):
        self.folder = folder
        self.writes = writes
        self._finished: dict[str, Any] = {}  # result of each stage that is done
        self._resumed: dict[str, Any] | None = None  # what is in the checkpoint, until its stage takes it
        self._description: dict[str, Any] = {}
        if folder is None:
            if resume:
                raise ValueError("train: resume=True needs the folder that holds the checkpoint; give folder=...")
            return
        if writes:
            for half in folder.glob(f".{NAME}.*.tmp"):  # which a kill left in the middle of a write
                half.unlink(missing_ok=True)
        self._description = {"format": FORMAT, "config": asdict(config), "data": fingerprint(data)}
        if resume:
            content = read_checkpoint(folder)
            _require_same(folder, content, self._description)
            self._finished, self._resumed = content["finished"], content
        elif (folder / NAME).exists():
            raise FileExistsError(
                f"{folder} holds an unfinished training; go on with it (orthohash train --resume {folder}, or resume=True), "
                f"or delete {folder / NAME} to start anew"
            )

    @property
    def position(self) -> tuple[str, int, int] | None:
        """Where the training goes on: stage, epochs done, batches of the next one."""
        if self._resumed is None:
            return None
        state = self._resumed["state"]
        return self._resumed["stage"], len(state["history"]), state["batch"]

    def result_of(self, stage: str) -> Any:
        """What `finish` was told of a stage that is done, else None."""
        return self._finished.get(stage)

    def state_of(self, stage: str) -> dict[str, Any] | None:
        """The state to go on from, where the checkpoint was written in `stage`."""
        if self._resumed is None or self._resumed["stage"] != stage:
            return None
        state, self._resumed = self._resumed["state"], None
        return state

    def finish(self, stage: str, result: Any) -> None:
        """Keep `result` (tensors and plain values) of a stage that later ones start from."""
        self._finished[stage] = result

    def save(self, stage: str, state: Callable[[], dict[str, Any]]) -> None:
        """Write a checkpoint of `stage`, whose `state` is asked for only where it is written."""
        if self.folder is None or not self.writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {**self._description, "finished": self._finished, "stage": stage, "state": state()}
        with atomic_write(self.folder / NAME) as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:  # torch's word for a disk that is full
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """What `folder`/checkpoint.pt holds.

    Raises:
        FileNotFoundError, ValueError: there is none, as the run is finished or was never begun; or it cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        if (folder / "config.json").is_file():
            raise ValueError(
                f"{folder} holds a finished run: nothing is left to resume. Judge it with `orthohash evaluate {folder}`"
            )
        raise FileNotFoundError(f"{folder} has no {NAME}: no training was begun there. Begin one with `orthohash train --out`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes make it
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no checkpoint that can be read ({first_line}); delete it to start anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} has checkpoint format {found!r}; this version reads {FORMAT}. Start anew, or update")
    return content


def checkpoint_settings(folder: Path) -> dict[str, Any]:
    """The settings that the training in `folder` was begun with, by the names of TrainConfig."""
    return read_checkpoint(folder)["config"]


def _require_same(folder: Path, content: dict[str, Any], now: dict[str, Any]) -> None:
    then = {**{item.name: item.default for item in fields(TrainConfig)}, **content["config"]}
    changed = [
        f"{name} was {then.get(name)!r}, now {now['config'].get(name)!r}"
        for name in sorted(then.keys() | now["config"].keys())
        if name not in WITHOUT_EFFECT and then.get(name) != now["config"].get(name)
    ]
    if changed:
        raise ValueError(
            f"the training in {folder} was begun with other settings: {'; '.join(changed)}. "
            "Resume it with the settings it was begun with, or begin another in a folder of its own"
        )
    if content["data"] != now["data"]:
        names = [name for name in now["data"] if content["data"].get(name) != now["data"][name]]
        raise ValueError(
            f"the data set is not the one that the training in {folder} was begun with: it differs in its {', '.join(names)}. "
            "Put the old one back, or begin another training in a folder of its own"
        )


def fingerprint(data: Dataset) -> dict[str, Any]:
    """What tells data sets apart. Of images that stay in files, the files' names stand for what is in them."""
    inputs = data.inputs
    content = _checksum(inputs) if isinstance(inputs, Tensor) else zlib.crc32("\n".join(map(str, inputs.paths)).encode())
    return {
        "number of samples": len(data),
        "shape of a sample": list(data.sample_shape),
        "class names": list(data.class_names),
        "labels": _checksum(data.labels),
        "samples": content,
        "validation set": None if data.validation is None else fingerprint(data.validation),
    }


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().numpy().data)
