"""Tests that a training that is stopped and resumed equals an uninterrupted one bit for bit."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from orthohash_triton import cli
from orthohash_triton._base.run_folder import CHECKPOINT
from orthohash_triton.data import Dataset, features
from orthohash_triton.data.fingerprint import fingerprint
from orthohash_triton.runs import save_run
from orthohash_triton.train import TrainConfig, checkpoint, train
from orthohash_triton.train import trainer as trainer_module
from orthohash_triton.train.checkpoint import read_checkpoint
from orthohash_triton.train.loop import Loop
from orthohash_triton.train.trainer import Trained
from orthohash_triton.train.validation import Validation

from ..kills import kill_at_every_call, needs_fork
from ..processes import fresh_processes
from .data import blobs, pictures, weights

CONFIG = TrainConfig(dataset="x", bits=16, epochs=3, batch_size=32, threads=1, checkpoint_every=2)


class Stopped(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int, error: type[BaseException] = Stopped) -> None:
    """Make the next training raise an error after a number of batches, counted over all its stages."""
    learn = Loop._learn_from
    done = 0

    def counted(loop, *arguments):
        nonlocal done
        if done == batches:
            raise error
        done += 1
        return learn(loop, *arguments)

    monkeypatch.setattr(Loop, "_learn_from", counted)


def figures(trained: Trained) -> list[dict]:
    return [dataclasses.asdict(epoch) | {"seconds": 0} for epoch in trained.history]


def assert_same(first: Trained, second: Trained) -> None:
    assert all(map(torch.equal, weights(first.model), weights(second.model)))
    assert figures(first) == figures(second)
    states = first.objective.state_dict(), second.objective.state_dict()
    assert all(map(torch.equal, states[0].values(), states[1].values()))


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(dropout))


class Jittered(nn.Module):
    """A backbone that draws from NumPy's and Python's global generators in every forward pass of a training."""

    out_features = 20

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return features
        return features * (1 + 0.1 * np.random.standard_normal()) + 0.1 * random.random()  # noqa: NPY002


@pytest.mark.parametrize(
    ("changes", "data", "backbone"),
    [
        ({}, blobs(), Jittered),
        ({"crop_padding": 1, "validation": 0.2, "patience": 2, "epochs": 4}, pictures(), None),
        ({"augment": "strong", "ema": 0.9, "accumulate": 2, "clip_grad_norm": 1.0, "schedule": "cosine"}, pictures(), network),
        ({"optimizer": "sgd", "warmup": 3.0, "checkpoint_every": 0}, pictures(), lambda: network(0.5)),
        ({"method": "shc", "backbone": "mlp", "precision": "bf16"}, blobs(), None),
        ({"method": "dpsh", "backbone_lr_scale": 0.0, "rotate": "itq"}, blobs(), None),
        ({"method": "mds", "options": {"bank": 40}, "optimizer": "adamw"}, blobs(), None),
        ({"method": "hashnet", "backbone": "mlp", "precision": "fp16"}, blobs(), None),
    ],
)
def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, data: Dataset, backbone
) -> None:
    config = dataclasses.replace(CONFIG, **changes)

    def go(folder: Path | None = None, resume: bool = False) -> Trained:
        return train(config, data, backbone=backbone and backbone(), folder=folder, resume=resume, progress=False)

    whole = go()
    for batches in (3, 5):  # batches after the start and after the resumption, of an epoch of four or nine
        with monkeypatch.context() as patched:
            stop_after(patched, batches)
            with pytest.raises(Stopped):
                go(tmp_path, resume=(tmp_path / CHECKPOINT).exists())
    assert_same(whole, go(tmp_path, resume=True))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, len(whole.history) + 1))
    assert [line["loss"] for line in lines] == [epoch.loss for epoch in whole.history]


@pytest.mark.parametrize("epochs_before", [1, 2, 3])
def test_patience_counts_the_epochs_before_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs_before: int) -> None:
    """The first epoch is the best; with patience 3 the training ends after the fourth, wherever it was stopped."""
    config = dataclasses.replace(CONFIG, epochs=8, patience=3, validation=0.2)
    batches = 240 // config.batch_size  # batches of an epoch; a fifth of the 300 samples is held out
    scores = iter([0.5, *[0.4] * 10])
    monkeypatch.setattr(Validation, "judge", lambda self, model: next(scores))
    with monkeypatch.context() as patched:
        stop_after(patched, epochs_before * batches)
        with pytest.raises(Stopped):
            train(config, blobs(), folder=tmp_path, progress=False)
    assert read_checkpoint(tmp_path)["state"]["validation"]["epochs_since_best"] == epochs_before - 1
    trained = train(config, blobs(), folder=tmp_path, resume=True, progress=False)
    assert [epoch.validation_map for epoch in trained.history] == [0.5, 0.4, 0.4, 0.4]


def test_the_last_moment_of_every_stage_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SHC's classifier is finished but its centres are not, or everything is finished except the rotation."""
    config = dataclasses.replace(CONFIG, method="shc", backbone="mlp", rotate="itq", epochs=1)
    whole = train(config, blobs(), progress=False)
    batches = len(blobs()) // config.batch_size
    with monkeypatch.context() as patched:
        stop_after(patched, batches)  # the first batch of the second stage fails
        with pytest.raises(Stopped):
            train(config, blobs(), folder=tmp_path, progress=False)
    assert read_checkpoint(tmp_path)["stage"] == "codes"
    with monkeypatch.context() as patched:
        patched.delattr(trainer_module, "rotate")
        with pytest.raises(NameError):
            train(config, blobs(), folder=tmp_path, resume=True, progress=False)
    with monkeypatch.context() as patched:
        stop_after(patched, 0)  # no batch is left
        assert_same(whole, train(config, blobs(), folder=tmp_path, resume=True, progress=False))


def started(output: Path, *arguments: object) -> Any:
    """Start `orthohash train` in a process of its own, which writes to the file `output`."""
    process = fresh_processes().Process(target=_train, args=(output, [*map(str, arguments), "--no-progress"]))
    process.start()
    return process


def _train(output: Path, arguments: list[str]) -> None:
    with output.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        sys.exit(cli.main(["train", *arguments]))


def position(folder: Path) -> int:
    """Return a number that grows with the progress stored in the checkpoint; -1 without a checkpoint."""
    try:
        content = read_checkpoint(folder)
    except FileNotFoundError:
        return -1
    state = content["state"]
    return 1000 * len(content["finished"]) + 100 * len(state["history"]) + state["batch"]


def killed(process: Any, output: Path, folder: Path, at: int, chance: random.Random) -> None:
    deadline, seen = time.monotonic() + 120, None
    while (changed := changed_at(folder)) == seen or position(folder) < at:
        seen = changed
        assert process.is_alive(), output.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.03 * chance.random())
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "config.json").exists()


def changed_at(folder: Path) -> int:
    """Return when the checkpoint was written, because reading it anew would take the time of a core from the training."""
    try:
        return (folder / CHECKPOINT).stat().st_mtime_ns
    except FileNotFoundError:
        return -1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(
    ("method", "points"),  # see `position`: 100 per finished epoch, 1,000 per finished stage
    [("orthohash", [(0, 45), (100, 145), (200, 245)]), ("shc", [(100, 145)])],
)
def test_killed_at_random_points(tmp_path: Path, method: str, points: list[tuple[int, int]]) -> None:
    data = blobs(1000)
    for name in ("train", "query"):
        features.save(tmp_path / f"{name}.npz", data)
    settings = ["--dataset", tmp_path, "--method", method, "--backbone", "mlp", "--bits", 16, "--epochs", 4, "--batch-size", 20,
                "--validation", 0.1, "--threads", 1, "--checkpoint-every", 5]  # fmt: skip
    assert cli.main([*map(str, ["train", *settings, "--out", tmp_path / "whole", "--quiet"])]) == 0
    chance = random.Random(time.time_ns())
    run = tmp_path / "killed"
    output = tmp_path / "output"
    killed(started(output, *settings, "--out", run), output, run, chance.randrange(*points[0]), chance)
    for first, last in points[1:]:
        killed(started(output, "--resume", run), output, run, chance.randrange(first, last), chance)
    assert cli.main(["train", "--resume", str(run), "--quiet"]) == 0
    for name in ("model.safetensors", "codebook.safetensors", "index.ibxf", "queries.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (run / CHECKPOINT).exists()


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patched:
        stop_after(patched, 3)
        with pytest.raises(Stopped):
            train(CONFIG, blobs(), folder=tmp_path, progress=False)
    return tmp_path


def test_half_a_checkpoint_is_swept_away(stopped: Path) -> None:
    (stopped / f".{CHECKPOINT}.0.tmp").write_bytes(b"half")
    train(CONFIG, blobs(), folder=stopped, resume=True, progress=False)
    assert sorted(path.name for path in stopped.iterdir()) == [CHECKPOINT, "metrics.jsonl"]


def test_changed_settings_are_told_with_both_values(stopped: Path) -> None:
    changed = dataclasses.replace(CONFIG, bits=32, lr=0.1, options={"margin": 0.3}, tensorboard=True, checkpoint_every=7)
    with pytest.raises(
        ValueError, match=r"other settings: bits was 16, now 32; lr was None, now 0\.1; options was \{\}, now"
    ) as e:
        train(changed, blobs(), folder=stopped, resume=True, progress=False)
    assert "tensorboard" not in str(e.value)
    assert "checkpoint_every" not in str(e.value)
    assert (stopped / CHECKPOINT).exists()


def test_settings_without_effect_may_change(stopped: Path) -> None:
    changed = dataclasses.replace(CONFIG, checkpoint_every=0)
    assert_same(train(CONFIG, blobs(), progress=False), train(changed, blobs(), folder=stopped, resume=True, progress=False))


def test_a_training_is_resumed_from_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    features.save(Path("f.npz"), blobs())
    config = dataclasses.replace(CONFIG, dataset="f.npz")
    with monkeypatch.context() as patched:
        stop_after(patched, 3)
        with pytest.raises(Stopped):
            train(config, config.load_splits().train, folder=Path("run"), progress=False)
    monkeypatch.chdir(tmp_path / "there")
    settings = checkpoint.checkpoint_settings(tmp_path / "here" / "run")
    assert settings["dataset"] == str(tmp_path / "here" / "f.npz")
    moved = TrainConfig(**settings)
    trained = train(moved, moved.load_splits().train, folder=tmp_path / "here" / "run", resume=True, progress=False)
    assert_same(train(moved, moved.load_splits().train, progress=False), trained)


def test_changed_data_are_told(stopped: Path) -> None:
    data = blobs()
    data.inputs[7, 3] += 1
    with pytest.raises(ValueError, match="started with: it differs in its samples"):
        train(CONFIG, data, folder=stopped, resume=True, progress=False)
    with pytest.raises(ValueError, match="it differs in its number of samples, labels, samples"):
        train(CONFIG, blobs(n=299), folder=stopped, resume=True, progress=False)


def test_changed_class_names_and_validation_samples_are_told(tmp_path: Path) -> None:
    data = dataclasses.replace(blobs(), validation=blobs(60))
    held_out = blobs(60)
    held_out.inputs[0] += 1
    changes = [
        ({"class_names": ("x", "b", "c")}, "class names"),
        ({"validation": held_out}, "validation set"),
        ({"validation": None}, "validation set"),
    ]
    before = fingerprint(data)
    assert before == fingerprint(dataclasses.replace(data))
    for change, name in changes:
        after = fingerprint(dataclasses.replace(data, **change))
        assert [key for key in before if before[key] != after[key]] == [name]


def test_another_backbone_is_told(stopped: Path) -> None:
    with pytest.raises(ValueError, match="the checkpoint belongs to another HashModel; pass the backbone of the first start"):
        train(CONFIG, blobs(), backbone=nn.Linear(20, 30), folder=stopped, resume=True, progress=False)


def test_an_unfinished_training_is_not_lost(stopped: Path) -> None:
    before = (stopped / CHECKPOINT).read_bytes()
    with pytest.raises(FileExistsError, match="holds an unfinished training; resume it"):
        train(CONFIG, blobs(), folder=stopped, progress=False)
    assert (stopped / CHECKPOINT).read_bytes() == before


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint\.pt: no training was started there"):
        train(CONFIG, blobs(), folder=tmp_path, resume=True, progress=False)
    with pytest.raises(ValueError, match="resume=True needs the folder"):
        train(CONFIG, blobs(), resume=True, progress=False)
    with pytest.raises(ValueError, match="method 'lsh' is fitted in one step"):
        train(dataclasses.replace(CONFIG, method="lsh"), blobs(), folder=tmp_path, resume=True, progress=False)
    save_run(tmp_path, CONFIG, train(CONFIG, blobs(), folder=tmp_path, progress=False), blobs())
    with pytest.raises(ValueError, match="holds a finished run: nothing is left to resume"):
        train(CONFIG, blobs(), folder=tmp_path, resume=True, progress=False)


def test_a_checkpoint_that_cannot_be_read(stopped: Path) -> None:
    whole = (stopped / CHECKPOINT).read_bytes()
    (stopped / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a readable checkpoint"):
        train(CONFIG, blobs(), folder=stopped, resume=True, progress=False)
    torch.save({"format": 99}, stopped / CHECKPOINT)
    with pytest.raises(ValueError, match="has checkpoint format 99; this version reads 1"):
        train(CONFIG, blobs(), folder=stopped, resume=True, progress=False)


@pytest.mark.parametrize("legacy", [False, True], ids=["checksums", "switched off"])
def test_every_flipped_bit_is_refused_or_harmless(stopped: Path, legacy: bool) -> None:
    """Flips are spread over the file; torch.load itself accepts four of five."""

    def equal(first: object, second: object) -> bool:
        if isinstance(first, torch.Tensor):
            return isinstance(second, torch.Tensor) and torch.equal(first, second)
        if isinstance(first, dict):
            return isinstance(second, dict) and first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
        if isinstance(first, list | tuple):
            return type(first) is type(second) and len(first) == len(second) and all(map(equal, first, second))
        return first == second

    if legacy:
        torch.serialization.set_crc32_options(False)
        try:
            train(CONFIG, blobs(), folder=stopped, resume=True, progress=False)
        finally:
            torch.serialization.set_crc32_options(True)
    path, content = stopped / CHECKPOINT, read_checkpoint(stopped)
    whole, refused = path.read_bytes(), 0
    flips = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[flips.randrange(len(whole))] ^= 1 << flips.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(stopped)
        except ValueError as error:
            assert CHECKPOINT in str(error)  # noqa: PT017
            refused += 1
        else:
            assert equal(found, content)
    assert refused > 100


def test_two_trainings_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def second(resume: bool) -> None:
        try:
            train(CONFIG, blobs(), folder=tmp_path, resume=resume, progress=False)
        except BlockingIOError as error:
            refused.append(str(error))

    def meanwhile(loop: Loop, *arguments: object) -> object:
        monkeypatch.setattr(Loop, "_learn_from", learn)
        for resume in (False, True):
            thread = threading.Thread(target=second, args=(resume,))
            thread.start(), thread.join()
        return learn(loop, *arguments)

    learn = Loop._learn_from
    monkeypatch.setattr(Loop, "_learn_from", meanwhile)
    trained = train(CONFIG, blobs(), folder=tmp_path, progress=False)
    assert len(refused) == 2
    assert f"{tmp_path} is being written by process {os.getpid()} on " in refused[0]
    assert_same(trained, train(CONFIG, blobs(), progress=False))


@needs_fork
def test_killed_at_every_call(tmp_path: Path) -> None:
    """The checkpoint is the one before or the new one, and the next one can be written."""
    config = dataclasses.replace(CONFIG, dataset="toy")

    def save(epoch: int) -> None:
        path = tmp_path / CHECKPOINT
        if path.exists() and epoch == 1:
            path.unlink()
        checkpoints = checkpoint.Checkpoints(tmp_path, config, blobs(), resume=path.exists())
        checkpoints.save("codes", lambda: {"history": [epoch], "batch": 0, "weights": torch.full((1000,), float(epoch))})

    def check() -> None:
        state = read_checkpoint(tmp_path)["state"]
        assert state["history"] in ([1], [2])
        assert state["weights"].tolist() == [state["history"][0]] * 1000
        save(2)
        assert os.listdir(tmp_path) == [CHECKPOINT]

    assert kill_at_every_call(lambda: save(2), lambda: save(1), check) > 8


def test_a_write_that_fails_leaves_the_checkpoint_before_it(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (stopped / CHECKPOINT).read_bytes()

    def half(content: object, file) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        train(CONFIG, blobs(), folder=stopped, resume=True, progress=False)
    assert (stopped / CHECKPOINT).read_bytes() == before
    assert [path.name for path in stopped.glob(".*")] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save raises RuntimeError."""
    monkeypatch.setattr(checkpoint, "atomic_write", lambda path: open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    with pytest.raises(OSError, match="No space left on device"):
        train(CONFIG, blobs(), folder=tmp_path, progress=False)
