"""Tests that sparse targets of the codebook losses give the results of the equal dense targets."""

import pytest
import torch

from orthohash_triton._base import checks
from orthohash_triton.ops._codebook_loss_op import codebook_loss
from orthohash_triton.ops.cosine_codebook_loss import cosine_codebook_loss
from orthohash_triton.ops.orthohash_loss import orthohash_loss
from tests.implementations import BOTH
from tests.ops.bounds import check, codebook_bounds
from tests.ops.test_cosine_codebook_loss import problem, truth
from tests.tolerances import sum_error

# One row; ragged everything; whole tiles; more than one block of classes.
SHAPES = [(1, 2, 16), (37, 101, 24), (64, 128, 64), (9, 700, 40)]


def sparse_problem(rows, classes, bits, device="cpu"):
    """Return latents, a dense target with 0 to 5 positives per row (none in row 2), and a codebook."""
    v, _, codebook = problem(rows, classes, bits, device=device)
    generator = torch.Generator().manual_seed(rows)
    dense = torch.zeros(rows, classes)
    for n in range(rows):
        columns = torch.randperm(classes, generator=generator)[: n % 6]
        dense[n, columns] = torch.rand(len(columns), generator=generator) + 0.1
    dense[0, 0] = 0.7
    if rows > 2:
        dense[2] = 0
    return v, dense.to(device), codebook


def in_parts(dense, zeros_at=()):
    """Return crow_indices, col_indices and values, with explicit zeros at each (row, column) of `zeros_at`."""
    stored = dense.clone()
    for row, column in zeros_at:
        stored[row, column] = 1
    csr = stored.to_sparse_csr()
    values = dense[torch.arange(len(dense), device=dense.device).repeat_interleave(csr.crow_indices().diff()), csr.col_indices()]
    return csr.crow_indices(), csr.col_indices(), values


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("shape", SHAPES)
def test_as_the_dense_target(shape, impl, device):
    v, dense, codebook = sparse_problem(*shape, device=device)
    target = dense.to_sparse_csr()
    upstream = torch.randn(len(v), device=device)
    exact = truth(v, dense, codebook, upstream)
    v.requires_grad_()
    loss, lse = cosine_codebook_loss(v, target, codebook, reduction="none", return_lse=True, impl=impl)
    (loss * upstream).sum().backward()
    bounds = codebook_bounds(v, codebook, upstream)
    check(lse, exact[1], bounds.loss)
    bounds.check(loss, exact[0], v.grad, exact[2])


@pytest.mark.parametrize("impl", BOTH)
def test_every_option_at_once(impl, device):
    v, dense, codebook = sparse_problem(37, 101, 24, device=device)
    keywords = dict(scale=9.5, margin=0.35, margin_type="angular", label_smoothing=0.2)
    upstream, lse_upstream = torch.randn(2, len(v), device=device)
    exact = truth(v, dense, codebook, upstream, lse_upstream, **keywords)
    v.requires_grad_()
    target = in_parts(dense, zeros_at=[(0, 5), (2, 7), (3, 0)])
    loss, lse = cosine_codebook_loss(v, target, codebook, reduction="none", return_lse=True, impl=impl, **keywords)
    ((loss * upstream).sum() + (lse * lse_upstream).sum()).backward()
    codebook_bounds(v, codebook, upstream.abs() + lse_upstream.abs(), **keywords).check(loss, exact[0], v.grad, exact[2])


@pytest.mark.parametrize("impl", BOTH)
def test_one_entry_a_row_is_a_class_id(impl, device):
    v, ids, codebook = problem(37, 101, 24, device=device)
    ids = ids.clamp(min=0)
    target = (torch.arange(38, device=device), ids, torch.full((37,), 3.0, device=device))
    leaves = [v.clone().requires_grad_() for _ in range(2)]
    by_id = cosine_codebook_loss(leaves[0], ids, codebook, label_smoothing=0.1, impl=impl)
    sparse = cosine_codebook_loss(leaves[1], target, codebook, label_smoothing=0.1, impl=impl)
    by_id.backward()
    sparse.backward()
    bounds = codebook_bounds(v, codebook, 2 / len(v), label_smoothing=0.1)
    check(sparse, by_id.double(), 2 * bounds.loss)
    check(leaves[1].grad, leaves[0].grad.double(), bounds.gradient)


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions_leave_rows_without_weight_out(reduction, impl, device):
    v, dense, codebook = sparse_problem(37, 101, 24, device=device)
    leaf, exact = v.clone().requires_grad_(), v.double().requires_grad_()
    target = in_parts(dense, zeros_at=[(2, 7)])
    loss = cosine_codebook_loss(leaf, target, codebook, reduction=reduction, impl=impl)
    loss.backward()
    true = cosine_codebook_loss(exact, dense.double(), codebook, reduction=reduction, impl="reference")
    true.backward()
    rows = 1 if reduction == "mean" else len(v)
    counted = int((dense.sum(1) > 0).sum())
    bounds = codebook_bounds(v, codebook, 1 / counted if reduction == "mean" else 1.0)
    check(loss, true, rows * bounds.loss + sum_error(len(v)) * true.item())
    check(leaf.grad, exact.grad, bounds.gradient)


@pytest.mark.parametrize("impl", BOTH)
def test_no_entry_at_all(impl, device):
    v, dense, codebook = sparse_problem(5, 7, 16, device=device)
    target = torch.zeros_like(dense).to_sparse_csr()
    v.requires_grad_()
    assert cosine_codebook_loss(v, target, codebook, impl=impl).isnan()
    loss = cosine_codebook_loss(v, target, codebook, reduction="sum", impl=impl)
    loss.backward()
    assert loss == 0
    assert (v.grad == 0).all()


@pytest.mark.parametrize("impl", BOTH)
def test_every_class_positive(impl, device):
    v, _, codebook = problem(5, 40, 16, device=device)
    dense = torch.rand(5, 40, device=device) + 0.1
    exact = truth(v, dense, codebook, torch.ones(5, device=device))
    v.requires_grad_()
    loss = cosine_codebook_loss(v, dense.to_sparse_csr(), codebook, reduction="none", impl=impl)
    loss.sum().backward()
    codebook_bounds(v, codebook).check(loss, exact[0], v.grad, exact[2])


def test_through_batch_normalisation():
    latent, dense, codebook = sparse_problem(37, 101, 24)
    found = orthohash_loss(latent, dense.to_sparse_csr(), codebook)
    torch.testing.assert_close(found, orthohash_loss(latent.double(), dense.double(), codebook, impl="reference").float())


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float64])
def test_values_of_any_real_dtype(dtype):
    v, dense, codebook = sparse_problem(37, 101, 24)
    dense = (dense > 0).to(dtype)
    starts, columns, values = in_parts(dense)
    expected = cosine_codebook_loss(v, dense, codebook)
    torch.testing.assert_close(cosine_codebook_loss(v, (starts.int(), columns.int(), values), codebook), expected)


def test_coalesced_coo():
    v, dense, codebook = sparse_problem(37, 101, 24)
    found = cosine_codebook_loss(v, dense.to_sparse_coo(), codebook)
    assert torch.equal(found, cosine_codebook_loss(v, dense.to_sparse_csr(), codebook))


def test_reference_takes_it():
    v, dense, codebook = sparse_problem(37, 101, 24)
    for target in (dense.to_sparse_csr(), dense.to_sparse_coo(), in_parts(dense)):
        found = cosine_codebook_loss(v, target, codebook, impl="reference")
        assert torch.equal(found, cosine_codebook_loss(v, dense, codebook, impl="reference"))


@pytest.mark.parametrize("small_work", [0, 1 << 30])
def test_float64_and_both_ways_of_the_sweep(small_work, monkeypatch):
    monkeypatch.setattr("orthohash_triton.kernels.cpu.cosine_codebook_loss.SMALL_WORK", small_work)
    monkeypatch.setattr("orthohash_triton.kernels.cpu.cosine_codebook_loss.LOGITS_AT_A_TIME", 1)
    v, dense, codebook = sparse_problem(37, 201, 24)
    keywords = dict(margin_type="angular", label_smoothing=0.1)
    exact = truth(v, dense, codebook, torch.ones(37), **keywords)
    bounds = codebook_bounds(v, codebook, **keywords)
    for dtype, allowed in ((torch.float32, bounds), (torch.float64, bounds.in_float64())):
        leaf = v.to(dtype, copy=True).requires_grad_()
        loss = cosine_codebook_loss(leaf, in_parts(dense.double()), codebook, reduction="none", impl="cpu", **keywords)
        loss.sum().backward()
        allowed.check(loss, exact[0], leaf.grad, exact[2])


def test_rows_far_from_every_class_keep_their_digits():
    v, dense, codebook = sparse_problem(37, 101, 24)
    exact = truth(v, dense, codebook, torch.ones(37), scale=500.0)
    v.requires_grad_()
    loss, lse = cosine_codebook_loss(v, dense.to_sparse_csr(), codebook, scale=500.0, reduction="none", return_lse=True)
    loss.sum().backward()
    codebook_bounds(v, codebook, scale=500.0).check(lse, exact[1], v.grad, exact[2])


def test_a_million_classes():
    classes, ids = 1_000_000, torch.arange(8) * 100_000
    codebook = torch.randint(0, 2, (classes, 8), dtype=torch.int8) * 2 - 1
    v = torch.randn(8, 8)
    target = torch.sparse_csr_tensor(torch.arange(9), ids, torch.ones(8), (8, classes))
    found = cosine_codebook_loss(v, target, codebook)
    check(found, cosine_codebook_loss(v, ids, codebook).double(), 2 * codebook_bounds(v, codebook).loss)


def test_its_parts_compile_into_one_graph():
    v, dense, codebook = sparse_problem(37, 101, 24)
    parts = in_parts(dense)

    def step(v, *parts):
        return cosine_codebook_loss(2 * v, parts, codebook, label_smoothing=0.1)

    eager, compiled = v.clone().requires_grad_(), v.clone().requires_grad_()
    step(eager, *parts).backward()
    torch.compile(step, fullgraph=True, backend="aot_eager")(compiled, *parts).backward()
    torch.testing.assert_close(compiled.grad, eager.grad)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_opcheck(reduction):
    v, dense, codebook = sparse_problem(5, 7, 16)
    options = (4.0, 0.2, False, 0.1, -100, 2, "cpu", reduction, True, False)
    arguments = (v.requires_grad_(), None, None, None, None, False, "", *in_parts(dense), codebook, *options)
    torch.library.opcheck(codebook_loss.op, arguments)


def parts_of(starts, columns, values):
    return torch.tensor(starts), torch.tensor(columns), torch.tensor(values)


GOOD = ([0, 1, 2, 4], [0, 1, 2, 3], [1.0, 1.0, 1.0, 1.0])


def test_the_good_one_is_good():
    assert cosine_codebook_loss(torch.randn(3, 16), parts_of(*GOOD), torch.ones(7, 16, dtype=torch.int8)).isfinite()


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (torch.eye(3, 6).to_sparse_csr(), ValueError, r"a sparse target must be \[3, 7\]; got \[3, 6\]"),
        (torch.eye(3, 7).to_sparse_csc(), ValueError, r"must be torch.sparse_csr .*got torch.sparse_csc.*\.to_sparse_csr\(\)"),
        (
            torch.sparse_coo_tensor(torch.tensor([[0, 0], [1, 1]]), torch.ones(2), (3, 7)),
            ValueError,
            r"torch.sparse_coo, not coalesced.*\.coalesce\(\)",
        ),
        (-torch.eye(3, 7).to_sparse_csr(), ValueError, r"target has negative entries \(smallest -1\)"),
        (torch.eye(3, 7).mul(float("inf")).nan_to_num(posinf=float("inf")).to_sparse_csr(), ValueError, r"NaN or infinite"),
        (torch.eye(3, 7, dtype=torch.complex64).to_sparse_csr(), TypeError, r"target must be real"),
        (parts_of([0, 1, 2, 4], [0, 1, 3, 3], [1.0] * 4), ValueError, r"repeat or are out of order in row 2.*coalesce"),
        (parts_of([0, 2, 2, 4], [1, 0, 2, 3], [1.0] * 4), ValueError, r"repeat or are out of order in row 0"),
        (parts_of([0, 1, 2, 4], [0, 1, 2, 7], [1.0] * 4), ValueError, r"target has class 7; expected columns from 0 to 6"),
        (parts_of([0, 1, 2, 4], [-1, 1, 2, 3], [1.0] * 4), ValueError, r"target has class -1"),
        (
            parts_of([0, 2, 1, 4], [0, 1, 2, 3], [1.0] * 4),
            ValueError,
            r"crow_indices of target must rise from 0 to",
        ),
        (parts_of([0, 1, 2, 3], [0, 1, 2, 3], [1.0] * 4), ValueError, r"crow_indices of target must rise"),
        (parts_of([0, 1, 4], [0, 1, 2, 3], [1.0] * 4), ValueError, r"crow_indices \[4\].*got \[3\]"),
        (parts_of([0, 1, 2, 4], [0, 1, 2], [1.0] * 4), ValueError, r"as many col_indices as values"),
        (parts_of([0.0, 1.0, 2.0, 4.0], [0, 1, 2, 3], [1.0] * 4), TypeError, r"must be int64; got torch.float32"),
        ((torch.zeros(4), torch.zeros(1)), TypeError, r"\(crow_indices, col_indices, values\)"),
        (torch.eye(3, 7, device="meta"), ValueError, r"target is on meta, v on cpu"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_bad_input(target, error, message):
    with pytest.raises(error, match="cosine_codebook_loss: .*" + message):
        cosine_codebook_loss(torch.randn(3, 16), target, torch.ones(7, 16, dtype=torch.int8))


@pytest.mark.parametrize("small_work", [0, 1 << 30])
@pytest.mark.parametrize(
    ("target", "bad"),
    [
        (parts_of([0, 1, 2, 4], [0, 7, 2, 3], [1.0] * 4), 1),
        (parts_of([0, 1, 2, 4], [-1, 1, 2, 3], [1.0] * 4), 0),
        (parts_of([0, 1, 2, 4], [0, 1, 3, 3], [1.0] * 4), 2),
        (parts_of([0, 1, 2, 4], [0, -5, 2, 3], [1.0] * 4), 1),
        (parts_of([0, 1, 2, 4], [0, 1, 2, 3], [1.0, -1.0, 1.0, 1.0]), 1),
        (parts_of([0, 1, 2, 1 << 40], [0, 1, 2, 3], [1.0] * 4), 2),
        (parts_of([-(1 << 40), 1, 2, 4], [0, 1, 2, 3], [1.0] * 4), 0),
    ],
)
def test_on_a_cpu_entries_that_cannot_be_are_nan_where_values_are_not_checked(target, bad, small_work, monkeypatch):
    monkeypatch.setattr(checks, "may_read_values", lambda tensor: False)
    monkeypatch.setattr("orthohash_triton.kernels.cpu.cosine_codebook_loss.SMALL_WORK", small_work)
    v = torch.randn(3, 16, requires_grad=True)
    codebook = torch.randint(0, 2, (7, 16), dtype=torch.int8) * 2 - 1
    loss = cosine_codebook_loss(v, target, codebook, reduction="none")
    loss.sum().backward()
    nan_rows = torch.arange(3) == bad
    assert torch.equal(loss.isnan(), nan_rows)
    assert torch.equal(v.grad.isnan().all(1), nan_rows)
