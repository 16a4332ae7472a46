import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthohash_triton.ops.hamming_distance import hamming_distance
from orthohash_triton.ops.hamming_histogram import hamming_histogram
from tests.ops.test_hamming_topk import near_codes, random_codes, threads


def check(queries: torch.Tensor, gallery: torch.Tensor, impl: str = "cpu") -> None:
    counts = hamming_histogram(queries, gallery, impl=impl)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, hamming_histogram(queries, gallery, impl="reference"))


def test_reference_by_hand():
    gallery = torch.tensor([[0b111], [0b1], [0b11], [0b100], [0b1]], dtype=torch.uint8)
    queries = torch.tensor([[0b1], [0xFF], [0b11111000]], dtype=torch.uint8)
    expected = [[2, 1, 2, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 3, 0], [0, 0, 0, 0, 0, 0, 3, 1, 1]]
    assert hamming_histogram(queries, gallery, impl="reference").tolist() == expected


# Bits of one byte, of no whole word, one word, a word and a tail, three words and four (bit planes end there), five, many.
@pytest.mark.parametrize("bits", [8, 24, 64, 72, 128, 192, 256, 320, 1032, 4096])
@pytest.mark.parametrize("make", [random_codes, near_codes])
@pytest.mark.parametrize("queries", [1, 7, 9])  # counted one by one, and in bit planes from 8 queries on
def test_cpu(bits, make, queries):
    gallery = make(1001, bits // 8)  # several blocks; the last one is incomplete
    check(gallery[:queries] ^ make(queries, bits // 8), gallery)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_cpu_against_brute_force(data):
    width = data.draw(st.sampled_from([1, 3, 8, 9, 16, 32, 64]), "width")
    count, size = data.draw(st.integers(1, 20), "queries"), data.draw(st.integers(1, 600), "gallery")
    torch.manual_seed(data.draw(st.integers(0, 1000), "seed"))
    make = data.draw(st.sampled_from([random_codes, near_codes]), "codes")
    with threads(data.draw(st.sampled_from([1, 2]), "threads")):
        check(make(count, width), make(size, width))


@pytest.mark.parametrize("queries", [1, 12])
@pytest.mark.parametrize("flips", [0, 255])
def test_all_at_one_distance(queries, flips):
    """All codes are at the smallest or at the largest distance, so one counter counts all of them."""
    code = random_codes(1, 8)
    counts = hamming_histogram(code.expand(queries, -1), (code ^ flips).expand(70_001, -1))
    assert counts[:, 64 if flips else 0].tolist() == [70_001] * queries
    assert counts.sum() == 70_001 * queries


@pytest.mark.parametrize("count", [1, 3, 40])
def test_thread_count_changes_nothing(count):
    """With few queries the threads share the gallery; with forty they share the queries."""
    queries, gallery = near_codes(count, 8), near_codes(50_000, 8)
    answers = []
    for n in (1, 2, 3):
        with threads(n):
            answers.append(hamming_histogram(queries, gallery))
    assert torch.equal(answers[0].sum(1), torch.full((count,), 50_000))
    assert all(torch.equal(answers[0], answer) for answer in answers[1:])


def test_same_bits_flipped_everywhere_change_nothing():
    queries, gallery, flips = near_codes(9, 16), near_codes(2000, 16), random_codes(1, 16)
    assert torch.equal(hamming_histogram(queries ^ flips, gallery ^ flips), hamming_histogram(queries, gallery))


@pytest.mark.parametrize("impl", ["cpu", "reference", pytest.param("triton", marks=pytest.mark.kernel)])
def test_nothing_to_count(impl, device):
    codes, none = random_codes(3, 8, device), random_codes(0, 8, device)
    assert hamming_histogram(none, codes, impl=impl).shape == (0, 65)
    assert hamming_histogram(codes, none, impl=impl).tolist() == [[0] * 65] * 3


# A program counts batches of 256 codes, and a part of the gallery has at least eight batches.
KERNEL_CASES = {
    "one query, two parts": (1, 2100, 8, random_codes),
    "a whole part": (2, 2048, 4, near_codes),
    "no whole word": (2, 37, 3, near_codes),
    "several blocks of distances": (1, 300, 65, near_codes),
    "long codes, taken in pieces": (1, 300, 48, near_codes),
    "pairs of long codes, taken in pieces": (1, 300, 40, near_codes),
}


@pytest.mark.kernel
@pytest.mark.parametrize("case", KERNEL_CASES)
def test_kernel(case, device):
    queries, size, width, make = KERNEL_CASES[case]
    gallery = make(size, width, device)
    check(gallery[:queries] ^ 1, gallery, impl="triton")


@pytest.mark.kernel
@pytest.mark.parametrize("flips", [0, 255])
def test_kernel_all_at_one_distance(flips, device, monkeypatch):
    """A thread counts hundreds of codes at the smallest and at the largest distance, which has a separate counter."""
    from orthohash_triton.kernels import hamming_histogram as kernels

    monkeypatch.setattr(kernels, "_FEWEST_BATCHES", 64)
    code = random_codes(1, 4, device)
    counts = hamming_histogram(code, (code ^ flips).expand(20_001, -1), impl="triton")
    assert counts[0, 32 if flips else 0] == counts.sum() == 20_001


@pytest.mark.kernel
@pytest.mark.parametrize(("words", "shared"), [(1, False), (1, True), (3, True)])
def test_kernel_with_labels(words, shared, device, monkeypatch):
    """The counts of relevant codes are compared with relevance computed by definition."""
    from orthohash_triton.kernels import hamming_histogram as module

    kernel = module.hamming_histogram
    gallery = near_codes(300, 8, device)
    queries = gallery[:2] ^ 1
    labels = torch.randint(-3, 3, (302, words), device=device)
    if shared:
        labels = torch.ones_like(labels) << torch.randint(0, 64, labels.shape, device=device)
        labels[torch.rand(labels.shape, device=device) < 0.3] = 0
    of_queries, of_gallery = labels[:2], labels[2:]
    if shared:
        is_relevant = ((of_queries[:, None] & of_gallery) != 0).any(2)
    else:
        is_relevant = (of_queries[:, None] == of_gallery).all(2)
    counts, relevant = (torch.empty(2, 65, dtype=torch.int64, device=device) for _ in range(2))
    monkeypatch.setattr(module, "_PARTIAL_BYTES", 1)  # one query at a time
    kernel(queries, gallery, counts, of_queries, of_gallery, relevant, shared=shared)
    distances = hamming_distance(queries, gallery, impl="reference").long()
    expected = torch.zeros(2, 65, dtype=torch.int64, device=device).scatter_add_(1, distances, is_relevant.long())
    assert 0 < expected.sum() < is_relevant.numel()
    assert torch.equal(relevant, expected)
    assert torch.equal(counts, hamming_histogram(queries, gallery, impl="reference"))


def test_numpy():
    queries, gallery = near_codes(3, 8), near_codes(500, 8)
    counts = hamming_histogram(queries.numpy(), gallery.numpy())
    assert isinstance(counts, np.ndarray)
    assert np.array_equal(counts, hamming_histogram(queries, gallery))


def test_registered_op():
    from orthohash_triton.ops import hamming_histogram as module

    queries, gallery = random_codes(3, 8), random_codes(50, 8)
    torch.library.opcheck(module._histogram.op, (queries, gallery, "auto"))
    compiled = torch.compile(hamming_histogram, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(queries, gallery), hamming_histogram(queries, gallery))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": torch.ones(2, 8)}, TypeError, "queries must be .*uint8; got float32"),
        ({"gallery": random_codes(2, 8)[0]}, ValueError, "gallery must be "),
        ({"gallery": random_codes(9, 4)}, ValueError, "queries have 64 bits, .*gallery.* 32"),
        ({"gallery": random_codes(9, 8).to("meta")}, ValueError, "queries is on cpu, gallery on meta; both must"),
        ({"impl": "gpu"}, ValueError, "impl must be one of"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=f"hamming_histogram: {message}"):
        hamming_histogram(**{"queries": random_codes(2, 8), "gallery": random_codes(9, 8)} | arguments)
