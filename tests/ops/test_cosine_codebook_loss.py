"""Tests of cosine_codebook_loss against the float64 reference, and as a PyTorch op."""

import math

import pytest
import torch
import torch.nn.functional as F

from orthohash_triton import reference
from orthohash_triton.ops._codebook_loss_op import codebook_loss
from orthohash_triton.ops.cosine_codebook_loss import cosine_codebook_loss
from tests.implementations import BOTH
from tests.ops.bounds import check, codebook_bounds
from tests.tolerances import sum_error

# One row; ragged rows, classes and bits; whole tiles; more than one word of bits that fill no tile; the widest single tile that
# the emulator runs in seconds.
SHAPES = [(1, 2, 16), (37, 101, 24), (64, 128, 64), (33, 70, 100), (5, 40, 128)]


def problem(rows, classes, bits, dense=False, device="cpu"):
    """Return latents, target and codebook. Half of the rows are near their code; one is unlabelled if there are enough rows."""
    generator = torch.Generator().manual_seed(rows + classes + bits)
    codebook = torch.randint(0, 2, (classes, bits), generator=generator, dtype=torch.int8) * 2 - 1
    ids = torch.randint(0, classes, (rows,), generator=generator)
    v = torch.randn(rows, bits, generator=generator)
    v[::2] += codebook[ids[::2]]
    target = ids.clone()
    if dense:
        target = (torch.rand(rows, classes, generator=generator) < 2 / classes) * torch.rand(rows, classes, generator=generator)
        target[0, ids[0]] = 0.5
    if rows > 3:
        target[2] = 0 if dense else -100
    return v.to(device), target.to(device), codebook.to(device)


def truth(v, target, codebook, upstream, lse_upstream=None, **keywords):
    """Return the loss and lse per row and the gradient of v, by autograd through the reference in float64."""
    v = v.detach().double().requires_grad_()
    target = target.double() if target.ndim == 2 else target
    loss, lse = reference.cosine_codebook_loss(v, target, codebook, reduction="none", return_lse=True, **keywords)
    upstream = upstream.double()
    total = (loss * upstream).sum() + (0 if lse_upstream is None else (lse * lse_upstream.double()).sum())
    return loss.detach(), lse.detach(), torch.autograd.grad(total, v)[0]


def relative_error(ours, exact):
    return float((ours.detach().double() - exact.detach()).abs().max() / exact.abs().max().clamp(min=1e-30))


def test_reference_by_hand():
    # v = (3, 4) of length 5; codes (1, 1) and (1, -1): cosines 7 / (5 sqrt 2) and -1 / (5 sqrt 2).
    v, codebook = torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    near, far = 7 / (5 * math.sqrt(2)), -1 / (5 * math.sqrt(2))
    scale = math.sqrt(2)
    expected = math.log(math.exp(scale * (near - 0.2)) + math.exp(scale * far)) - scale * (near - 0.2)
    assert reference.cosine_codebook_loss(v, torch.tensor([0]), codebook).item() == pytest.approx(expected, rel=1e-14)
    moved = math.cos(math.acos(near) + 0.2)
    expected = math.log(math.exp(3 * moved) + math.exp(3 * far)) - 3 * moved
    found = reference.cosine_codebook_loss(v, torch.tensor([0]), codebook, scale=3.0, margin_type="angular")
    assert found.item() == pytest.approx(expected, rel=1e-14)


def test_reference_multi_label_by_hand():
    v, codebook = torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.tensor([[1, 1], [1, -1], [-1, 1]], dtype=torch.int8)
    a, b, c = 7 / (5 * math.sqrt(2)) - 0.2, -1 / (5 * math.sqrt(2)) - 0.2, 1 / (5 * math.sqrt(2))
    lse = math.log(math.exp(a) + math.exp(b) + math.exp(c))
    found = reference.cosine_codebook_loss(v, torch.tensor([[2.0, 2.0, 0.0]]), codebook, scale=1.0)
    assert found.item() == pytest.approx(lse - (a + b) / 2, rel=1e-14)


@pytest.mark.parametrize("margin_type", ["cosine", "angular"])
@pytest.mark.parametrize("dense", [False, True])
def test_reference_gradcheck(dense, margin_type):
    v, target, codebook = problem(6, 5, 8, dense)
    v = v.double().requires_grad_()
    target = target.double() if dense else target

    def loss(v):
        return reference.cosine_codebook_loss(v, target, codebook, margin_type=margin_type, label_smoothing=0.1, return_lse=True)

    assert torch.autograd.gradcheck(loss, v)


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradient(shape, dense, impl, device):
    v, target, codebook = problem(*shape, dense, device)
    upstream = torch.randn(len(v), device=device)
    exact = truth(v, target, codebook, upstream)
    v.requires_grad_()
    loss, lse = cosine_codebook_loss(v, target, codebook, reduction="none", return_lse=True, impl=impl)
    (loss * upstream).sum().backward()
    assert loss.dtype == torch.float32
    bounds = codebook_bounds(v, codebook, upstream)
    check(lse, exact[1], bounds.loss)
    bounds.check(loss, exact[0], v.grad, exact[2])


# Half precision has 13 bits less than float32, and bfloat16 16 bits less. One class less is a missing term of the sums.
@pytest.mark.parametrize("fault", ["half precision", "bfloat16", "missing class"])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_the_bounds_notice_a_fault(shape, fault):
    v, target, codebook = problem(*shape)
    exact = truth(v, target, codebook, torch.ones(len(v)))
    bounds = codebook_bounds(v, codebook)
    v = v.to({"half precision": torch.half, "bfloat16": torch.bfloat16}.get(fault, torch.float32)).float()
    codebook = codebook[:-1] if fault == "missing class" else codebook
    target[target == shape[1] - 1] = 0
    kept = (problem(*shape)[1] == target) & (target >= 0)
    v.requires_grad_()
    loss = cosine_codebook_loss(v, target, codebook, reduction="none")
    loss.sum().backward()
    with pytest.raises(AssertionError):
        check(loss[kept], exact[0][kept], bounds.loss)
    if fault != "half precision":  # whose error in the gradient a softmax over many classes averages out
        with pytest.raises(AssertionError):
            check(v.grad[kept], exact[2][kept], bounds.gradient)


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("dense", [False, True])
def test_every_option_at_once(dense, impl, device):
    v, target, codebook = problem(37, 101, 24, dense, device)
    keywords = dict(scale=9.5, margin=0.35, margin_type="angular", label_smoothing=0.2)
    upstream, lse_upstream = torch.randn(2, len(v), device=device)
    exact = truth(v, target, codebook, upstream, lse_upstream, **keywords)
    v.requires_grad_()
    loss, lse = cosine_codebook_loss(v, target, codebook, reduction="none", return_lse=True, impl=impl, **keywords)
    ((loss * upstream).sum() + (lse * lse_upstream).sum()).backward()
    codebook_bounds(v, codebook, upstream.abs() + lse_upstream.abs(), **keywords).check(loss, exact[0], v.grad, exact[2])


@pytest.mark.parametrize("impl", BOTH)
def test_angular_margin_past_pi_goes_on_as_a_line(impl, device):
    codebook = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1]], dtype=torch.int8, device=device)
    v = torch.tensor([[-1.0, -1.1, -0.9, -1.0], [1.0, 1.0, 1.0, 1.0]], device=device)  # opposite to its code, and on its code
    target = torch.zeros(2, dtype=torch.int64, device=device)
    upstream = torch.ones(2, device=device)
    exact = truth(v, target, codebook, upstream, margin_type="angular", margin=0.5)
    v.requires_grad_()
    loss = cosine_codebook_loss(v, target, codebook, reduction="none", margin_type="angular", margin=0.5, impl=impl)
    loss.sum().backward()
    # On its code the sine of a row is zero: a cosine that is off by one rounding has half the digits, and so have the results.
    for row, bounds in enumerate(codebook_bounds(one[None], codebook, margin_type="angular") for one in v):
        bounds.check(loss[row], exact[0][row], v.grad[row], exact[2][row])


@pytest.mark.parametrize("impl", BOTH)
def test_reduced_precision_is_close(impl, device):
    v, target, codebook = problem(64, 128, 64, device=device)
    exact = truth(v, target, codebook, torch.ones(len(v), device=device))
    v.requires_grad_()
    loss = cosine_codebook_loss(v, target, codebook, reduction="none", precision="high", impl=impl)
    loss.sum().backward()
    assert relative_error(loss, exact[0]) < 3e-4
    assert relative_error(v.grad, exact[2]) < 3e-4


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_worse_than_eager(dtype, impl, device):
    v, target, codebook = problem(37, 101, 24, device=device)
    v = v.to(dtype)
    exact = truth(v, target, codebook, torch.ones(len(v), device=device))
    eager, ours = v.clone().requires_grad_(), v.clone().requires_grad_()
    eager_loss = reference.cosine_codebook_loss(eager, target, codebook, reduction="none")
    eager_loss.sum().backward()
    loss = cosine_codebook_loss(ours, target, codebook, reduction="none", impl=impl)
    loss.sum().backward()
    assert ours.grad.dtype == dtype
    bounds = codebook_bounds(v, codebook)
    for found, alternative, true in ((loss, eager_loss, exact[0]), (ours.grad, eager.grad, exact[2])):
        ulp = torch.finfo(dtype).eps * true.abs()  # the interpreter truncates where hardware rounds to nearest
        bound = bounds.gradient if found is ours.grad else bounds.loss
        assert ((found.double() - true).abs() <= (alternative.double() - true).abs() + ulp + bound).all()


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions_leave_unlabelled_rows_out(reduction, impl, device):
    v, target, codebook = problem(37, 101, 24, device=device)
    exact = cosine_codebook_loss(v.double(), target, codebook, reduction=reduction, impl="reference")
    found = cosine_codebook_loss(v, target, codebook, reduction=reduction, impl=impl)
    kept = target != -100
    alone = cosine_codebook_loss(v[kept], target[kept], codebook, reduction=reduction, impl=impl)
    rows = 1 if reduction == "mean" else len(v)
    bound = rows * codebook_bounds(v, codebook).loss + sum_error(len(v)) * exact.item()
    check(found, exact, bound)
    check(alone, exact, bound)


@pytest.mark.parametrize("impl", BOTH)
def test_mean_without_any_label_is_nan_as_in_torch(impl, device):
    v, _, codebook = problem(3, 5, 16, device=device)
    target = torch.full((3,), -100, device=device)
    v.requires_grad_()
    loss = cosine_codebook_loss(v, target, codebook, impl=impl)
    loss.backward()
    assert loss.isnan()
    assert (v.grad == 0).all()
    assert cosine_codebook_loss(v, target, codebook, reduction="sum", impl=impl) == 0


@pytest.mark.parametrize("impl", BOTH)
def test_zero_row_has_a_finite_loss_and_no_gradient(impl, device):
    v, target, codebook = problem(5, 40, 16, device=device)
    v[1] = 0
    v.requires_grad_()
    loss = cosine_codebook_loss(v, target, codebook, reduction="none", impl=impl)
    loss.sum().backward()
    expected = math.log(39 + math.exp(-4 * 0.2)) + 4 * 0.2
    check(loss[1], torch.tensor(expected, dtype=torch.float64), sum_error(40))
    assert (v.grad[1] == 0).all()
    assert v.grad.isfinite().all()


@pytest.mark.parametrize("impl", BOTH)
def test_nan_stays_in_its_row(impl, device):
    v, target, codebook = problem(5, 40, 16, device=device)
    v[1, 3] = float("nan")
    v.requires_grad_()
    loss = cosine_codebook_loss(v, target, codebook, reduction="none", impl=impl)
    loss.sum().backward()
    nan_rows = torch.tensor([False, True, False, False, False], device=device)
    assert torch.equal(loss.isnan(), nan_rows)
    assert torch.equal(v.grad.isnan().any(1), nan_rows)


@pytest.mark.parametrize("impl", BOTH)
def test_a_class_id_that_does_not_exist_is_nan_where_values_are_not_checked(impl, device, monkeypatch):
    v, target, codebook = problem(5, 40, 16, device=device)
    target[0], target[4] = 40, -1
    monkeypatch.setattr("orthohash_triton._base.checks.may_read_values", lambda tensor: False)
    v.requires_grad_()
    loss = cosine_codebook_loss(v, target, codebook, reduction="none", impl=impl)
    loss.sum().backward()
    nan_rows = torch.tensor([True, False, False, False, True], device=device)
    assert torch.equal(loss.isnan(), nan_rows)
    assert torch.equal(v.grad.isnan().all(1), nan_rows)


@pytest.mark.parametrize("impl", BOTH)
def test_one_class_only(impl, device):
    v = torch.randn(4, 16, device=device, requires_grad=True)
    codebook, target = torch.ones(1, 16, dtype=torch.int8, device=device), torch.zeros(4, dtype=torch.int64, device=device)
    loss = cosine_codebook_loss(v, target, codebook, reduction="sum", impl=impl)
    loss.backward()
    bounds = codebook_bounds(v, codebook)
    bounds.check(loss, torch.zeros((), dtype=torch.float64, device=device), v.grad, torch.zeros_like(v, dtype=torch.float64))


@pytest.mark.parametrize("impl", BOTH)
def test_strided_inputs_and_gradients(impl, device):
    v, target, codebook = problem(37, 101, 24, device=device)
    expected = truth(v, target, codebook, torch.full((37,), 0.5, device=device))[2]
    transposed = v.T.contiguous().T.requires_grad_()
    every_second = torch.stack((v, v), 2).requires_grad_()
    wide = torch.cat((v, v), 1).requires_grad_()
    views = [(transposed, transposed), (every_second, every_second[:, :, 0]), (wide, wide[:, :24])]
    for leaf, view in views:
        loss = cosine_codebook_loss(view, target, codebook, reduction="none", impl=impl)
        loss.backward(torch.tensor(0.5, device=device).expand(37))  # a gradient of stride 0
        grad = leaf.grad if leaf.shape == v.shape else leaf.grad.flatten(1)[:, 0::2] if leaf.ndim == 3 else leaf.grad[:, :24]
        check(grad, expected, codebook_bounds(v, codebook, 0.5).gradient)


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("dense", [False, True])
def test_strided_targets_and_codebooks(dense, impl, device):
    v, target, codebook = problem(37, 101, 24, dense, device)
    exact = cosine_codebook_loss(v.double(), target.double() if dense else target, codebook, impl="reference")
    apart = target.T.contiguous().T if dense else torch.stack((target, 0 * target), 1)[:, 0]
    assert not apart.is_contiguous()
    found = cosine_codebook_loss(v, apart, codebook.T.contiguous().T, impl=impl)
    check(found, exact, codebook_bounds(v, codebook).loss)


@pytest.mark.parametrize("impl", BOTH)
def test_second_backward_on_a_retained_graph(impl, device):
    v, target, codebook = problem(5, 40, 16, device=device)
    v.requires_grad_()
    loss = cosine_codebook_loss(v, target, codebook, impl=impl)
    first = torch.autograd.grad(3 * loss, v, retain_graph=True)[0]
    second = torch.autograd.grad(3 * loss, v)[0]
    assert torch.equal(first, second)


def test_double_backward_is_refused():
    v, target, codebook = problem(5, 40, 16)
    v.requires_grad_()
    loss = cosine_codebook_loss(v, target, codebook)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, v, create_graph=True)


@pytest.mark.parametrize("impl", BOTH)
def test_bitwise_repeatable(impl, device):
    v, target, codebook = problem(37, 101, 24, device=device)
    runs = []
    for _ in range(2):
        leaf = v.clone().requires_grad_()
        loss = cosine_codebook_loss(leaf, target, codebook, reduction="none", impl=impl)
        loss.sum().backward()
        runs.append((loss, leaf.grad))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("dense", [False, True])
def test_rows_far_from_every_class_keep_their_digits(dense):
    # scale 500: below the bound of the blocked sweep, sums of exponentials underflow to zero in float32.
    v, target, codebook = problem(37, 101, 24, dense)
    exact = truth(v, target, codebook, torch.ones(37), scale=500.0)
    v.requires_grad_()
    loss, lse = cosine_codebook_loss(v, target, codebook, scale=500.0, reduction="none", return_lse=True, impl="cpu")
    loss.sum().backward()
    codebook_bounds(v, codebook, scale=500.0).check(lse, exact[1], v.grad, exact[2])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dense", [False, True])
def test_rows_far_from_every_class_count_in_reductions(dense, reduction):
    """The rows that are swept a second time change the sum of the losses, and their gradients are divided as all others are."""
    v, target, codebook = problem(37, 101, 24, dense)
    found, exact = v.clone().requires_grad_(), v.double().requires_grad_()
    loss = cosine_codebook_loss(found, target, codebook, scale=500.0, reduction=reduction, impl="cpu")
    true = reference.cosine_codebook_loss(exact, target.double() if dense else target, codebook, scale=500.0, reduction=reduction)
    loss.backward()
    true.backward()
    labelled = int((target.sum(1) > 0).sum() if dense else (target != -100).sum())
    bounds = codebook_bounds(v, codebook, 1 / labelled if reduction == "mean" else 1.0, scale=500.0)
    check(loss, true, (1 if reduction == "mean" else 37) * bounds.loss + sum_error(37) * true.item())
    check(found.grad, exact.grad, bounds.gradient)


@pytest.mark.parametrize("dense", [False, True])
def test_more_than_one_block_of_classes(dense, monkeypatch):
    monkeypatch.setattr("orthohash_triton.kernels.cpu.cosine_codebook_loss.LOGITS_AT_A_TIME", 1)
    v, target, codebook = problem(37, 201, 24, dense)
    exact = truth(v, target, codebook, torch.ones(37))
    v.requires_grad_()
    loss = cosine_codebook_loss(v, target, codebook, reduction="none", impl="cpu")
    loss.sum().backward()
    codebook_bounds(v, codebook).check(loss, exact[0], v.grad, exact[2])


def test_no_gradient_is_computed_where_none_is_asked_for():
    v, target, codebook = problem(37, 101, 24)
    with torch.no_grad():
        loss = cosine_codebook_loss(v.requires_grad_(), target, codebook)
    assert not loss.requires_grad
    check(loss, cosine_codebook_loss(v, target, codebook).detach().double(), 2 * codebook_bounds(v, codebook).loss)


def test_no_rows():
    codebook = torch.ones(4, 16, dtype=torch.int8)
    v, target = torch.zeros(0, 16, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    loss = cosine_codebook_loss(v, target, codebook, reduction="sum")
    loss.backward()
    assert loss == 0
    assert v.grad.shape == (0, 16)
    assert cosine_codebook_loss(v, target, codebook, reduction="none").shape == (0,)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("need_lse_grad", [False, True])
def test_opcheck(need_lse_grad, reduction):
    v, target, codebook = problem(5, 7, 16)
    options = (4.0, 0.2, False, 0.1, -100, 2, "cpu", reduction, True, need_lse_grad)
    torch.library.opcheck(
        codebook_loss.op, (v.requires_grad_(), None, None, None, None, False, "", target, None, None, codebook, *options)
    )


def test_compiles_into_one_graph():
    v, target, codebook = problem(37, 101, 24)

    def step(v):
        return cosine_codebook_loss(2 * v, target, codebook, label_smoothing=0.1)

    eager = v.clone().requires_grad_()
    step(eager).backward()
    compiled = v.clone().requires_grad_()
    loss = torch.compile(step, fullgraph=True, backend="aot_eager")(compiled)
    loss.backward()
    torch.testing.assert_close(compiled.grad, eager.grad)


def test_autocast_leaves_the_loss_in_float32():
    features, layer = torch.randn(9, 12), torch.nn.Linear(12, 16)
    _, target, codebook = problem(9, 7, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cosine_codebook_loss(layer(features), target, codebook)
        latent = layer(features).float()
        plain, lse = cosine_codebook_loss(latent, target, codebook, impl="reference", return_lse=True)
    assert loss.dtype == plain.dtype == lse.dtype == torch.float32
    check(loss, plain.detach().double(), 2 * codebook_bounds(latent, codebook).loss)
    loss.backward()
    assert layer.weight.grad.isfinite().all()


def test_margin_zero_and_scale_one_is_plain_cross_entropy():
    v, target, codebook = problem(37, 101, 24)
    logits = F.normalize(v) @ codebook.float().T / math.sqrt(24)
    torch.testing.assert_close(cosine_codebook_loss(v, target, codebook, scale=1.0, margin=0.0), F.cross_entropy(logits, target))


def bad(**changes):
    v, target, codebook = problem(5, 7, 16)
    return {"v": v, "target": target, "codebook": codebook} | changes


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (bad(v=[1.0]), TypeError, r"v must be a tensor \[N, K\].*got list"),
        (bad(v=torch.zeros(5, 16, dtype=torch.int64)), TypeError, r"v must be.*int64 \[5, 16\].*\.to\(torch\.float32\)"),
        (bad(v=torch.zeros(16)), ValueError, r"v must be a tensor \[N, K\].*\[16\]"),
        (bad(target=torch.zeros(5)), TypeError, r"target must be int64.*float32.*\.long\(\)"),
        (bad(target=torch.zeros(4, dtype=torch.int64)), ValueError, r"target must be int64 class ids \[5\].*\[4\]"),
        (bad(target=torch.tensor([0, 1, 2, 3, 7])), ValueError, r"target has class 7; expected ids from 0 to 6"),
        (bad(target=torch.tensor([0, 1, 2, 3, -1])), ValueError, r"target has class -1.*ignore_index = -100"),
        (bad(target=-torch.ones(5, 7)), ValueError, r"target has negative entries"),
        (bad(codebook=torch.ones(7, 16)), TypeError, r"codebook must be.*int8.*float32.*\.to\(torch\.int8\)"),
        (bad(codebook=torch.ones(7, 8, dtype=torch.int8)), ValueError, r"v has 16 bits, the codebook is \[7, 8\].*make_codebook"),
        (
            bad(codebook=torch.zeros(7, 16, dtype=torch.int8)),
            ValueError,
            r"codebook must hold \+1 and -1 only.*\[0\].*2 \* bits - 1",
        ),
        (bad(codebook=torch.ones(7, 16, dtype=torch.int8, device="meta")), ValueError, r"codebook is on meta, v on cpu"),
        (bad(scale=0.0), ValueError, r"scale must be positive.*0\.0"),
        (bad(scale=-1.0), ValueError, r"scale must be positive.*-1\.0"),
        (bad(scale=float("nan")), ValueError, r"scale must be positive.*nan"),
        (bad(margin="0.2"), TypeError, "margin must be a number; got str '0.2'"),
        (bad(label_smoothing=None), TypeError, "label_smoothing must be a number; got NoneType"),
        (bad(ignore_index=None), TypeError, "ignore_index must be an integer; got NoneType"),
        (bad(margin=-0.1), ValueError, r"margin must be between 0 and 2; got -0\.1"),
        (bad(label_smoothing=-0.1), ValueError, r"label_smoothing must be in \[0, 1\); got -0\.1"),
        (bad(target=torch.full((5, 7), float("nan"))), ValueError, r"target has entries that are NaN or infinite"),
        (bad(target=torch.zeros(5, dtype=torch.int64, device="meta")), ValueError, r"target is on meta, v on cpu"),
        (bad(margin=2.5), ValueError, r"margin must be between 0 and 2; got 2\.5"),
        (bad(margin_type="arc"), ValueError, r"margin_type must be one of 'cosine', 'angular'; got 'arc'"),
        (bad(label_smoothing=1.0), ValueError, r"label_smoothing must be in \[0, 1\); got 1\.0"),
        (bad(reduction="avg"), ValueError, r"reduction must be one of 'none', 'mean', 'sum'; got 'avg'"),
        (bad(precision="tf32"), ValueError, r"precision must be one of 'highest', 'high'; got 'tf32'"),
        (bad(impl="cuda"), ValueError, r"impl must be one of auto, triton, cpu, reference; got 'cuda'"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match="cosine_codebook_loss: " + message):
        cosine_codebook_loss(arguments.pop("v"), arguments.pop("target"), arguments.pop("codebook"), **arguments)


def test_a_codebook_that_was_written_to_is_checked_again():
    v, target, codebook = problem(5, 7, 16)
    cosine_codebook_loss(v, target, codebook)
    codebook[3, 3] = 5
    with pytest.raises(ValueError, match=r"codebook must hold"):
        cosine_codebook_loss(v, target, codebook)


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("latent", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.int32, torch.bool])
def test_dense_targets_of_any_dtype(latent, kind, impl, device):
    """Multi-hot rows made by NumPy are float64."""
    v, _, codebook = problem(9, 11, 24, device=device)
    target = (torch.rand(9, 11, device=device) < 0.3).float()
    target[:, 0] = 1
    found = []
    for rows in (target, target.to(kind)):
        leaf = v.to(latent).requires_grad_()
        loss = cosine_codebook_loss(leaf, rows, codebook, label_smoothing=0.1, impl=impl)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    bounds = codebook_bounds(v, codebook, 2 / len(v), label_smoothing=0.1)
    rounding = torch.finfo(latent).eps * found[0][1].abs().max().item()
    check(found[1][0], found[0][0].double(), 2 * bounds.loss)
    check(found[1][1], found[0][1].double(), bounds.gradient + rounding)
