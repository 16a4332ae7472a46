"""Rows that lie further apart than 32 bits count: tensors in a file that is nearly all hole."""

import pytest
import torch

pytest.importorskip("triton")

from orthohash_triton.kernels import batch_norm, cosine_codebook_loss, householder, pack_codes

pytestmark = pytest.mark.kernel

STRIDE = 2**30 + 3  # twice that leaves 32 bits
ROWS, BITS = 3, 20


@pytest.fixture
def far_apart(tmp_path, device):
    """The same rows, [3, K], STRIDE numbers apart."""
    if device.type == "cuda":
        pytest.skip("a GPU's memory has no holes")

    def spread(rows):
        size = (len(rows) - 1) * STRIDE + rows.shape[1]
        memory = torch.from_file(str(tmp_path / f"{size}.{rows.dtype}"), shared=True, size=size, dtype=rows.dtype)
        found = memory.as_strided(rows.shape, (STRIDE, 1))
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
    v, codebook = torch.randn(ROWS, BITS), torch.randint(0, 2, (50, BITS), dtype=torch.int8) * 2 - 1
    target = torch.rand(ROWS, 50) if dense else torch.tensor([4, 0, 49])
    codes = cosine_codebook_loss.prepare(codebook)
    found = []
    for rows, wanted in ((v, target), (far_apart(v), far_apart(target) if dense else target)):
        loss, lse, grad = torch.empty(ROWS), torch.empty(ROWS), torch.empty(ROWS, BITS)
        cosine_codebook_loss.cosine_codebook_loss(
            rows, None, None, None, None, wanted, None, None, codes, loss, lse, grad, torch.empty(0, BITS),
            p_terms=2, scale=4.0, margin=0.2, angular=False, label_smoothing=0.0, ignore_index=-100,
            need_grad=True, need_lse_grad=False,
        )  # fmt: skip
        found.append((loss, lse, grad))
    for near, far in zip(*found, strict=True):
        assert torch.equal(near, far)
        assert near.isfinite().all()
