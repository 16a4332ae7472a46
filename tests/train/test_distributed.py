"""Tests that two processes learn the same as one process, up to the order of floating-point sums."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import nn

from orthohash_triton import cli
from orthohash_triton.data import Dataset, features
from orthohash_triton.train import TrainConfig, train
from orthohash_triton.train.distributed import Processes, _own_device
from orthohash_triton.train.sync_batch_norm import SyncBatchNorm, synchronised
from tests.processes import fresh_processes
from tests.tolerances import tolerance

from ..methods.learned_centres import learned_centres
from .data import blobs, pictures
from .test_checkpoint import Stopped, stop_after

CONFIG = TrainConfig(dataset="x", bits=16, epochs=2, batch_size=50, threads=1)
# Adam divides by the size of a gradient, which amplifies rounding differences of tiny gradients. The networks that
# have such weights are compared with SGD.
CASES: dict[str, tuple[Dataset, dict]] = {
    "features": (blobs(), {"lr": 1e-3}),
    "mlp, validation": (blobs(), {"backbone": "mlp", "validation": 0.2, "patience": 1, "lr": 1e-3}),
    "cnn": (pictures(), {"optimizer": "sgd", "crop_padding": 1, "batch_size": 32}),
    "cnn, uneven shares, strong": (pictures(channels=3), {"optimizer": "sgd", "augment": "strong", "batch_size": 31}),
    "frozen cnn": (pictures(), {"optimizer": "sgd", "backbone_lr_scale": 0.0, "batch_size": 32}),
    "pairs": (blobs(), {"method": "dhn", "backbone": "mlp", "accumulate": 2, "clip_grad_norm": 1.0, "ema": 0.9}),
    "bank": (blobs(), {"method": "dpsh", "backbone": "mlp"}),
    "drawn bank": (blobs(), {"method": "mds", "options": {"bank": 40}, "optimizer": "sgd"}),
    "two stages": (blobs(), {"method": "shc", "backbone": "mlp"}),
    "shrewd": (blobs(), {"method": "shrewd", "optimizer": "sgd"}),
    "parameters of the method": (blobs(), {"method": "learned-centres", "backbone": "mlp", "optimizer": "sgd"}),
}


def rounding(case: str, values: torch.Tensor) -> dict[str, float]:
    """Return the bounds within which two trainings of `case` differ, which add the same numbers in different orders.

    A step sums gradients and batch statistics over the rows of a batch; for images these are the 4 x 4 positions of the first
    convolution of each. Activations and gradients are at most of the size of 1. The errors of the steps add up.
    """
    data, changes = CASES[case]
    batch_size = changes.get("batch_size", CONFIG.batch_size)
    rows = batch_size * (16 if data.is_images else 1)
    steps = CONFIG.epochs * (len(data) // batch_size)
    return tolerance(rows, max(1.0, float(values.abs().max())), sums=steps)


def learn(case: str) -> dict[str, Any]:
    data, changes = CASES[case]
    with learned_centres():
        trained = train(dataclasses.replace(CONFIG, **changes), data, progress=False)
    history = [(epoch.loss, epoch.bit_accuracy or 0.0, epoch.validation_map or 0.0) for epoch in trained.history]
    own = {name: parameter.detach() for name, parameter in trained.objective.named_parameters()}
    return {"weights": trained.model.state_dict() | own, "history": history}


def network_with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 30), nn.Dropout(0.5))


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = {case: learn(case) for case in CASES}
    dropout = train(CONFIG, blobs(), backbone=network_with_dropout(), progress=False)
    found["dropout"] = dropout.model.state_dict()
    # One of the processes writes the checkpoint, and both read it.
    config = dataclasses.replace(CONFIG, backbone="mlp", checkpoint_every=2)
    with pytest.MonkeyPatch.context() as patched:
        stop_after(patched, 9)
        with pytest.raises(Stopped):
            train(config, blobs(), folder=f"{folder}/run", progress=False)
    dist.barrier()
    found["resumed"] = train(config, blobs(), folder=f"{folder}/run", resume=True, progress=False).model.state_dict()
    found["not stopped"] = train(config, blobs(), progress=False).model.state_dict()
    errors = []
    for changes, data in (({"bits": 8 * (1 + rank)}, blobs()), ({}, blobs(n=300 + rank)), ({"batch_size": 3}, blobs())):
        try:
            train(dataclasses.replace(CONFIG, **changes), data, progress=False)
        except ValueError as error:
            errors.append(str(error))
    found["errors"] = errors
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pair")
    mp.start_processes(work, (str(folder),), nprocs=2, start_method=fresh_processes().get_start_method())
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(pair: list[dict[str, Any]], case: str) -> None:
    alone = learn(case)
    for together in (found[case] for found in pair):
        for name, tensor in alone["weights"].items():
            torch.testing.assert_close(
                together["weights"][name], tensor, **rounding(case, tensor), msg=lambda m, name=name: f"{name}: {m}"
            )
        mine, theirs = (torch.tensor(found["history"], dtype=torch.float64) for found in (alone, together))
        torch.testing.assert_close(theirs, mine, **rounding(case, mine))


@pytest.mark.parametrize("case", [*CASES, "dropout", "resumed"])
def test_all_processes_have_the_same_weights(pair: list[dict[str, Any]], case: str) -> None:
    first, second = (found[case].get("weights", found[case]) for found in pair)
    assert all(map(torch.equal, first.values(), second.values()))


def test_together_they_resume_as_if_they_had_not_stopped(pair: list[dict[str, Any]]) -> None:
    for found in pair:
        assert all(map(torch.equal, found["resumed"].values(), found["not stopped"].values()))


def test_processes_that_do_not_go_together(pair: list[dict[str, Any]]) -> None:
    for found in pair:
        settings, data, batch = found["errors"]
        assert "the processes were started with different settings, data or checkpoints" in settings
        assert "the processes were started with different settings, data or checkpoints" in data
        assert "batch_size 3 is shared by 2 processes, each of which needs two samples; set it to 4 or more" in batch


@pytest.mark.slow
def test_torchrun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the command line under torchrun one process writes the run, which equals the run of a single process."""
    for name in ("train", "query"):
        features.save(tmp_path / f"{name}.npz", blobs())
    command = ["orthohash_triton", "train", "--dataset", str(tmp_path), "--bits", "16", "--epochs", "1", "--lr", "1e-3",
               "--batch-size", "50", "--threads", "1", "--json", "--no-progress"]  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    called = subprocess.run(
        [sys.executable, *torchrun, "-m", *command, "--out", str(tmp_path / "two")],
        capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert called.returncode == 0, called.stderr
    two = json.loads(called.stdout)  # only one process prints
    assert cli.main([*command[1:], "--out", str(tmp_path / "one")]) == 0
    one = json.loads(capsys.readouterr().out)
    assert two["evaluation"]["map_at_all"] == pytest.approx(one["evaluation"]["map_at_all"])
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, **tolerance(50, max(1.0, float(tensor.abs().max())), sums=6))


def test_shares_are_the_whole() -> None:
    for count in (1, 2, 3, 5):
        rows = list(range(17))
        shares = [rows[Processes(rank, count, torch.device("cpu")).share(17)] for rank in range(count)]
        assert [row for share in shares for row in share] == rows
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_every_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert _own_device("cuda", 6) == torch.device("cuda", 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _own_device("cuda", 6) == torch.device("cuda", 1)
    assert _own_device("cuda:3", 6) == torch.device("cuda", 3)
    assert _own_device("cpu", 6) == torch.device("cpu")


class Activated(nn.BatchNorm2d):
    """A batch norm with an activation, like those of timm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


@pytest.fixture
def one_process(tmp_path: Path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, Activated])
def test_synchronised_batch_norm_is_batch_norm(one_process: None, kind: type, options: dict) -> None:
    """With one process the outputs, gradients and statistics are equal, in training and in evaluation."""
    if kind is Activated and options:
        pytest.skip("has no options")
    plain, shared = nn.Sequential(kind(3, **options)), nn.Sequential(kind(3, **options))
    x = 2 + 3 * torch.randn(5, 3, 4, 4)
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.randn(5, 3, 4, 4)
    (plain(inputs[0]) * weight).sum().backward()
    original = shared[0]
    with synchronised(shared):
        assert isinstance(shared[0], SyncBatchNorm)
        (shared(inputs[1]) * weight).sum().backward()
    assert shared[0] is original
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(shared.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(shared.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    with synchronised(shared):
        torch.testing.assert_close(shared.eval()(x), plain.eval()(x))
    assert not original.training


def test_synchronised_batch_norm_of_too_few_rows_keeps_its_statistics(one_process: None) -> None:
    shared = nn.Sequential(nn.BatchNorm1d(3))
    with synchronised(shared):
        output = shared(torch.zeros(0, 3, requires_grad=True))
        assert output.shape == (0, 3)
        output.sum().backward()
        with pytest.raises(
            ValueError, match="Expected more than 1 value per channel when training, got one row in all processes"
        ):
            shared(torch.ones(1, 3))
        with pytest.raises(ValueError, match=r"batch norm: the values of channel 1 are so large that running_var in float32 .*"):
            shared(torch.tensor([[1.0, 1e25, 1.0], [2.0, 3e25, 1.0]]))
    assert torch.equal(shared[0].running_mean, torch.zeros(3))
    assert torch.equal(shared[0].running_var, torch.ones(3))
    assert all(torch.equal(parameter.grad, torch.zeros(3)) for parameter in shared.parameters())


def test_a_batch_norm_that_nobody_knows() -> None:
    class Strange(nn.BatchNorm1d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1

    with (
        pytest.raises(ValueError, match="Strange is not a batch norm that several processes can share"),
        synchronised(nn.Sequential(Strange(3))),
    ):
        pass
