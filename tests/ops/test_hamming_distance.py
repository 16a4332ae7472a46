import numpy as np
import pytest
import torch

from orthohash_triton.ops.hamming_distance import hamming_distance


def random_codes(count: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    return torch.randint(0, 256, (count, width), dtype=torch.uint8, device=device)


def test_reference_by_hand():
    queries, gallery = torch.tensor([[0b1011, 0], [255, 255]]), torch.tensor([[0b1110, 0], [0, 0], [255, 254]])
    distances = hamming_distance(queries.to(torch.uint8), gallery.to(torch.uint8), impl="reference")
    assert distances.tolist() == [[2, 3, 12], [13, 16, 1]]


# One byte; no whole word; a word; a word and a tail; several words. Galleries of less and of more than a block.
@pytest.mark.parametrize("width", [1, 3, 8, 9, 16, 64])
@pytest.mark.parametrize(("queries", "gallery"), [(1, 1), (37, 101), (2, 1500)])
def test_cpu(width, queries, gallery):
    a, b = random_codes(queries, width), random_codes(gallery, width)
    distances = hamming_distance(a, b, impl="cpu")
    assert distances.dtype == torch.int32
    assert torch.equal(distances, hamming_distance(a, b, impl="reference"))


# Widths as above, where a word has 32 bits; more queries and codes than a tile.
@pytest.mark.kernel
@pytest.mark.parametrize(("queries", "gallery", "width"), [(1, 1, 1), (18, 300, 8), (3, 257, 7), (17, 37, 20)])
def test_kernel(queries, gallery, width, device):
    a, b = random_codes(queries, width, device), random_codes(gallery, width, device)
    assert torch.equal(hamming_distance(a, b, impl="triton"), hamming_distance(a, b, impl="reference"))


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize("impl_shape", [(0, 5), (5, 0), (0, 0)])
def test_empty(impl, impl_shape):
    assert hamming_distance(random_codes(impl_shape[0], 8), random_codes(impl_shape[1], 8), impl=impl).shape == impl_shape


def test_views_and_threads():
    """The test covers rows that are not contiguous, memory that is not aligned, and two threads."""
    wide = random_codes(1300, 25)
    a, b = wide[::7, 1:17], wide[:, 9:]
    expected = hamming_distance(a, b, impl="reference")
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.equal(hamming_distance(a, b), expected)
    finally:
        torch.set_num_threads(threads)


def test_numpy_and_registered_op():
    from orthohash_triton.ops import hamming_distance as module

    a, b = random_codes(3, 8), random_codes(9, 8)
    distances = hamming_distance(a.numpy(), b.numpy())
    assert isinstance(distances, np.ndarray)
    assert np.array_equal(distances, np.bitwise_count(a.numpy()[:, None] ^ b.numpy()[None]).sum(-1))
    torch.library.opcheck(module._distance.op, (a, b, "auto"))
    compiled = torch.compile(lambda a, b: hamming_distance(a, b), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(a, b), torch.from_numpy(distances))


@pytest.mark.parametrize(
    ("queries", "gallery", "error", "message"),
    [
        ([[1]], random_codes(1, 1), TypeError, "queries must be a tensor"),
        (torch.ones(2, 8), random_codes(2, 8), TypeError, "queries must be .*uint8; got float32"),
        (random_codes(2, 8), torch.ones(2, 8, dtype=torch.int8), TypeError, "gallery must be .*uint8; got int8"),
        (random_codes(2, 8)[0], random_codes(2, 8), ValueError, "queries must be "),
        (random_codes(2, 8), random_codes(2, 4), ValueError, "queries have 64 bits, .*gallery.* 32; both must"),
        (torch.empty(2, 0, dtype=torch.uint8), torch.empty(2, 0, dtype=torch.uint8), ValueError, "zero bits"),
        (random_codes(2, 8), torch.empty(2, 8, dtype=torch.uint8, device="meta"), ValueError, "on cpu, gallery on meta"),
    ],
)
def test_bad_input(queries, gallery, error, message):
    with pytest.raises(error, match=message):
        hamming_distance(queries, gallery)
