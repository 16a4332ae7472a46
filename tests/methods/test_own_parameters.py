"""Tests that parameters of an objective are trained, saved and restored like those of the network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from orthohash_triton.methods import Task
from orthohash_triton.train import HashModel, TrainConfig, train
from orthohash_triton.train.validation import Validation
from tests.methods.learned_centres import LearnedCentres, learned_centres
from tests.train.data import blobs
from tests.train.test_checkpoint import Stopped, assert_same, stop_after


def config(**changes: Any) -> TrainConfig:
    settings = {"method": "learned-centres", "bits": 16, "epochs": 2, "batch_size": 50, "threads": 1, "lr": 1e-2}
    return TrainConfig(dataset="blobs", **settings | changes)


@pytest.fixture(autouse=True)
def method() -> Iterator[None]:
    with learned_centres():
        yield


def centres(settings: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Train with `config`, and return the parameters before and after the training."""
    made = []
    initialise = LearnedCentres.__init__

    def recorded(self: LearnedCentres, task: Task, options: object) -> None:
        initialise(self, task, options)
        made.append(self.centres.detach().clone())

    monkeypatch.setattr(LearnedCentres, "__init__", recorded)
    objective = train(settings, blobs(), progress=False).objective
    assert len(made) == 1
    return {"before": made[0], "after": objective.centres.detach(), "fixed": objective.fixed}


@pytest.mark.parametrize("changes", [{}, {"backbone_lr_scale": 0.0}, {"backbone": "mlp", "optimizer": "sgd", "accumulate": 2}])
def test_they_move(changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    found = centres(config(**changes), monkeypatch)
    assert (found["before"] != found["after"]).all()
    assert torch.equal(found["fixed"], torch.ones(16))  # parameters without a gradient are unchanged


def test_they_move_at_the_learning_rate_of_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam's first step is the learning rate times the sign of the gradient, if nothing decays."""
    settings = config(epochs=1, batch_size=300, weight_decay=0.0, lr=0.03, backbone="mlp")
    found = centres(settings, monkeypatch)
    moved = (found["after"] - found["before"]).abs()
    # The step is lr * g / (|g| + 1e-8), and subtracting centres of size 4 at most rounds by 2^-22.
    assert torch.allclose(moved, torch.full_like(moved, 0.03), rtol=1e-3, atol=2**-21)


def test_the_class_codes_are_those_of_the_learned_centres() -> None:
    trained = train(config(), blobs(), progress=False)
    assert torch.equal(trained.codebook, trained.objective.class_codes())


@pytest.mark.parametrize(("batches", "changes"), [(3, {}), (7, {}), (9, {"validation": 0.1})])
def test_they_are_saved_and_restored(batches: int, changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer's momentum is restored too, so the resumed training equals an uninterrupted one."""
    settings = config(checkpoint_every=2, **changes)
    whole = train(settings, blobs(), progress=False)
    with monkeypatch.context() as patched:
        stop_after(patched, batches)
        with pytest.raises(Stopped):
            train(settings, blobs(), folder=tmp_path, progress=False)
    assert_same(train(settings, blobs(), folder=tmp_path, resume=True, progress=False), whole)


def test_they_are_those_of_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """With validation, the model and the class codes belong to the same epoch."""
    scores, seen = iter([0.3, 0.9, 0.5]), []

    def judge(self: Validation, model: HashModel) -> float:
        return next(scores)

    keep = Validation.keep

    def recorded(self: Validation, score: float, model: HashModel, objective: LearnedCentres) -> None:
        seen.append(objective.centres.detach().clone())
        keep(self, score, model, objective)

    monkeypatch.setattr(Validation, "judge", judge)
    monkeypatch.setattr(Validation, "keep", recorded)
    trained = train(config(epochs=3, validation=0.2), blobs(), progress=False)
    assert len(seen) == 3
    assert torch.equal(trained.objective.centres, seen[1])
    assert not torch.equal(seen[1], seen[2])
