"""Tests of the loss kernel's launcher against the float64 reference: sparse targets, chunks of classes, precision "high"."""

import pytest
import torch

pytest.importorskip("triton")

from orthohash_triton.kernels import _codebook_dots, _codebook_finish, _codebook_sweep, launch
from orthohash_triton.kernels import cosine_codebook_loss as kernel

from orthohash_triton import reference

pytestmark = pytest.mark.kernel
LOSS, LSE, GRAD, LSE_GRAD = range(4)


@pytest.fixture
def launched(monkeypatch):
    """Return the list of (kernel, grid, P_TERMS) of every launch, which grows as kernels are launched."""
    seen = []

    def recording(jitted, grid, *args, **constexprs):
        seen.append((jitted.fn.__name__, grid, constexprs.get("P_TERMS")))
        launch.launch(jitted, grid, *args, **constexprs)

    for module in (_codebook_dots, _codebook_sweep, _codebook_finish):
        monkeypatch.setattr(module, "launch", recording)
    return seen


def problem(rows, classes, bits, kind, device):
    """Return latents, half of which are near a code, with their target and codebook.

    A dense target has several positives per row: the first row has one in every 21st class, the third row none. An entry of
    weight 0 is not a positive.
    """
    generator = torch.Generator().manual_seed(rows + classes + bits)
    codebook = torch.randint(0, 2, (classes, bits), generator=generator, dtype=torch.int8) * 2 - 1
    ids = torch.randint(0, classes, (rows,), generator=generator)
    v = torch.randn(rows, bits, generator=generator)
    v[::2] += 2 * codebook[ids[::2]]
    if kind == "ids":
        return v.to(device), ids.to(device), codebook.to(device)
    target = (torch.rand(rows, classes, generator=generator) < 2 / classes) * torch.rand(rows, classes, generator=generator)
    target[torch.arange(rows), ids] = 0.5
    target[0, ::21] = 0.25
    if rows > 2:
        target[2] = 0
    return v.to(device), target.to(device), codebook.to(device)


def run(v, target, codebook, *, sparse=False, p_terms=2, scale=None, margin=0.2, margin_type="cosine", label_smoothing=0.0):
    """Return loss [N], lse [N] and their gradients [N, K] from the launcher."""
    columns = values = None
    if sparse:
        stored = target.clone()
        some = torch.arange(target.shape[1], device=v.device) % 16 == 5
        stored[-1, some & (stored[-1] == 0)] = 2.0  # stored entries that are not positives
        stored = stored.to_sparse_csr()
        values = torch.where(stored.values() == 2.0, 0.0, stored.values())
        target, columns = stored.crow_indices(), stored.col_indices()
    out = [torch.empty(shape, device=v.device) for shape in [(len(v),), (len(v),), v.shape, v.shape]]
    kernel.cosine_codebook_loss(
        v, None, None, None, None, target, columns, values, kernel.prepare(codebook), *out,
        p_terms=p_terms, scale=v.shape[1] ** 0.5 if scale is None else scale, margin=margin, angular=margin_type == "angular",
        label_smoothing=label_smoothing, ignore_index=-100, need_grad=True, need_lse_grad=True,
    )  # fmt: skip
    return out


def truth(v, target, codebook, dtype=torch.float64, **keywords):
    v = v.to(dtype).requires_grad_()
    target = target.to(dtype) if target.ndim == 2 else target
    loss, lse = reference.cosine_codebook_loss(v, target, codebook, reduction="none", return_lse=True, **keywords)
    grads = (torch.autograd.grad(x.sum(), v, retain_graph=True)[0] for x in (loss, lse))
    return [loss.detach(), lse.detach(), *grads]


def error_of(ours, expected):
    return float((ours.double() - expected).abs().max() / expected.abs().max())


def check(found, exact, tolerance):
    for ours, expected in zip(found, exact, strict=True):
        assert error_of(ours, expected) < tolerance, error_of(ours, expected)


OPTIONS = dict(scale=9.5, margin=0.35, margin_type="angular", label_smoothing=0.2)


# One split; several, so that a split starts inside a row's entries.
@pytest.mark.parametrize(("shape", "keywords"), [((37, 101, 24), {}), ((5, 330, 16), OPTIONS)], ids=["default", "every option"])
def test_sparse_target_is_the_dense_one(shape, keywords, device, launched):
    v, target, codebook = problem(*shape, "dense", device)
    found = run(v, target, codebook, sparse=True, **keywords)
    check(found, truth(v, target, codebook, **keywords), 1e-6)
    assert found[LOSS][2] == 0
    assert not found[GRAD][2].any()
    names = [name for name, *_ in launched]
    assert names == ["_sweep_kernel", "_finish_kernel"]


def test_ids_are_sparse_rows_of_one_entry(device):
    v, ids, codebook = problem(5, 330, 24, "ids", device)
    target = torch.nn.functional.one_hot(ids, 330).float()
    for by_ids, by_entries in zip(run(v, ids, codebook), run(v, target, codebook, sparse=True), strict=True):
        assert torch.equal(by_ids, by_entries)


@pytest.mark.parametrize("columns", [[1, 1], [4, 2], [0, 30], [-1, 3]], ids=["twice", "descending", "past the end", "negative"])
def test_columns_that_make_no_row_are_nan_and_harm_no_other(columns, device):
    v, _, codebook = problem(3, 30, 16, "ids", device)
    starts = torch.tensor([0, 1, 3, 4], device=device)
    columns = torch.tensor([5, *columns, 7], device=device)
    out = [torch.empty(shape, device=device) for shape in [(3,), (3,), v.shape, v.shape]]
    kernel.cosine_codebook_loss(
        v, None, None, None, None, starts, columns, torch.ones(4, device=device), kernel.prepare(codebook), *out,
        p_terms=2, scale=4.0, margin=0.2, angular=False, label_smoothing=0.0, ignore_index=-100,
        need_grad=True, need_lse_grad=True,
    )  # fmt: skip
    by_id = run(v, torch.tensor([5, 0, 7], device=device), codebook)
    assert out[LOSS].isnan().tolist() == [False, True, False]
    assert out[GRAD].isnan().all(1).tolist() == [False, True, False]
    # Results are not equal bit for bit, because one launch suffices for ids and few classes.
    torch.testing.assert_close(out[LOSS][::2], by_id[LOSS][::2], rtol=1e-6, atol=0)


# More bits than one slice, that fill no slice; and the most. Three chunks: the state is carried twice.
@pytest.mark.parametrize(("bits", "kind"), [(600, "dense"), (1024, "ids"), (2048, "sparse")])
def test_chunks_of_classes(bits, kind, device, launched, monkeypatch):
    monkeypatch.setattr(kernel, "SCRATCH", 0)
    monkeypatch.setattr(kernel, "MIN_CHUNK", 128)
    v, target, codebook = problem(3, 300, bits, "ids" if kind == "ids" else "dense", device)
    found = run(v, target, codebook, sparse=kind == "sparse", **OPTIONS)
    exact, eager = (truth(v, target, codebook, dtype, **OPTIONS) for dtype in (torch.float64, torch.float32))
    for ours, expected, theirs in zip(found, exact, eager, strict=True):  # float32 itself errs by 1e-6 for logits of 9.5
        assert error_of(ours, expected) < max(1e-6, 1.5 * error_of(theirs, expected)), error_of(ours, expected)
    assert sum(name == "_dots_kernel" for name, *_ in launched) == 3


@pytest.mark.parametrize(("bits", "kind"), [(16, "ids"), (16, "dense"), (16, "sparse"), (600, "sparse")])
def test_precision_high(bits, kind, device, launched):
    v, target, codebook = problem(5, 330, bits, "ids" if kind == "ids" else "dense", device)
    keywords = dict(scale=bits**0.5 / 4, label_smoothing=0.1)
    found = run(v, target, codebook, sparse=kind == "sparse", p_terms=1, **keywords)
    exact = truth(v, target, codebook, **keywords)
    check(found[:LSE_GRAD], exact[:LSE_GRAD], 1e-4)
    check(found[LSE_GRAD:], exact[LSE_GRAD:], 5e-4)  # only the mean code, in which +-1 cancels
    assert {p_terms for name, _, p_terms in launched if name == "_sweep_kernel"} == {1}
    assert (found[LSE].double() - exact[LSE]).abs().max() > 0


@pytest.mark.parametrize("bits", [64, 600])
def test_precision_high_where_few_classes_hold_the_sum(bits, device):
    # Every row lies on the code of its class, and three more classes have nearly that code: no rounding averages out.
    v, ids, codebook = problem(5, 330, bits, "ids", device)
    for row in range(5):
        codebook[100 + row : 115 + row : 5] = codebook[ids[row]]
        codebook[100 + row : 115 + row : 5, row] *= -1
    v = codebook[ids] + 0.1 * torch.randn(5, bits, device=device)
    found = run(v, ids, codebook, p_terms=1, scale=20.0, margin=0.0)
    check(found, truth(v, ids, codebook, scale=20.0, margin=0.0), 1e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_near_a_positive_code_behind_an_angular_margin(sparse, device):
    """The slope of the margin, sin(margin) divided by the sine of a small angle, is at least 4, and p times it must fit fp16."""
    v, ids, codebook = problem(5, 70, 64, "ids", device)
    v = codebook[ids] + 0.1 * torch.randn(5, 64, device=device)
    target = torch.nn.functional.one_hot(ids, 70).float()
    keywords = dict(margin=0.3, margin_type="angular")
    found, exact = run(v, target, codebook, sparse=sparse, **keywords), truth(v, target, codebook, **keywords)
    check(found[:LSE_GRAD], exact[:LSE_GRAD], 1e-4)  # the sine of a small angle loses most bits of the cosine
