"""Tests of the logging during a training."""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orthohash_triton.train import TrainConfig, train
from orthohash_triton.train.loop import Loop

from .data import blobs
from .test_checkpoint import Stopped, stop_after

CONFIG = TrainConfig(dataset="x", bits=16, epochs=2, batch_size=50, threads=1, checkpoint_every=2, validation=0.1)
BATCHES = 5  # per epoch


def test_metrics_of_every_epoch_as_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    one_epoch = Loop.one_epoch

    def looked_at(loop, advance) -> None:
        one_epoch(loop, advance)
        seen.append([json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()])

    monkeypatch.setattr(Loop, "one_epoch", looked_at)
    trained = train(CONFIG, blobs(), folder=tmp_path, progress=False)
    history = [dataclasses.asdict(epoch) for epoch in trained.history]
    assert seen == [history[:1], history]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_step_once_after_a_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIG, tensorboard=True)
    whole = train(config, blobs(), folder=tmp_path / "whole", progress=False)
    expected = scalars(tmp_path / "whole" / "tensorboard")
    assert [step for step, _ in expected["train/loss"]] == list(range(2 * BATCHES))
    assert [value for _, value in expected["train/lr"]] == pytest.approx([0.01] * 8 + [0.001] * 2)
    mean = sum(value for _, value in expected["train/loss"][:BATCHES]) / BATCHES
    assert mean == pytest.approx(whole.history[0].loss, rel=1e-5)
    assert expected["epoch/validation_map"][-1] == (2 * BATCHES, pytest.approx(whole.history[-1].validation_map))
    with monkeypatch.context() as patched:
        stop_after(patched, 8)  # the checkpoint is of an earlier step
        with pytest.raises(Stopped):
            train(config, blobs(), folder=tmp_path / "again", progress=False)
    train(config, blobs(), folder=tmp_path / "again", resume=True, progress=False)
    found = scalars(tmp_path / "again" / "tensorboard")
    assert {tag: values for tag, values in found.items() if tag != "epoch/seconds"} == {
        tag: values for tag, values in expected.items() if tag != "epoch/seconds"
    }


def test_tensorboard_of_an_earlier_training_goes(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, tensorboard=True, method="shc", epochs=1)
    for _ in range(2):
        train(config, blobs(), folder=tmp_path, progress=False)
        (tmp_path / "checkpoint.pt").unlink()
    assert len(scalars(tmp_path / "tensorboard")["train/loss"]) == BATCHES
    assert len(scalars(tmp_path / "tensorboard" / "classifier")["train/loss"]) == BATCHES


def test_logs_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="tensorboard=True needs a folder"):
        train(dataclasses.replace(CONFIG, tensorboard=True), blobs(), progress=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "'):
        train(dataclasses.replace(CONFIG, tensorboard=True), blobs(), folder=tmp_path, progress=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        train(dataclasses.replace(CONFIG, wandb="hashing"), blobs(), progress=False)


class Recorded:
    """A fake of the module wandb, which records its calls."""

    def __init__(self) -> None:
        self.runs: list[SimpleNamespace] = []

    def init(self, **settings) -> SimpleNamespace:
        run = SimpleNamespace(settings=settings, logged=[], finished=0)
        run.log = lambda values, step: run.logged.append((step, values))
        run.finish = lambda: setattr(run, "finished", run.finished + 1)
        self.runs.append(run)
        return run


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Recorded()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = dataclasses.replace(CONFIG, wandb="hashing", method="shc", epochs=1)
    with monkeypatch.context() as patched:
        stop_after(patched, BATCHES + 3)  # batches of the classifier, which is not logged, and of the codes
        with pytest.raises(Stopped):
            train(config, blobs(), folder=tmp_path / "run", progress=False)
    trained = train(config, blobs(), folder=tmp_path / "run", resume=True, progress=False)
    first, second = wandb.runs
    assert first.settings["project"] == "hashing"
    assert first.settings["config"]["bits"] == 16
    assert first.settings["name"] == "run"
    assert first.settings["id"] == second.settings["id"]
    assert second.settings["resume"] == "allow"
    assert (first.finished, second.finished) == (1, 1)
    assert [step for step, values in second.logged if "train/loss" in values] == [2, 3, 4]
    assert second.logged[-1] == (BATCHES, {
        "epoch/loss": trained.history[0].loss, "epoch/bit_accuracy": trained.history[0].bit_accuracy,
        "epoch/validation_map": trained.history[0].validation_map, "epoch/lr": trained.history[0].lr,
        "epoch/seconds": trained.history[0].seconds,
    })  # fmt: skip
    train(config, blobs(), folder=tmp_path / "other", progress=False)
    assert wandb.runs[2].settings["id"] != first.settings["id"]


def test_a_bar_for_the_whole_training(capsys: pytest.CaptureFixture[str]) -> None:
    train(CONFIG, blobs(), progress=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert "epoch 2/2" in told.err
    assert f"{2 * BATCHES}/{2 * BATCHES}" in told.err
