"""Tests of orthohash_loss against batch_norm and the float64 reference: every gradient, and the running statistics."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from orthohash_triton import reference
from orthohash_triton.nn import HashHead, OrthoHashLoss
from orthohash_triton.ops import batch_norm  # noqa: F401  (registers the ops)
from orthohash_triton.ops.orthohash_loss import orthohash_loss
from tests.implementations import BOTH
from tests.operators import operators_and_launches
from tests.ops.test_cosine_codebook_loss import problem, relative_error
from tests.processes import in_two_processes
from tests.tolerances import sum_error


def normalisation(bits, device):
    """Return running_mean, running_var, bn_weight and bn_bias."""
    generator = torch.Generator().manual_seed(bits)
    numbers = torch.rand(4, bits, generator=generator) + 0.5
    return [row.clone().to(device) for row in numbers]


def gradients(function, latent, weight, bias, upstream, *arguments, **keywords):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (latent, weight, bias)]
    running = [tensor.clone() for tensor in arguments[2:]]
    loss = function(leaves[0], *arguments[:2], *running, *leaves[1:], reduction="none", **keywords)
    (loss * upstream).sum().backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves), *running]


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("training", [True, False])
# Ragged everything; whole tiles and more rows than a program takes at once.
@pytest.mark.parametrize(("rows", "classes", "bits"), [(37, 101, 24), (150, 20, 64)])
def test_loss_gradients_and_running_statistics(rows, classes, bits, training, impl, device):
    latent, target, codebook = problem(rows, classes, bits, device=device)
    latent = 3 * latent + torch.arange(bits, device=device)
    running_mean, running_var, weight, bias = normalisation(bits, device)
    upstream = torch.randn(rows, device=device)
    inputs = (target, codebook, running_mean, running_var)
    wide = (target, codebook, running_mean.double(), running_var.double())
    exact = gradients(
        reference.orthohash_loss, latent.double(), weight.double(), bias.double(), upstream.double(), *wide, training=training
    )
    found = gradients(orthohash_loss, latent, weight, bias, upstream, *inputs, training=training, impl=impl)
    for name, ours, true in zip(("loss", "latent", "weight", "bias", "mean", "var"), found, exact, strict=True):
        # Statistics, logits, softmax and the way back are four sums in a row.
        assert relative_error(ours, true) < 4 * sum_error(max(rows, classes, bits)), name


@pytest.mark.parametrize("impl", BOTH)
def test_without_affine_and_running_statistics(impl, device):
    latent, target, codebook = problem(37, 101, 24, device=device)
    exact = reference.orthohash_loss(latent.double(), target, codebook)
    torch.testing.assert_close(
        orthohash_loss(latent, target, codebook, impl=impl).double(), exact, rtol=3 * sum_error(101), atol=0
    )


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_worse_than_eager(dtype, impl, device):
    latent, target, codebook = problem(37, 101, 24, device=device)
    latent = latent.to(dtype)
    leaf, eager, exact = latent.clone().requires_grad_(), latent.clone().requires_grad_(), latent.double().requires_grad_()
    orthohash_loss(leaf, target, codebook, reduction="sum", impl=impl).backward()
    reference.orthohash_loss(eager, target, codebook, reduction="sum").backward()
    reference.orthohash_loss(exact, target, codebook, reduction="sum").backward()
    assert leaf.grad.dtype == dtype
    ulp = torch.finfo(dtype).eps * exact.grad.abs()
    assert ((leaf.grad.double() - exact.grad).abs() <= (eager.grad.double() - exact.grad).abs() + ulp + 1e-6).all()


def test_constant_column_stays_finite():
    latent, target, codebook = problem(37, 101, 24)
    latent[:, 3] = 2.0
    latent.requires_grad_()
    loss = orthohash_loss(latent, target, codebook)
    loss.backward()
    assert loss.isfinite()
    assert latent.grad.isfinite().all()


def test_module_follows_the_batch_norm():
    head, criterion = HashHead(12, 24), OrthoHashLoss(problem(37, 101, 24)[2], margin=0.3)
    features, target = torch.randn(37, 12), problem(37, 101, 24)[1]
    twin = torch.nn.BatchNorm1d(24)
    loss = criterion(head.latent(features), target, head.batch_norm)
    loss.backward()
    expected = reference.cosine_codebook_loss(twin(head.latent(features)), target, criterion.codebook, margin=0.3)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(head.batch_norm.state_dict(), twin.state_dict())
    assert head.linear.weight.grad is not None
    head.eval()
    before = {name: value.clone() for name, value in head.batch_norm.state_dict().items()}
    loss = criterion(head.latent(features), target, head.batch_norm)
    torch.testing.assert_close(loss, reference.cosine_codebook_loss(head(features), target, criterion.codebook, margin=0.3))
    torch.testing.assert_close(head.batch_norm.state_dict(), before)
    assert "margin=0.3" in repr(criterion)


def test_module_leaves_statistics_alone_that_are_not_tracked():
    """As in torch, a layer whose `track_running_stats` was switched off does not change its statistics in training."""
    latent, target, codebook = problem(37, 101, 24)
    layer = torch.nn.BatchNorm1d(24)
    layer.track_running_stats = False
    loss = OrthoHashLoss(codebook)(latent, target, layer)
    assert (layer.running_mean == 0).all()
    assert (layer.running_var == 1).all()
    assert layer.num_batches_tracked == 0
    assert torch.equal(loss, orthohash_loss(latent, target, codebook, None, None, layer.weight, layer.bias))


def test_module_with_a_cumulative_average():
    criterion = OrthoHashLoss(problem(37, 101, 24)[2])
    ours, twin = torch.nn.BatchNorm1d(24, momentum=None), torch.nn.BatchNorm1d(24, momentum=None)
    for seed in range(3):
        latent = torch.randn(37, 24, generator=torch.Generator().manual_seed(seed))
        criterion(latent, problem(37, 101, 24)[1], ours)
        twin(latent)
    torch.testing.assert_close(ours.state_dict(), twin.state_dict())


def test_compiles_into_one_graph():
    latent, target, codebook = problem(37, 101, 24)
    layers = [torch.nn.BatchNorm1d(24) for _ in range(2)]
    criterion = OrthoHashLoss(codebook)
    results = []
    for layer, wrap in zip(layers, (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")), strict=True):
        leaf = latent.clone().requires_grad_()
        wrap(criterion)(leaf, target, layer).backward()
        results.append((leaf.grad, layer.weight.grad, layer.bias.grad))
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(layers[1].state_dict(), layers[0].state_dict())


@pytest.mark.parametrize("op", ["batch_norm_statistics", "batch_norm_sums", "batch_norm_backward"])
def test_opcheck_of_the_parts(op):
    latent, rows = torch.randn(2, 9, 16)
    mean, rstd, weight = torch.rand(3, 16)
    arguments = {
        "batch_norm_statistics": (latent, 1, 1e-5, "cpu"),
        "batch_norm_sums": (rows, torch.rand(9), latent, mean, rstd, "cpu"),
        "batch_norm_backward": (rows, None, latent, mean, rstd, weight, *torch.rand(2, 16), 9, "cpu"),
    }[op]
    torch.library.opcheck(getattr(torch.ops.orthohash, op).default, arguments)


def test_modules_name_keywords_that_the_loss_does_not_take():
    for unknown in ("margins", "training"):  # `training` belongs to the batch normalisation
        with pytest.raises(TypeError, match=f"OrthoHashLoss.* unexpected keyword argument '{unknown}'"):
            OrthoHashLoss(problem(37, 101, 24)[2], **{unknown: False})


def _half_of_the_batch(rank, results, latent, target, codebook):
    half = slice(0, 15) if rank == 0 else slice(15, None)  # parts of different sizes
    leaf, weight, bias = latent[half].clone().requires_grad_(), torch.ones(24).requires_grad_(), torch.zeros(24).requires_grad_()
    mean, var = torch.zeros(24), torch.ones(24)
    loss = orthohash_loss(leaf, target[half], codebook, mean, var, weight, bias, reduction="none", process_group=dist.group.WORLD)
    loss.sum().backward()
    through_module = OrthoHashLoss(codebook, reduction="none")(latent[half], target[half], torch.nn.SyncBatchNorm(24))
    torch.testing.assert_close(through_module, loss, rtol=0, atol=0)
    results[rank] = (loss.detach(), leaf.grad, weight.grad, bias.grad, mean, var)


@pytest.mark.slow
def test_two_processes_equal_one():
    latent, target, codebook = problem(37, 101, 24)
    results = in_two_processes(_half_of_the_batch, latent, target, codebook)
    first, second = results[0], results[1]
    leaf, weight, bias = latent.clone().requires_grad_(), torch.ones(24).requires_grad_(), torch.zeros(24).requires_grad_()
    mean, var = torch.zeros(24), torch.ones(24)
    loss = orthohash_loss(leaf, target, codebook, mean, var, weight, bias, reduction="none")
    loss.sum().backward()
    torch.testing.assert_close(torch.cat((first[0], second[0])), loss.detach())
    torch.testing.assert_close(torch.cat((first[1], second[1])), leaf.grad)
    torch.testing.assert_close(first[2] + second[2], weight.grad)
    torch.testing.assert_close(first[3] + second[3], bias.grad)
    for stats in (first[4:], second[4:]):
        torch.testing.assert_close(stats, (mean, var))


def _shares_of_a_batch(rank, results, latent, target, codebook):
    """Compute the loss of some rows of a batch in each process: of no rows in all, of one in all, and of the whole batch."""
    for name, rows in (("none", (0, 0)), ("one", (0, 1)), ("compiled one", (0, 1)), ("all", (0, 37)), ("both one", (1, 1))):
        first = rows[0] if rank else 0
        part = slice(first, first + rows[rank])
        leaf, layer = latent[part].clone().requires_grad_(), torch.nn.SyncBatchNorm(24)
        criterion = OrthoHashLoss(codebook, reduction="sum")
        if name == "compiled one":  # there the number of rows in all is not read
            criterion = torch.compile(criterion, backend="aot_eager")
        try:
            loss = criterion(leaf, target[part], layer)
            loss.backward()
            results[rank, name] = [loss.detach(), leaf.grad, layer.weight.grad, layer.running_mean, layer.running_var]
        except ValueError as error:
            results[rank, name] = str(error)


@pytest.mark.slow
def test_processes_with_few_rows_in_all_keep_the_running_statistics():
    latent, target, codebook = problem(37, 101, 24)
    found = in_two_processes(_shares_of_a_batch, latent, target, codebook)
    for rank in (0, 1):
        assert found[rank, "one"] == "Expected more than 1 value per channel when training, got one row in all processes together"
        assert all(part.isfinite().all() for name in ("none", "compiled one", "all", "both one") for part in found[rank, name])
        for name in ("none", "compiled one"):
            assert torch.equal(found[rank, name][3], torch.zeros(24))
            assert torch.equal(found[rank, name][4], torch.ones(24))
        assert found[rank, "none"][0] == 0
        torch.testing.assert_close(found[rank, "both one"][4], 0.9 + 0.1 * latent[:2].var(0))
    mean, var = torch.zeros(24), torch.ones(24)
    alone = orthohash_loss(latent, target, codebook, mean, var, reduction="sum")
    torch.testing.assert_close(found[1, "all"][0], alone)
    assert found[0, "all"][0] == 0
    for rank in (0, 1):
        torch.testing.assert_close(found[rank, "all"][3:], [mean, var])


def _sharded_training(rank, results):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    head = torch.nn.SyncBatchNorm.convert_sync_batchnorm(_head())
    fully_shard(head, mesh=init_device_mesh("cpu", (2,)))
    register_fsdp_forward_method(head, "latent")
    _train(head, lambda step, latent: latent[rank::2])
    whole = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in head.state_dict().items()}
    results[rank] = whole | {"codes": head.eval().encode(problem(37, 101, 12)[0])}


def _head():
    torch.manual_seed(0)
    return HashHead(12, 24)


def _train(head, share):
    """Train for some steps on a share of each batch."""
    criterion, optimiser = OrthoHashLoss(problem(36, 101, 24)[2]), torch.optim.SGD(head.parameters(), lr=0.1)
    for step in range(4):
        features, target, _ = problem(36 + 4 * step, 101, 12)
        target = target.clamp(min=0)  # the mean of each process is over as many rows
        optimiser.zero_grad()
        criterion(head.latent(share(step, features)), share(step, target), head.batch_norm).backward()
        optimiser.step()


@pytest.mark.slow
def test_fully_shard_with_latent_as_a_forward_method_trains_as_one_process():
    found = in_two_processes(_sharded_training)
    head = _head()
    _train(head, lambda step, batch: batch)
    for rank in (0, 1):
        for name, expected in head.state_dict().items():
            torch.testing.assert_close(found[rank][name], expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(found[rank]["codes"], head.eval().encode(problem(37, 101, 12)[0]))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            dict(latent=torch.zeros(1, 16), target=torch.zeros(1, dtype=torch.int64)),
            ValueError,
            r"Expected more than 1 value per channel",
        ),
        (dict(running_mean=torch.zeros(16)), ValueError, r"running_mean and running_var must be given together"),
        (dict(training=False), ValueError, r"training=False needs running_mean and running_var"),
        (dict(bn_weight=torch.zeros(8)), ValueError, r"bn_weight must be \[16\], one per bit; got float32 \[8\]"),
        (dict(bn_bias=torch.zeros(16, dtype=torch.int64)), TypeError, r"bn_bias must be.*int64"),
        (dict(eps=0.0), ValueError, r"eps must be positive"),
        (dict(eps="1e-5"), TypeError, r"eps must be a positive number; got str"),
        (dict(momentum=1.5), ValueError, r"momentum must be between 0 and 1.*got 1\.5"),
        (dict(latent=torch.zeros(5, 16, dtype=torch.int32)), TypeError, r"latent must be"),
    ],
)
def test_bad_input(changes, error, message):
    latent, target, codebook = problem(5, 7, 16)
    arguments = {"latent": latent, "target": target} | changes
    with pytest.raises(error, match=message):
        orthohash_loss(arguments.pop("latent"), arguments.pop("target"), codebook, **arguments)


def test_one_row_has_the_message_of_batch_norm():
    with pytest.raises(ValueError) as theirs:
        F.batch_norm(torch.zeros(1, 16), None, None, training=True)
    with pytest.raises(ValueError) as ours:
        orthohash_loss(torch.zeros(1, 16), torch.zeros(1, dtype=torch.int64), torch.ones(3, 16, dtype=torch.int8))
    assert str(ours.value) == str(theirs.value)


def test_module_wants_a_batch_norm():
    with pytest.raises(TypeError, match=r"batch_norm must be the BatchNorm1d.*Linear"):
        OrthoHashLoss(torch.ones(3, 16, dtype=torch.int8))(
            torch.zeros(4, 16), torch.zeros(4, dtype=torch.int64), torch.nn.Linear(1, 1)
        )


def test_a_training_step_on_a_gpu_is_few_launches_and_waits_for_nothing(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr("orthohash_triton._base.checks.may_read_values", lambda tensor: False)  # as for tensors on a GPU
    latent, target, codebook = problem(37, 101, 24)
    mean, var, weight, bias = normalisation(24, "cpu")
    leaves = [tensor.requires_grad_() for tensor in (latent, weight, bias)]

    def step():
        loss = orthohash_loss(latent, target, codebook, mean, var, weight, bias, impl="triton")
        torch.autograd.grad(loss, leaves)

    operators, launches = operators_and_launches(step)
    assert operators == {"lerp_": 2, "ones_like": 1, "mul": 1}
    backward = ["_sums_kernel", "_input_gradient_kernel"]
    assert [name for name in launches if name != "_finish_kernel"] == [
        "_statistics_kernel", "_sweep_kernel", "_labelled_mean_kernel", *backward
    ]  # fmt: skip
