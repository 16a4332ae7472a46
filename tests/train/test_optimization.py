"""Tests of optimiser, schedule, gradient scaler and moving average, against explicit formulas."""

import dataclasses
import math

import pytest
import torch

from orthohash_triton.models.backbones import Identity
from orthohash_triton.train import HashModel, TrainConfig, train
from orthohash_triton.train.optimization import Stepper, autocast, make_schedule

from .data import blobs, pictures, weights

CONFIG = TrainConfig(dataset="x", bits=8, epochs=2, batch_size=50, threads=1)


def rates(steps: int, **changes) -> list[float]:
    """Return the learning rate of each of `steps` steps, and the one after the last."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(dataclasses.replace(CONFIG, **changes), optimizer, steps)
    found = [schedule.get_last_lr()[0]]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [1] * 8 + [0.1] * 3),
        ({"lr_decay": 0.5, "lr_decay_at": 0.25}, [1] * 3 + [0.5] * 8),
        ({"schedule": "constant"}, [1] * 11),
        ({"schedule": "constant", "warmup": 3.0}, [0.25, 0.5, 0.75] + [1] * 8),
        ({"schedule": "constant", "warmup": 0.1}, [0.5] + [1] * 10),
        ({"schedule": "cosine"}, [(1 + math.cos(math.pi * i / 10)) / 2 for i in range(11)]),
        ({"schedule": "cosine", "warmup": 0.2}, [1 / 3, 2 / 3] + [(1 + math.cos(math.pi * i / 8)) / 2 for i in range(9)]),
        ({"schedule": "cosine", "warmup": 20.0}, [i / 21 for i in range(1, 12)]),  # the warm-up never ends
    ],
)
def test_schedules(changes: dict, expected: list[float]) -> None:
    assert rates(10, **changes) == pytest.approx(expected)


def a_stepper(**changes) -> Stepper:
    torch.manual_seed(0)
    model = HashModel(Identity(4), 8, (4,))
    group = {"params": list(model.head.parameters()), "lr": 0.1}
    return Stepper(dataclasses.replace(CONFIG, weight_decay=0.0, **changes), model, [group], 0.1, 100)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_limits_the_norm_of_all_gradients_together(precision: str) -> None:
    """In fp16 the gradients are scaled up before the step; the norm is that of the gradients without the scale."""
    stepper = a_stepper(optimizer="sgd", clip_grad_norm=0.5, schedule="constant", precision=precision)
    before = [parameter.detach().clone() for parameter in stepper.parameters]
    stepper.backward(sum((parameter * 3).sum() for parameter in stepper.parameters))
    stepper.step()
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, stepper.parameters, strict=True)]).detach()
    assert float(moved.norm()) == pytest.approx(0.1 * 0.5, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Detected call of")  # the step is skipped on purpose
def test_the_scale_of_the_gradients_is_restored() -> None:
    """An overflow halves the scale of fp16; a resumed training must not begin with the first scale again."""
    stepper, fresh = (a_stepper(optimizer="sgd", precision="fp16") for _ in range(2))
    stepper.backward(stepper.parameters[0].sum() * float("inf"))
    stepper.step()
    assert stepper.scaler.get_scale() == fresh.scaler.get_scale() / 2
    fresh.load_state_dict(stepper.state_dict())
    assert fresh.scaler.get_scale() == stepper.scaler.get_scale()


def test_the_moving_average_is_the_result() -> None:
    stepper = a_stepper(optimizer="sgd", ema=0.75, schedule="constant")
    expected = None
    for _ in range(3):
        stepper.backward(stepper.model.head.linear.weight.square().sum())
        stepper.step()
        now = stepper.model.head.linear.weight.detach().clone()
        expected = now if expected is None else 0.75 * expected + 0.25 * now
    assert torch.allclose(stepper.result.head.linear.weight, expected)
    assert not torch.equal(stepper.result.head.linear.weight, now)
    averaged = train(dataclasses.replace(CONFIG, ema=0.9, epochs=1), blobs(), progress=False)
    last = train(dataclasses.replace(CONFIG, epochs=1), blobs(), progress=False)
    assert averaged.history[0].loss == last.history[0].loss
    assert not torch.equal(averaged.model.head.linear.weight, last.model.head.linear.weight)


def test_running_statistics_are_averaged_like_the_weights() -> None:
    stepper = a_stepper(optimizer="sgd", ema=0.75, schedule="constant")
    for value in (1.0, 3.0):
        stepper.model.head.batch_norm.running_mean.fill_(value)
        stepper.backward(stepper.model.head.linear.weight.square().sum())
        stepper.step()
    torch.testing.assert_close(stepper.result.head.batch_norm.running_mean, torch.full((8,), 0.75 * 1.0 + 0.25 * 3.0))


def test_accumulated_batches_are_one_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without batch norm the mean gradient of several batches is the gradient of all of them; the last group may be smaller."""
    gradients: list[torch.Tensor] = []
    step = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self: (gradients.append(gradient(self)), step(self)))
    common = dataclasses.replace(CONFIG, method="csq", epochs=1, lr=1e-12)  # the weights are unchanged
    for batch_size, accumulate in ((60, 1), (10, 6), (20, 2)):
        train(dataclasses.replace(common, batch_size=batch_size, accumulate=accumulate), blobs(n=60), progress=False)
    whole, accumulated, two_thirds, last_third = gradients
    torch.testing.assert_close(accumulated, whole)
    torch.testing.assert_close((2 * two_thirds + last_third) / 3, whole)
    assert not torch.allclose(two_thirds, last_third)


def gradient(stepper: Stepper) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in stepper.parameters])


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision_is_that_of_the_network_alone(precision: str, dtype: torch.dtype) -> None:
    seen = {}
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16))

    def look(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        seen[module.training] = output.dtype

    backbone.register_forward_hook(look)
    config = dataclasses.replace(CONFIG, precision=precision, batch_size=32, epochs=4)
    trained = train(config, pictures(), backbone=backbone, progress=False)
    assert seen == {True: dtype, False: torch.float32}  # validation runs in float32
    assert {tensor.dtype for tensor in weights(trained.model)} <= {torch.float32, torch.int64}
    assert trained.history[-1].loss < trained.history[0].loss


def test_autocast_is_off_outside() -> None:
    with autocast(dataclasses.replace(CONFIG, precision="bf16"), torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu")
    with autocast(CONFIG, torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_optimizers_learn(optimizer: str) -> None:
    trained = train(dataclasses.replace(CONFIG, optimizer=optimizer, epochs=4, lr=0.05), blobs(), progress=False)
    assert trained.history[-1].loss < trained.history[0].loss


def test_sgd_in_half_precision_starts_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step overflows and is skipped; uninitialised memory must not become the momentum."""
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **options: torch.full_like(tensor, torch.nan, **options))
    config = dataclasses.replace(CONFIG, optimizer="sgd", precision="fp16", lr=0.05, epochs=4, batch_size=8)
    trained = train(config, blobs(), progress=False)
    assert trained.history[-1].loss < trained.history[0].loss
