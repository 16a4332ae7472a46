"""Tests of householder_apply and householder_product against a chain of reflections in float64, and as PyTorch ops."""

import math

import pytest
import torch

from orthohash_triton.ops.householder import _householder, householder_apply, householder_product
from orthohash_triton.reference import householder as reference
from tests.implementations import BOTH
from tests.operators import operators_and_launches
from tests.ops.bounds import check, reflection_bounds
from tests.tolerances import sum_error, unit_roundoff

# (N, M, K): one row; few reflections (by factors on a CPU), ragged everything, more than one block of rows; as many reflections
# as dimensions, whole tiles; more of them than dimensions; more than one tile of dimensions.
SHAPES = [(1, 9, 9), (70, 3, 21), (64, 32, 32), (5, 20, 8), (5, 130, 130)]


def problem(rows, count, bits, device="cpu"):
    """Return x, vectors of lengths from 0.001 to 1,000, and the gradient of the result."""
    generator = torch.Generator().manual_seed(rows + count + bits)
    x, g = torch.randn(2, rows, bits, generator=generator)
    vectors = torch.randn(count, bits, generator=generator) * torch.logspace(-3, 3, count)[:, None]
    return x.to(device), vectors.to(device), g.to(device)


def gradients(function, x, vectors, g, **keywords):
    """Return the result, and the gradients of x and of the vectors, all in float64."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, vectors)]
    y = function(*leaves, **keywords)
    found = torch.autograd.grad(y, leaves, g.to(y.dtype))
    return [tensor.detach().double() for tensor in (y, *found)]


def check_gradients(found, exact, x, vectors, g, **keywords):
    """Compare a result, the gradient of x and that of the vectors with exact ones, within bounds from the sums behind them.

    The gradient of a vector is inversely proportional to its length, with which it is multiplied first.
    """
    bounds = reflection_bounds(x, vectors, g, **keywords)
    lengths = vectors.detach().double().norm(dim=1, keepdim=True)
    for ours, true, factor, bound in zip(found, exact, (1, 1, lengths), bounds, strict=True):
        check(factor * ours.detach().double(), factor * true, bound)


def relative_error(ours, exact):
    return float((ours - exact).abs().max() / exact.abs().max())


def test_reference_by_hand():
    # The first reflection swaps the signs of dimension 0; the second, along (1, 1), swaps the dimensions and their signs.
    x = torch.tensor([[3.0, 5.0]], dtype=torch.float64)
    vectors = torch.tensor([[2.0, 0.0], [7.0, 7.0]], dtype=torch.float64)
    torch.testing.assert_close(reference.householder_apply(x, vectors), torch.tensor([[-5.0, 3.0]], dtype=torch.float64))
    product = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)  # row 0 is the image of (1, 0)
    torch.testing.assert_close(reference.householder_product(vectors), product)


def test_reference_against_explicit_matrices():
    x, vectors, _ = (tensor.double() for tensor in problem(4, 5, 6))
    expected = x
    for u in vectors:
        expected = expected @ (torch.eye(6, dtype=torch.float64) - 2 * torch.outer(u, u) / u.dot(u))
    torch.testing.assert_close(reference.householder_apply(x, vectors), expected)


def test_reference_gradcheck():
    x, vectors, _ = (tensor.double() for tensor in problem(3, 4, 5))
    vectors = torch.nn.functional.normalize(vectors)
    assert torch.autograd.gradcheck(reference.householder_apply, (x.requires_grad_(), vectors.requires_grad_()))


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("shape", SHAPES)
def test_result_and_gradients(shape, impl, device):
    x, vectors, g = problem(*shape, device)
    exact = gradients(reference.householder_apply, x.double(), vectors.double(), g.double())
    check_gradients(gradients(householder_apply, x, vectors, g, impl=impl), exact, x, vectors, g)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("argument", "results"), [(0, (0, 2)), (1, (0, 1, 2)), (2, (1, 2))], ids=["x", "vectors", "g"])
def test_the_bounds_notice_an_argument_in_half_precision(shape, argument, results):
    """Half precision has 13 bits less than float32. Every result that depends on the argument must leave its bounds."""
    arguments = problem(*shape)
    exact = gradients(reference.householder_apply, *(tensor.double() for tensor in arguments))
    damaged = [tensor.half().float() if place == argument else tensor for place, tensor in enumerate(arguments)]
    found = gradients(householder_apply, *damaged)
    for result in results:
        one_wrong = [found[place] if place == result else exact[place] for place in range(3)]
        with pytest.raises(AssertionError):
            check_gradients(one_wrong, exact, *arguments)


@pytest.mark.parametrize("shape", SHAPES)
def test_float64_is_float64(shape):
    x, vectors, g = (tensor.double() for tensor in problem(*shape))
    exact = gradients(reference.householder_apply, x, vectors, g)
    found = gradients(householder_apply, x, vectors, g)
    check_gradients(found, exact, x, vectors, g, dtype=torch.float64, sides=2)


@pytest.mark.parametrize("shape", SHAPES)
def test_product(shape):
    _, vectors, _ = problem(*shape)
    g = torch.randn(shape[2], shape[2])
    exact = gradients(lambda _, u: reference.householder_product(u) + 0 * _.sum(), g.double(), vectors.double(), g.double())
    found = gradients(lambda _, u: householder_product(u) + 0 * _.sum(), g, vectors, g)
    # The matrix is computed in float64 and rounded once. In a product of two columns of length 1 both are rounded.
    assert relative_error(found[0], exact[0]) < 1.01 * unit_roundoff()
    check_gradients([found[0], found[0], found[2]], [exact[0], exact[0], exact[2]], torch.eye(shape[2]), vectors, g)
    matrix = householder_product(vectors).double()
    assert (matrix.T @ matrix - torch.eye(shape[2])).abs().max() < 2.01 * unit_roundoff()
    assert householder_product(vectors.double()).dtype == torch.float64
    assert householder_product(vectors.half()).dtype == torch.float32


# Nearly parallel vectors, where the triangle is far from diagonal; nearly axes, where training starts and entries of R nearly
# cancel.
@pytest.mark.parametrize(
    ("around", "impl"), [("one vector", "cpu"), ("the axes", "cpu"), pytest.param("the axes", "triton", marks=pytest.mark.kernel)]
)
def test_no_worse_than_the_chain_in_float32(around, impl, device):
    bits = 32
    x, _, g = problem(33, bits, bits, device)
    centre = torch.ones(bits, bits) if around == "one vector" else torch.eye(bits)
    vectors = (centre + 0.01 * torch.randn(bits, bits)).to(device)
    exact = gradients(reference.householder_apply, x.double(), vectors.double(), g.double())
    chain = gradients(reference.householder_apply, x, vectors, g)
    found = gradients(householder_apply, x, vectors, g, impl=impl)
    for ours, theirs, true in zip(found, chain, exact, strict=True):
        assert relative_error(ours, true) < max(relative_error(theirs, true), sum_error(bits))


@pytest.mark.parametrize("impl", BOTH)
def test_rows_of_very_different_size_each_have_float32_accuracy(impl, device):
    x, vectors, _ = problem(40, 12, 12, device)
    x = x * torch.logspace(-30, 30, 40, device=device)[:, None]
    exact = reference.householder_apply(x.double(), vectors.double())
    found = householder_apply(x, vectors, impl=impl).double()
    lengths = x.double().norm(dim=1, keepdim=True)
    check(found / lengths, exact / lengths, reflection_bounds(x.double() / lengths, vectors, x).result)


@pytest.mark.parametrize("impl", BOTH)
def test_float32_rows_and_float64_vectors(impl, device):
    x, vectors, g = problem(9, 10, 10, device)
    exact = gradients(reference.householder_apply, x.double(), vectors.double(), g.double())
    leaves = [x.clone().requires_grad_(), vectors.double().requires_grad_()]
    y = householder_apply(*leaves, impl=impl)
    found = [y, *torch.autograd.grad(y, leaves, g)]
    assert [tensor.dtype for tensor in found] == [torch.float32, torch.float32, torch.float64]
    check_gradients(found, exact, x, vectors, g)


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_no_worse_than_eager(dtype, impl, device):
    x, vectors, g = (tensor.to(dtype) for tensor in problem(37, 12, 12, device))
    exact = gradients(reference.householder_apply, x.double(), vectors.double(), g.double())
    eager = gradients(reference.householder_apply, x, vectors, g)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, vectors)]
    y = householder_apply(*leaves, impl=impl)
    found = [y, *torch.autograd.grad(y, leaves, g)]
    assert [tensor.dtype for tensor in found] == [dtype] * 3
    bounds = reflection_bounds(x, vectors, g)
    by_length = bounds.vectors / vectors.double().norm(dim=1, keepdim=True)
    for ours, theirs, true, bound in zip(found, eager, exact, (bounds.result, bounds.x, by_length), strict=True):
        ulp = torch.finfo(dtype).eps * true.abs()  # the interpreter truncates where hardware rounds to nearest
        assert ((ours.detach().double() - true).abs() <= (theirs - true).abs() + ulp + bound).all()


@pytest.mark.parametrize("bits", [10, 40])
def test_zero_vectors_reflect_nothing(bits):
    x, vectors, g = problem(9, 6, bits)
    with_zeros = torch.cat((vectors[:3], torch.zeros(2, bits), vectors[3:]))
    plain, padded = (gradients(householder_apply, x, u, g) for u in (vectors, with_zeros))
    assert (padded[2][3:5] == 0).all()
    padded[2] = torch.cat((padded[2][:3], padded[2][5:]))
    check_gradients(padded, plain, x, vectors, g, sides=2)


@pytest.mark.kernel
def test_many_rows_a_program(device):
    """Two programs process several blocks of rows each, with an incomplete last one, as on a device with one processor."""
    pytest.importorskip("triton")
    from orthohash_triton.kernels._device import A100, assume_device

    x, vectors, g = problem(300, 10, 10, device)
    x[128:192] *= 1000  # blocks of different scale
    exact = gradients(reference.householder_apply, x.double(), vectors.double(), g.double())
    with assume_device(A100._replace(multiprocessors=1)):
        found = gradients(householder_apply, x, vectors, g, impl="triton")
    check_gradients(found, exact, x, vectors, g)


@pytest.mark.parametrize("impl", BOTH)
def test_no_reflection(impl, device):
    x, g = torch.randn(2, 5, 6, device=device)
    y, x_gradient, vectors_gradient = gradients(householder_apply, x, torch.zeros(0, 6, device=device), g, impl=impl)
    bounds = reflection_bounds(x, torch.zeros(0, 6), g)
    check(y, x, bounds.result)
    check(x_gradient, g, bounds.x)
    assert vectors_gradient.shape == (0, 6)


@pytest.mark.parametrize("impl", BOTH)
def test_gradient_of_one_argument_only(impl, device):
    x, vectors, g = problem(9, 10, 10, device)
    both = gradients(householder_apply, x, vectors, g, impl=impl)
    for position in (0, 1):
        leaves = [x.clone(), vectors.clone()]
        leaves[position].requires_grad_()
        (alone,) = torch.autograd.grad(householder_apply(*leaves, impl=impl), leaves[position], g)
        torch.testing.assert_close(alone.double(), both[1 + position], rtol=0, atol=0)


@pytest.mark.parametrize("impl", BOTH)
def test_strides(impl, device):
    """The test covers every other row and column, the expanded gradient of a sum, and vectors that are columns."""
    x, vectors, _ = problem(18, 12, 12, device)
    wide = torch.zeros(36, 24, device=device)
    wide[::2, ::2] = x
    columns = vectors.T.contiguous().T
    results = []
    for rows, u in ((x, vectors), (wide[::2, ::2], columns)):
        leaves = [rows.detach().requires_grad_(), u.detach().requires_grad_()]
        results.append(torch.autograd.grad(householder_apply(*leaves, impl=impl).sum(), leaves))
    check_gradients([x, *results[1]], [x.double(), *results[0]], x, vectors, torch.ones_like(x), sides=2)


@pytest.mark.parametrize("impl", BOTH)
@pytest.mark.parametrize("count", [2, 10])
def test_no_rows(count, impl, device):
    x, vectors, g = problem(0, count, 10, device)
    y, x_gradient, vectors_gradient = gradients(householder_apply, x, vectors, g, impl=impl)
    assert y.shape == x_gradient.shape == (0, 10)
    assert (vectors_gradient == 0).all()


@pytest.mark.filterwarnings("ignore:invalid value")  # from NumPy in the interpreter
@pytest.mark.parametrize("impl", BOTH)
def test_nan_stays_in_its_row(impl, device):
    x, vectors, _ = problem(9, 10, 10, device)
    x[3, 2], x[5, 1] = float("nan"), float("inf")
    found = householder_apply(x, vectors, impl=impl)
    assert torch.equal(found.isfinite().all(1), x.isfinite().all(1))


@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("function", ["apply", "product"])
def test_autocast_leaves_products_alone(function, count):
    x, vectors, g = problem(9, count, 10)
    run = householder_apply if function == "apply" else lambda x, u: householder_product(u) + 0 * x.sum()
    g = g if function == "apply" else torch.randn(10, 10)
    expected = gradients(run, x, vectors, g)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(run, x, vectors, g)
    for ours, true in zip(found, expected, strict=True):
        assert torch.equal(ours, true)


@pytest.mark.parametrize("count", [2, 10])
def test_opcheck(count):
    x, vectors, _ = problem(9, count, 10)
    for rows, u in ((x, vectors.requires_grad_()), (x.clone().requires_grad_(), vectors), (None, vectors)):
        torch.library.opcheck(_householder.op, (rows, u, "cpu"))


@pytest.mark.parametrize("count", [2, 10])
def test_compiles_into_one_graph(count):
    x, vectors, g = problem(9, count, 10)

    def both(x, u):
        return householder_apply(x, u) @ householder_product(u)

    expected = gradients(both, x, vectors, g)
    found = gradients(torch.compile(both, fullgraph=True, backend="aot_eager"), x, vectors, g)
    for ours, true in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, true)


def test_no_second_derivative_but_in_the_reference():
    x, vectors, _ = (tensor.requires_grad_() for tensor in problem(4, 5, 5))
    with pytest.raises(RuntimeError, match=r"householder_apply has no second derivative"):
        torch.autograd.grad(householder_apply(x, vectors).square().sum(), vectors, create_graph=True)
    (gradient,) = torch.autograd.grad(
        householder_apply(x, vectors, impl="reference")[:, 0].square().sum(), vectors, create_graph=True
    )
    assert torch.autograd.grad(gradient.square().sum(), x)[0].isfinite().all()


@pytest.mark.parametrize(
    ("x", "vectors", "error", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(2, 4), TypeError, r"x must be a tensor \[N, K\].*got int64"),
        (torch.zeros(3), torch.zeros(2, 4), ValueError, r"x must be a tensor \[N, K\]"),
        (torch.zeros(3, 4), [[1.0]], TypeError, r"vectors must be a tensor \[M, K\]"),
        (torch.zeros(3, 0), torch.zeros(2, 0), ValueError, r"vectors must have at least one dimension"),
        (torch.zeros(3, 4), torch.zeros(2, 5), ValueError, r"x has 4 dimensions, vectors 5; got x \[3, 4\] and vectors \[2, 5\]"),
        (torch.zeros(3, 4), torch.zeros(2, 4, device="meta"), ValueError, r"vectors is on meta, x on cpu"),
    ],
)
def test_bad_input(x, vectors, error, message):
    with pytest.raises(error, match=f"householder_apply: {message}"):
        householder_apply(x, vectors)


def test_bad_input_of_the_product():
    with pytest.raises(TypeError, match=r"householder_product: vectors must be a tensor \[M, K\].*got int64"):
        householder_product(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"householder_product: impl must be one of"):
        householder_product(torch.zeros(2, 4), impl="gpu")


@pytest.mark.kernel
def test_float64_is_refused_by_triton(device):
    x = torch.zeros(3, 4, dtype=torch.float64, device=device)
    with pytest.raises(
        TypeError, match=r'householder_apply: x is float64, which the Triton kernels do not take.*impl="reference"'
    ):
        householder_apply(x, x, impl="triton")


def test_length_of_the_vectors_does_not_matter():
    x, vectors, _ = problem(9, 10, 10)
    factors = 2.0 ** torch.arange(-5, 5)
    torch.testing.assert_close(householder_apply(x, vectors * factors[:, None]), householder_apply(x, vectors), rtol=0, atol=0)
    lengths = (rows.double().norm(dim=1) for rows in (householder_apply(x, vectors), x))
    check(*lengths, math.sqrt(10) * reflection_bounds(x, vectors, x).result)


def test_a_step_on_a_gpu_waits_for_nothing():
    pytest.importorskip("triton")
    x, vectors, g = problem(40, 24, 24)
    leaves = [tensor.requires_grad_() for tensor in (x, vectors)]
    operators, launches = operators_and_launches(
        lambda: torch.autograd.grad(householder_apply(x, vectors, impl="triton"), leaves, g)
    )
    products = {"mm": 3, "addmm": 2, "addmm_": 1, "linalg_solve_triangular": 2}
    assert operators == products | {"eye": 1, "_to_copy": 1, "triu_": 1, "add": 1}
    backward = ["_apply_kernel", "_outer_kernel", "_vectors_gradient_kernel"]
    assert launches == ["_reflectors_kernel", "_apply_kernel", *backward]
