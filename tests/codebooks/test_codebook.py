import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthohash_triton.codebooks import _drawn, codebook_min_distance, make_codebook


def naive_min_distance(codebook: torch.Tensor) -> int:
    distances = (codebook[:, None, :] != codebook[None, :, :]).sum(dim=2)
    return int(distances[~torch.eye(len(codebook), dtype=torch.bool)].min())


def assert_codebook(codebook, num_classes, bits):
    assert codebook.dtype == torch.int8
    assert codebook.shape == (num_classes, bits)
    assert set(codebook.unique().tolist()) <= {-1, 1}


@pytest.mark.parametrize("method", ["auto", "hadamard", "bernoulli", "max_hamming", "minimum_distance"])
@pytest.mark.parametrize(("num_classes", "bits"), [(1, 8), (10, 16), (64, 32), (128, 64)])
def test_shape_values_and_distinct_rows(method, num_classes, bits):
    codebook = make_codebook(num_classes, bits, method=method)
    assert_codebook(codebook, num_classes, bits)
    assert num_classes == 1 or codebook_min_distance(codebook) > 0


def test_hadamard_by_hand():
    h2 = [[1, 1], [1, -1]]
    expected = np.kron(np.kron(h2, h2), h2)
    codebook = make_codebook(16, 8, method="hadamard")
    assert (codebook[:8].numpy() == expected).all()
    assert (codebook[8:].numpy() == -expected).all()


@pytest.mark.parametrize(("num_classes", "bits"), [(16, 16), (17, 16), (100, 64), (256, 128)])
def test_hadamard_distance_is_half_the_bits(num_classes, bits):
    assert codebook_min_distance(make_codebook(num_classes, bits, method="hadamard")) == bits // 2


# The distances that OrthoHash's own schedule reaches, measured with its 10,000 rejections per 0.01 of the bits.
PUBLISHED_SCHEDULE = [
    (10, (8, 15, 31)),
    (21, (6, 14, 29)),
    (80, (5, 12, 26)),
    (100, (5, 12, 26)),
    (196, (4, 11, 24)),
]


@pytest.mark.parametrize(("num_classes", "expected"), PUBLISHED_SCHEDULE)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_max_hamming_reaches_the_published_schedule(num_classes, expected, seed):
    for bits, distance in zip((16, 32, 64), expected, strict=True):
        assert codebook_min_distance(make_codebook(num_classes, bits, method="max_hamming", seed=seed)) >= distance


def test_max_hamming_shuffles_its_rows():
    # The greedy search keeps its first ten rows at least 15 of 32 bits apart; other rows have distances down to 12.
    assert codebook_min_distance(make_codebook(100, 32, method="max_hamming")[:10]) < 15


def test_max_hamming_at_scale():
    started = time.monotonic()
    codebook = make_codebook(10_000, 128, method="max_hamming")
    assert time.monotonic() - started < 60  # half a second on two cores; a pair loop in Python takes an hour
    assert codebook_min_distance(codebook) >= 40


@pytest.mark.parametrize(
    ("num_classes", "bits", "method"),
    [(256, 8, "bernoulli"), (256, 8, "max_hamming"), (250, 8, "max_hamming"), (65_536, 16, "bernoulli")],
)
def test_every_code_can_be_used(num_classes, bits, method):
    codebook = make_codebook(num_classes, bits, method=method)
    assert_codebook(codebook, num_classes, bits)
    assert codebook_min_distance(codebook) == 1


def test_repeated_bernoulli_rows_are_drawn_again():
    # 20,000 draws of 24 bits repeat about twelve codes.
    codebook = make_codebook(20_000, 24, method="bernoulli")
    assert len(codebook.unique(dim=0)) == 20_000


def test_rows_are_drawn_until_no_two_are_equal(monkeypatch):
    draws = iter([[5, 5, 7], [5], [9]])  # the second draw repeats a row again
    monkeypatch.setattr(_drawn, "draw", lambda rng, count, bits: np.array(next(draws), dtype=np.uint64)[:, None])
    assert torch.equal(_drawn.bernoulli(3, 24, 0), _drawn.signs(np.array([[5], [9], [7]], dtype=np.uint64), 24))


@pytest.mark.parametrize("bits", [8, 16, 24, 64, 72])
def test_bernoulli_bits_are_fair_and_uncorrelated(bits):
    codebook = make_codebook(min(2**bits, 4000), bits, method="bernoulli").double()
    assert codebook.mean(dim=0).abs().max() < 0.08
    correlation = codebook.T @ codebook / len(codebook)
    assert (correlation - torch.eye(bits)).abs().max() < 0.08


@pytest.mark.parametrize("method", ["bernoulli", "max_hamming", "minimum_distance"])
@pytest.mark.parametrize("bits", [16, 24, 64])
def test_seed_decides_and_global_state_is_left_alone(method, bits):
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = make_codebook(50, bits, method=method, seed=7)
    torch.manual_seed(123)
    again = make_codebook(50, bits, method=method, seed=7)
    other = make_codebook(50, bits, method=method, seed=8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.random.set_rng_state(torch_state)
    make_codebook(50, bits, method=method, seed=7)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("num_classes", "bits", "method"),
    [(128, 64, "hadamard"), (129, 64, "max_hamming"), (10, 48, "max_hamming"), (200_000, 64, "bernoulli")],
)
def test_auto_rule(num_classes, bits, method):
    assert torch.equal(make_codebook(num_classes, bits), make_codebook(num_classes, bits, method=method))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(2, 600), bits=st.integers(1, 140), seed=st.integers(0, 2**32))
def test_min_distance_against_naive(rows, bits, seed):
    # Up to 600 rows cross the blocks of 256, up to 140 bits the 64-bit words.
    draw = torch.randint(0, 2, (rows, bits), generator=torch.Generator().manual_seed(seed))
    codebook = (2 * draw - 1).to(torch.int8)
    assert codebook_min_distance(codebook) == naive_min_distance(codebook)


@pytest.mark.parametrize("threads", [1, 3])
def test_min_distance_whatever_the_threads(threads):
    before = torch.get_num_threads()
    codebook = make_codebook(300, 64, method="bernoulli")
    codebook[299] = codebook[298]
    codebook[299, :3] *= -1
    try:
        torch.set_num_threads(threads)
        assert codebook_min_distance(codebook) == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bfloat16])
def test_min_distance_takes_any_numeric_dtype_and_numpy(dtype):
    codebook = make_codebook(9, 16, method="bernoulli")
    assert codebook_min_distance(codebook.to(dtype)) == naive_min_distance(codebook)
    assert codebook_min_distance(codebook.numpy()) == naive_min_distance(codebook)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0, "bits": 16}, ValueError, "num_classes must be at least 1; got 0"),
        ({"num_classes": 2.0, "bits": 16}, TypeError, "num_classes must be an integer"),
        ({"num_classes": 10, "bits": 12}, ValueError, "bits must be a positive multiple of 8; got 12. The next one is 16"),
        ({"num_classes": 10, "bits": 0}, ValueError, "bits must be at least 8; got 0"),
        ({"num_classes": 10, "bits": "16"}, TypeError, "bits must be an integer"),
        ({"num_classes": 257, "bits": 8}, ValueError, "8 bits have 256 codes, fewer than num_classes=257"),
        ({"num_classes": 10, "bits": 16, "seed": -1}, ValueError, "seed must be at least 0"),
        (
            {"num_classes": 10, "bits": 16, "method": "greedy"},
            ValueError,
            "one of 'auto', 'hadamard', 'bernoulli', 'max_hamming', 'minimum_distance', 'semantic'",
        ),
        ({"num_classes": 10, "bits": 24, "method": "hadamard"}, ValueError, "power of two"),
        ({"num_classes": 33, "bits": 16, "method": "hadamard"}, ValueError, "num_classes at most 2"),
        ({"num_classes": 10, "bits": 16, "min_distance": 4}, ValueError, "min_distance applies to .* got method='auto'"),
        ({"num_classes": 10, "bits": 16, "method": "minimum_distance", "min_distance": 0}, ValueError, "at least 1; got 0"),
        ({"num_classes": 10, "bits": 16, "method": "minimum_distance", "min_distance": 4.0}, TypeError, "must be an integer"),
        (
            {"num_classes": 10, "bits": 16, "similarity": torch.eye(10)},
            ValueError,
            'similarity applies to method="semantic" only',
        ),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        make_codebook(**arguments)


@pytest.mark.parametrize(
    ("codebook", "error", "message"),
    [
        (torch.ones(1, 8), ValueError, "at least two rows"),
        (torch.ones(8), ValueError, r"\[C, K\]"),
        (torch.zeros(2, 8), ValueError, "only \\+1 and -1"),
        (torch.full((2, 8), float("nan")), ValueError, "only \\+1 and -1"),
        ([[1, -1]], TypeError, "codebook must be a tensor"),
    ],
)
def test_bad_codebooks(codebook, error, message):
    with pytest.raises(error, match=message):
        codebook_min_distance(codebook)


@pytest.mark.parametrize(("method", "bits"), [("hadamard", 16), ("max_hamming", 24), ("bernoulli", 24), ("minimum_distance", 24)])
def test_defaults_of_torch_do_not_matter(method, bits):
    expected = make_codebook(10, bits, method=method)
    with torch.device("meta"):
        assert torch.equal(make_codebook(10, bits, method=method), expected)
