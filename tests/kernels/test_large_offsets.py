"""Tests of rows whose distance exceeds 32-bit offsets, with tensors in sparse files."""

import pytest
import torch

pytest.importorskip("triton")

from orthohash_triton.kernels import (
    _codebook_dots,
    _codebook_finish,
    _codebook_sweep,
    _pairwise_prepare,
    _pairwise_sweep,
    batch_norm,
    cosine_codebook_loss,
    householder,
    launch,
    pack_codes,
)

pytestmark = pytest.mark.kernel

STRIDE = 2**30 + 3  # twice this number exceeds 32 bits
ROWS, BITS = 3, 20


@pytest.fixture
def far_apart(tmp_path, device):
    """Return a function that copies rows [3, K] to memory in which they are STRIDE numbers apart."""
    if device.type == "cuda":
        pytest.skip("a GPU's memory has no holes")

    def spread(rows, stride=STRIDE):
        size = (len(rows) - 1) * stride + rows.shape[1]
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        memory = torch.from_file(str(path), shared=True, size=size, dtype=rows.dtype)
        found = memory.as_strided(rows.shape, (stride, 1))
        found.copy_(rows)
        return found

    return spread


def test_packing(far_apart):
    x = torch.randn(ROWS, BITS)
    near, far = (torch.empty(ROWS, 3, dtype=torch.uint8) for _ in range(2))
    pack_codes.pack_codes(x, 0.0, near)
    pack_codes.pack_codes(far_apart(x), 0.0, far)
    assert torch.equal(near, far)
    signs = [torch.empty(ROWS, BITS, dtype=torch.int8) for _ in range(2)]
    pack_codes.unpack_codes(near, signs[0])
    pack_codes.unpack_codes(far_apart(near), signs[1])
    assert torch.equal(*signs)


def test_rotation(far_apart):
    x, matrix = torch.randn(ROWS, BITS), torch.linalg.qr(torch.randn(BITS, BITS)).Q
    far = far_apart(x)
    assert torch.equal(householder.apply(x, matrix, x.dtype), householder.apply(far, matrix, x.dtype))
    assert torch.equal(householder.outer(x, x, x.dtype), householder.outer(far, x, x.dtype))


def test_batch_statistics(far_apart):
    x = torch.randn(ROWS, BITS)
    for near, far in zip(batch_norm.statistics(x, 1, 1e-5), batch_norm.statistics(far_apart(x), 1, 1e-5), strict=True):
        assert torch.equal(near, far)


@pytest.mark.parametrize("dense", [False, True])
def test_loss(dense, far_apart):
    """Rows of a dense target are far apart. The launcher copies v, so separate tests of the kernels follow below."""
    v, codebook = torch.randn(ROWS, BITS), torch.randint(0, 2, (50, BITS), dtype=torch.int8) * 2 - 1
    target = torch.rand(ROWS, 50) if dense else torch.tensor([4, 0, 49])
    codes = cosine_codebook_loss.prepare(codebook)
    found = []
    for wanted in (target, far_apart(target) if dense else target):
        loss, lse, grad = torch.empty(ROWS), torch.empty(ROWS), torch.empty(ROWS, BITS)
        cosine_codebook_loss.cosine_codebook_loss(
            v, None, None, None, None, wanted, None, None, codes, loss, lse, grad, torch.empty(0, BITS),
            p_terms=2, scale=4.0, margin=0.2, angular=False, label_smoothing=0.0, ignore_index=-100,
            need_grad=True, need_lse_grad=False,
        )  # fmt: skip
        found.append((loss, lse, grad))
    for near, far in zip(*found, strict=True):
        assert torch.equal(near, far)
        assert near.isfinite().all()


# The kernels below get STRIDE as the number of bits of a row, so that rows are far apart, and a block of 32 bits, which is all
# that they read and write. Near and far rows must give the same numbers.
BLOCK = 32
WIDTHS = (BLOCK, STRIDE)


@pytest.fixture
def rows_of(far_apart):
    """Return a function (values [R, 32], width) -> tensor whose rows of 32 numbers are `width` numbers apart."""

    def place(values, width):
        return values.clone() if width == BLOCK else far_apart(values, width)

    return place


def launched(kernel, grid, *arguments, **constexprs):
    launch.launch(kernel, grid, *arguments, num_warps=4, num_stages=1, **constexprs)


OPTIONS = (4.0, 0.7, 0.2, 0.98, 0.2, -0.98, 0.0, -100)  # logit_scale, dot_scale, margin and its cosines, smoothing, ignore_index


def codebook_words():
    return torch.randint(-(2**31), 2**31 - 1, (5, 1), dtype=torch.int32, generator=torch.Generator().manual_seed(0))


def test_finish_of_the_loss(rows_of):
    v, states = torch.randn(ROWS, BLOCK), torch.randn(2 * ROWS, BLOCK)
    found = []
    for width in WIDTHS:
        out = (
            torch.empty(ROWS),
            torch.empty(ROWS),
            rows_of(torch.zeros(ROWS, BLOCK), width),
            rows_of(torch.ones(ROWS, BLOCK), width),
        )
        launched(
            _codebook_finish._finish_kernel, (1,), rows_of(v, width), None, None, None, None,
            torch.tensor([4, 0, 2]), None, None, None, codebook_words(), torch.zeros(BLOCK),
            torch.zeros(2, ROWS), torch.ones(2, ROWS), rows_of(states, width), None, None, *out,
            ROWS, 5, width, 0, 0, 2, *OPTIONS, 0, 1, 1, WORDS=1, TARGET="ids", HAS_NORM=False, BLOCK_M=4, BLOCK_K=BLOCK,
        )  # fmt: skip
        found.append(out)
    for near, far in zip(*found, strict=True):
        assert torch.equal(near, far)
    assert found[1][2].any(1).all()


def test_sweep_of_the_loss(rows_of):
    v = torch.randn(ROWS, BLOCK)
    found = []
    for width in WIDTHS:
        m, l, acc = torch.empty(1, 2, ROWS), torch.empty(1, 2, ROWS), rows_of(torch.zeros(2 * ROWS, BLOCK), width)
        launched(
            _codebook_sweep._sweep_kernel, (1, 1, 2), rows_of(v, width), None, None, None, None,
            torch.tensor([4, 0, 2]), None, None, None, codebook_words(), torch.zeros(BLOCK), None, m, l, acc, None, None,
            None, None, None, None, ROWS, 5, width, 0, 0, 1, 0, 0, 5, 1, 0.004, *OPTIONS, 0, 0, 0,
            WORDS=1, TARGET="ids", HAS_NORM=False, BLOCK_M=16, BLOCK_N=16, BLOCK_K=BLOCK, TILE_K=BLOCK, P_TERMS=2, ANGULAR=False,
            NEED_GRAD=True, HOIST=False,
        )  # fmt: skip
        found.append((m[:, :1], l[:, :1], acc[:ROWS]))
    for near, far in zip(*found, strict=True):
        assert torch.equal(near, far)
    assert found[1][2].any(1).all()


def test_halves_of_the_loss(rows_of):
    v = torch.randn(ROWS, BLOCK)
    found = []
    for width in WIDTHS:
        halves = rows_of(torch.zeros(2 * ROWS, BLOCK, dtype=torch.float16), width)
        launched(
            _codebook_dots._halves_kernel, (ROWS,), rows_of(v, width), None, None, None, None, halves, ROWS, width, 0, 0,
            BLOCK_K=BLOCK, HAS_NORM=False,
        )  # fmt: skip
        found.append(halves)
    assert torch.equal(*found)
    assert found[1].any(1).all()


def test_dots_of_the_loss(far_apart):
    halves = torch.randn(2, ROWS, BLOCK).half()
    found = []
    for far in (False, True):
        dots = torch.zeros(ROWS, 64)
        dots = far_apart(dots) if far else dots
        launched(
            _codebook_dots._dots_kernel, (1, 1), halves, codebook_words(), dots, ROWS, BLOCK, dots.stride(0), 0, 5,
            WORDS=1, BLOCK_M=16, BLOCK_N=64, TILE_K=BLOCK,
        )  # fmt: skip
        found.append(dots)
    assert torch.equal(*found)
    assert found[1][:, :5].any(1).all()


def test_pairwise_preparation(rows_of):
    codes = torch.randn(ROWS, BLOCK)
    found = []
    for width in WIDTHS:
        halves, scale = rows_of(torch.zeros(2 * ROWS, BLOCK, dtype=torch.float16), width), torch.empty(ROWS)
        absent = (None, None, None, None, 0)
        launched(
            _pairwise_prepare._prepare_kernel, (1, 1), rows_of(codes, width), None, halves, scale, ROWS, *absent, *absent, None,
            width, width, -100, BLOCK_M=4, BLOCK_K=BLOCK,
        )  # fmt: skip
        found.append((halves, scale))
    for near, far in zip(*found, strict=True):
        assert torch.equal(near, far)
    assert found[1][0].any(1).all()


def test_pairwise_sweep(rows_of):
    """Offsets within a block of 16 rows are 32-bit; those of the third block need 64."""
    rows, stride = 33, 2**27 + 16
    assert 15 * stride < 2**31 < 32 * stride
    halves, ids = torch.randn(2 * rows, BLOCK).half(), torch.arange(rows) % 3
    found = []
    for width in (BLOCK, stride):
        losses, grads = torch.empty(1, rows), rows_of(torch.zeros(rows, BLOCK), width)
        side = rows_of(halves, width), torch.full((rows,), 2.0**14), ids, None, None
        launched(
            _pairwise_sweep._sweep_kernel, (3, 1, 1), *side, *side, None, None, None, losses, grads,
            rows, rows, width, 0, 3, 2.0**-28, 1.0, 1.0, -100,
            SIMILARITY="ids", BLOCK_M=16, BLOCK_N=16, BLOCK_K=BLOCK, TILE_K=BLOCK, ONE_TILE=True,
        )  # fmt: skip
        found.append((losses, grads))
    for near, far in zip(*found, strict=True):
        assert torch.equal(near, far)
    assert found[1][1].any(1).all()


def test_packed_sets(far_apart):
    target = (torch.rand(ROWS, 40, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    for near, far in zip(_pairwise_prepare.labels(target)[1:], _pairwise_prepare.labels(far_apart(target))[1:], strict=True):
        assert torch.equal(near, far)


def test_batch_gradient(far_apart):
    x, rows, column = torch.randn(ROWS, BITS), torch.randn(ROWS, BITS), torch.rand(BITS)
    near = batch_norm.sums(rows, None, x, column, column)
    for ours, expected in zip(batch_norm.sums(far_apart(rows), None, far_apart(x), column, column), near, strict=True):
        assert torch.equal(ours, expected)
    arguments = column, column, None, column, column, 0.5
    near = batch_norm.input_gradient(rows, None, x, *arguments)
    assert torch.equal(batch_norm.input_gradient(far_apart(rows), None, far_apart(x), *arguments), near)
