import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthohash_triton.ops.hamming_range import hamming_range
from tests.ops.test_hamming_topk import near_codes, random_codes, threads


def check(queries, gallery, radius, *, inclusive=False, mask=None, impl="cpu"):
    answer = hamming_range(queries, gallery, radius, inclusive=inclusive, mask=mask, impl=impl)
    expected = hamming_range(queries, gallery, radius, inclusive=inclusive, mask=mask, impl="reference")
    for ours, right in zip(answer, expected, strict=True):
        assert ours.dtype == right.dtype
        assert torch.equal(ours, right)
    return answer


def test_reference_by_hand():
    gallery = torch.tensor([[0b111], [0b1], [0b11], [0b100], [0b1]], dtype=torch.uint8)
    queries = torch.tensor([[0b1], [0b1111]], dtype=torch.uint8)

    def answer(radius, **options):
        return [part.tolist() for part in hamming_range(queries, gallery, radius, impl="reference", **options)]

    assert answer(2) == [[0, 3, 4], [0, 0, 1, 1], [1, 4, 2, 0]]
    assert answer(1, inclusive=True) == answer(2)
    assert answer(torch.tensor([1, 3])) == [[0, 2, 4], [0, 0, 1, 2], [1, 4, 0, 2]]
    assert answer(2, mask=torch.tensor([True, False, True, False, True])) == [[0, 2, 3], [0, 1, 1], [4, 2, 0]]
    assert answer(0) == [[0, 0, 0], [], []]


# Bits of one byte, of no whole word, one word, a word and a tail, several words, and of sums that 8 bits cannot hold (512, 1032).
@pytest.mark.parametrize("bits", [8, 24, 64, 72, 128, 192, 256, 512, 1032])
@pytest.mark.parametrize("make", [random_codes, near_codes])
@pytest.mark.parametrize("queries", [1, 2, 7])  # few queries are scored on rows, seven in pairs by planes, with one left over
def test_cpu(bits, make, queries):
    gallery = make(3001, bits // 8)  # several blocks; the last one is incomplete
    asked = gallery[:queries] ^ make(queries, bits // 8)
    for radius in (bits // 8, bits // 2, bits, bits + 1, 2**70):
        check(asked, gallery, radius)
    check(asked, gallery, torch.randint(0, bits + 3, (queries,)), inclusive=True, mask=torch.rand(3001) < 0.3)


def test_near_and_far_radii_side_by_side():
    """Distances of long codes need more than 8 bits for some queries only, and one query has an empty range."""
    gallery = near_codes(3000, 129)
    queries = gallery[:8] ^ random_codes(8, 129)
    check(queries, gallery, torch.tensor([500, 100, 0, 1032, 1033, 254, 255, 256]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_cpu_against_brute_force(data):
    width = data.draw(st.sampled_from([1, 3, 8, 9, 16, 32, 64]), "width")
    count, size = data.draw(st.integers(1, 9), "queries"), data.draw(st.integers(1, 600), "gallery")
    radius = data.draw(st.integers(0, 8 * width + 2) | st.lists(st.integers(0, 8 * width + 2), min_size=count, max_size=count))
    radius = torch.tensor(radius) if isinstance(radius, list) else radius
    torch.manual_seed(data.draw(st.integers(0, 1000), "seed"))
    make = data.draw(st.sampled_from([random_codes, near_codes]), "codes")
    share = data.draw(st.sampled_from([None, 0.0, 0.1, 0.9]), "allowed")
    mask = None if share is None else torch.rand(size) < share
    with threads(data.draw(st.sampled_from([1, 2]), "threads")):
        check(make(count, width), make(size, width), radius, inclusive=data.draw(st.booleans(), "inclusive"), mask=mask)


@pytest.mark.parametrize("queries", [1, 6])
@pytest.mark.parametrize("width", [8, 64])
def test_identical_codes_come_in_the_order_of_positions(queries, width):
    """The answer contains every code, which takes several chunks of memory."""
    code, size = random_codes(1, width), 70_000
    lims, distances, ids = hamming_range(code.expand(queries, -1), code.expand(size, -1), 1)
    assert torch.equal(lims, size * torch.arange(queries + 1))
    assert not distances.any()
    assert torch.equal(ids, torch.arange(size).repeat(queries))


@pytest.mark.parametrize("count", [1, 3, 40])
def test_thread_count_changes_nothing(count):
    """With one query the threads share the gallery; with forty they share the queries."""
    gallery = near_codes(150_000, 8)
    queries = gallery[:count] ^ 1
    mask = torch.rand(150_000) < 0.5
    answers = []
    for n in (1, 2, 3):
        with threads(n):
            answers.append((*hamming_range(queries, gallery, 20), *hamming_range(queries, gallery, 60, mask=mask)))
    assert len(answers[0][1]) > 1000 * count
    for answer in answers[1:]:
        assert all(map(torch.equal, answers[0], answer))


def test_same_bits_flipped_everywhere_change_nothing():
    gallery, flips = near_codes(2000, 16), random_codes(1, 16)
    queries = gallery[:5] ^ 1
    lims, *found = hamming_range(queries, gallery, 40)
    assert lims[-1] > 1000
    assert all(map(torch.equal, (lims, *found), hamming_range(queries ^ flips, gallery ^ flips, 40)))


@pytest.mark.parametrize("impl", ["cpu", "reference", pytest.param("triton", marks=pytest.mark.kernel)])
def test_nothing_to_find(impl, device):
    codes, none = random_codes(3, 8, device), random_codes(0, 8, device)
    nothing = torch.zeros(3, dtype=torch.bool, device=device)
    for queries, gallery, radius, mask in ((none, codes, 9, None), (codes, none, 9, None), (codes, codes, 0, None),
                                           (none, none, 0, None), (codes, codes, 65, nothing)):  # fmt: skip
        lims, distances, ids = hamming_range(queries, gallery, radius, mask=mask, impl=impl)
        assert lims.tolist() == [0] * (len(queries) + 1)
        assert (distances.dtype, distances.shape, ids.dtype, ids.shape) == (torch.int32, (0,), torch.int64, (0,))


# A part of the gallery is 2,048 codes at 64 bits and 512 from 72 bits on: one part, several, a last one with dead tiles.
KERNEL_CASES = {
    "one query": (1, 2100, 8, 20, random_codes, None),
    "more than one group": (5, 4200, 8, 14, near_codes, None),
    "no whole word, everything": (2, 37, 3, 25, near_codes, None),
    "a radius each, mask": (3, 1100, 9, [0, 20, 9], near_codes, 0.3),
    "nothing": (2, 300, 16, 1, near_codes, None),
}


@pytest.mark.kernel
@pytest.mark.parametrize("case", KERNEL_CASES)
def test_kernel(case, device):
    queries, size, width, radius, make, share = KERNEL_CASES[case]
    mask = None if share is None else torch.rand(size, device=device) < share
    radius = torch.tensor(radius, device=device) if isinstance(radius, list) else radius
    gallery = make(size, width, device)
    lims, _, _ = check(gallery[-queries:] ^ 1, gallery, radius, mask=mask, impl="triton")
    assert (lims[-1] == 0) == (case == "nothing")


@pytest.mark.kernel
def test_kernel_answer_too_large_to_sort(device, monkeypatch):
    from orthohash_triton.kernels import hamming_range as module

    monkeypatch.setattr(module, "_LARGEST_SORT", 99)
    code = random_codes(1, 8, device)
    with pytest.raises(RuntimeError, match=r"hamming_range: 100 codes are near enough, more than the 99 .* Ask for"):
        hamming_range(code, code.expand(100, -1), 1, impl="triton")
    assert len(hamming_range(code, code.expand(99, -1), 1, impl="triton")[1]) == 99


def test_same_answers_as_faiss():
    faiss = pytest.importorskip("faiss")
    gallery = near_codes(20_000, 8).numpy()
    queries = gallery[:20] ^ 1
    index = faiss.IndexBinaryFlat(64)
    index.add(gallery)
    for radius in (0, 1, 7, 30, 65):
        lims, distances, ids = hamming_range(queries, gallery, radius)
        assert isinstance(ids, np.ndarray)
        faiss_lims, faiss_distances, faiss_ids = index.range_search(queries, radius)
        assert np.array_equal(lims, faiss_lims)
        for first, last in pairwise(lims):
            found = slice(first, last)
            order = np.lexsort((faiss_ids[found], faiss_distances[found]))
            assert np.array_equal(distances[found], faiss_distances[found][order])
            assert np.array_equal(ids[found], faiss_ids[found][order])


@pytest.mark.slow
def test_processors_without_a_byte_shuffle():
    """Range search and histograms run with Numba compiling for a generic processor."""
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    environment.pop("TRITON_INTERPRET", None)
    script = """
import torch
from orthohash_triton.kernels.cpu import _bits
from tests.ops import test_hamming_histogram, test_hamming_range
from tests.ops.test_hamming_topk import near_codes
assert not _bits.NIBBLES
for width in (3, 8, 64):
    gallery = near_codes(1500, width)
    for queries in (gallery[:1], gallery[:9]):
        test_hamming_range.check(queries, gallery, 3 * width, mask=torch.rand(1500) < 0.5)
        test_hamming_histogram.check(queries, gallery)
"""
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_numpy_radii():
    gallery = near_codes(500, 8)
    queries, radii = gallery[:3], torch.tensor([3, 0, 20])
    expected = hamming_range(queries, gallery, radii)
    assert expected[0].diff().tolist()[:2] == [1, 0]
    for dtype in (np.int8, np.uint8, np.int32, np.int64):
        answer = hamming_range(queries.numpy(), gallery.numpy(), radii.numpy().astype(dtype))
        assert all(np.array_equal(ours, right) for ours, right in zip(answer, expected, strict=True))
    assert np.array_equal(hamming_range(queries, gallery, np.int64(3))[0], hamming_range(queries, gallery, 3)[0])


def test_registered_op():
    from orthohash_triton.ops import hamming_range as module

    queries, gallery = random_codes(3, 8), random_codes(50, 8)
    limits = torch.tensor([0, 30, 65], dtype=torch.int32)
    torch.library.opcheck(module._range.op, (queries, gallery, torch.rand(50) < 0.5, limits, "auto"))
    compiled = torch.compile(lambda q, g: hamming_range(q, g, 30), fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(queries, gallery), hamming_range(queries, gallery, 30)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": torch.ones(2, 8)}, TypeError, "queries must be .*uint8; got float32"),
        ({"gallery": random_codes(9, 4)}, ValueError, "queries have 64 bits, .*gallery.* 32"),
        ({"gallery": random_codes(9, 8).to("meta")}, ValueError, "queries is on cpu, gallery on meta; both must"),
        ({"radius": -1}, ValueError, "radius must be at least 0; got -1"),
        ({"radius": 2.0}, TypeError, "radius must be an integer; got float"),
        ({"radius": [2, 1]}, TypeError, r"radius must be an integer, or an integer tensor or array \[Q\], .*; got list \[2, 1\]"),
        ({"radius": torch.tensor([2.0, 1.0])}, TypeError, "radius must be .*got float32"),
        ({"radius": torch.tensor([[2, 1]])}, ValueError, "radius must be a tensor .*got int64"),
        ({"radius": torch.tensor([1, 2, 3])}, ValueError, r"radius must have one entry for each of the 2 queries; got .*\[3\]"),
        ({"radius": torch.tensor([5, -3])}, ValueError, "radius must be 0 or more; got -3 for query 1"),
        ({"radius": torch.tensor([5, 3], device="meta")}, ValueError, "radius is on meta, queries on cpu"),
        ({"mask": torch.ones(9)}, TypeError, "mask must be .*bool; got float32"),
        ({"mask": torch.ones(8, dtype=torch.bool)}, ValueError, "mask must have one entry for each of the 9 gallery"),
        ({"impl": "gpu"}, ValueError, "impl must be one of"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=f"hamming_range: {message}"):
        hamming_range(**{"queries": random_codes(2, 8), "gallery": random_codes(9, 8), "radius": 3} | arguments)
