"""Tests of the codebook losses during training: mixed precision, compilation, several processes, and no waits for the device."""

import pytest
import torch

from orthohash_triton.nn import HashHead, OrthoHashLoss
from orthohash_triton.ops._derived import derived, shown
from orthohash_triton.ops.cosine_codebook_loss import cosine_codebook_loss
from orthohash_triton.ops.orthohash_loss import orthohash_loss
from tests.implementations import BOTH
from tests.launches import instead_of_launches
from tests.ops.test_cosine_codebook_loss import problem
from tests.ops.test_loss_sparse_targets import in_parts, sparse_problem
from tests.processes import in_two_processes
from tests.tolerances import tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_grad_scaler(dtype):
    """A training step under autocast, its loss scaled, moves the weights as one in float32 does, up to the dtype's rounding."""
    _, target, codebook = problem(64, 10, 16)
    features = torch.randn(64, 12)
    steps = []
    for enabled in (False, True):
        torch.manual_seed(1)
        head, criterion = HashHead(12, 16), OrthoHashLoss(codebook)
        optimizer, scaler = (
            torch.optim.SGD(head.parameters(), lr=1.0),
            torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=enabled),
        )
        start = head.linear.weight.detach().clone()
        with torch.autocast("cpu", dtype, enabled=enabled):
            loss = criterion(head.latent(features), target, head.batch_norm)
        assert loss.dtype == torch.float32
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        steps.append(head.linear.weight.detach() - start)
    assert (steps[1] - steps[0]).norm() < 16 * torch.finfo(dtype).eps * steps[0].norm()


def test_grad_scaler_sees_an_overflow():
    """In float16 a scaled gradient that overflows becomes infinite, and the scaler skips the step."""
    v, target, codebook = problem(64, 10, 16)
    latent = torch.nn.Parameter((1e-4 * v).half().float())
    optimizer, scaler = torch.optim.SGD([latent], lr=1.0), torch.amp.GradScaler("cpu", init_scale=2.0**30)
    before = latent.detach().clone()
    scaler.scale(cosine_codebook_loss(latent.half(), target, codebook)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**30
    assert torch.equal(latent.detach(), before)


@pytest.mark.parametrize("impl", BOTH)
def test_second_backward_through_batch_normalisation(impl, device):
    latent, target, codebook = problem(5, 40, 16, device=device)
    latent.requires_grad_()
    loss = orthohash_loss(latent, target, codebook, impl=impl)
    first = torch.autograd.grad(3 * loss, latent, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(3 * loss, latent)[0], first)


@pytest.mark.parametrize("dense", [False, True])
def test_double_backward_is_refused(dense):
    latent, target, codebook = problem(5, 40, 16, dense)
    latent.requires_grad_()
    loss = orthohash_loss(latent, target, codebook)
    with pytest.raises(RuntimeError, match=r"no second derivative.*impl=\"reference\""):
        torch.autograd.grad(loss, latent, create_graph=True)


def test_a_target_that_wants_a_gradient_is_refused():
    v, target, codebook = problem(5, 7, 16, dense=True)
    with pytest.raises(ValueError, match=r"target gets no gradient.*target\.detach\(\)"):
        cosine_codebook_loss(v.requires_grad_(), target.requires_grad_(), codebook)


def test_running_statistics_stay_when_the_loss_raises(monkeypatch):
    latent, target, codebook = problem(5, 7, 16)
    mean, var = torch.zeros(16), torch.ones(16)

    def out_of_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr("orthohash_triton.kernels.cpu.cosine_codebook_loss.cosine_codebook_loss", out_of_memory)
    with pytest.raises(MemoryError):
        orthohash_loss(latent, target, codebook, mean, var)
    assert torch.equal(mean, torch.zeros(16))
    assert torch.equal(var, torch.ones(16))


def test_no_rows_leave_the_running_statistics_as_they_were():
    latent, target = torch.zeros(0, 16, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    mean, var, weight = torch.zeros(16), torch.ones(16), torch.ones(16, requires_grad=True)
    loss = orthohash_loss(latent, target, torch.ones(3, 16, dtype=torch.int8), mean, var, weight, reduction="sum")
    loss.backward()
    assert loss == 0
    assert torch.equal(mean, torch.zeros(16))
    assert torch.equal(var, torch.ones(16))
    assert torch.equal(weight.grad, torch.zeros(16))


@pytest.mark.parametrize("kind", ["ids", "dense", "sparse"])
def test_the_device_is_never_waited_for(kind, monkeypatch):
    """Meta tensors have no values, so reading one raises an error. The launches are discarded."""
    launches = []
    latent = torch.empty(37, 24, device="meta", requires_grad=True)
    codebook = torch.empty(101, 24, dtype=torch.int8, device="meta")
    target = {
        "ids": torch.empty(37, dtype=torch.int64, device="meta"),
        "dense": torch.empty(37, 101, device="meta"),
        "sparse": tuple(part.to("meta") for part in in_parts(sparse_problem(37, 101, 24)[1])),
    }[kind]
    running = torch.empty(2, 24, device="meta")
    with instead_of_launches(launches.append):
        orthohash_loss(latent, target, codebook, *running, label_smoothing=0.1, impl="triton").backward()
    assert launches
    assert latent.grad.shape == (37, 24)


def test_derived_follows_the_tensor_and_not_its_id():
    made = []

    def make():
        made.append(1)
        return len(made)

    tensor = torch.zeros(3)
    assert [derived(tensor, "x", make), derived(tensor, "x", make)] == [1, 2]  # may be memory of a compiled graph
    made.clear()
    shown(tensor)
    assert [derived(tensor, "x", make), derived(tensor, "x", make)] == [1, 1]
    tensor.add_(1)
    shown(tensor)
    assert [derived(tensor, "x", make), derived(tensor, "x", make)] == [2, 2]
    address = id(tensor)
    del tensor
    others = [torch.zeros(3) for _ in range(100)]
    again = next((other for other in others if id(other) == address), others[0])
    assert derived(again, "x", make) == 3
    shown(again)
    assert derived(again, "x", make) == 4


def _compiled_and_eager(rank, results):
    latent, target, codebook = problem(20 + rank, 11, 24)
    criterion, found = OrthoHashLoss(codebook), []
    for step in (torch.compile(criterion, fullgraph=True, backend="aot_eager"), criterion):
        leaf, layer = latent.clone().requires_grad_(), torch.nn.SyncBatchNorm(24)
        step(leaf, target, layer).backward()
        found.append((leaf.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var))
    results[rank] = found


@pytest.mark.slow
def test_statistics_of_two_processes_in_one_compiled_graph():
    results = in_two_processes(_compiled_and_eager)
    for compiled, eager in (results[0], results[1]):
        torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(results[0][0][3:], results[1][0][3:])  # both processes have the same statistics


@pytest.mark.kernel
@pytest.mark.parametrize("dense", [False, True])
def test_mean_over_more_rows_than_are_read_at_once(dense, device, monkeypatch):
    monkeypatch.setattr("orthohash_triton.kernels.mean.BLOCK_M", 16)
    v, target, codebook = problem(37, 40, 16, dense, device=device)
    target[5], target[20:30] = (0, 0) if dense else (-100, -100)  # rows without a label
    losses = cosine_codebook_loss(v, target, codebook, reduction="none", impl="triton")
    mean = cosine_codebook_loss(v, target, codebook, impl="triton")
    labelled = target.sum(1) > 0 if dense else target != -100
    exact = losses.double().sum() / labelled.sum()
    torch.testing.assert_close(mean.double(), exact, **tolerance(37, losses.sum() / labelled.sum(), sides=1))
