import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthohash_triton.ops.hamming_topk import hamming_topk, nearest

MISSING = (2**31 - 1, -1)


def random_codes(count: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    return torch.randint(0, 256, (count, width), dtype=torch.uint8, device=device)


def near_codes(count: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return codes that resemble trained ones: few centres, few flipped bits, and therefore many equal distances."""
    centres = random_codes(3, width, device)[torch.randint(0, 3, (count,), device=device)]
    flips = random_codes(count, width, device) & random_codes(count, width, device) & random_codes(count, width, device)
    return centres ^ flips


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(queries: torch.Tensor, gallery: torch.Tensor, k: int, mask: torch.Tensor | None = None, impl: str = "cpu") -> None:
    distances, ids = hamming_topk(queries, gallery, k, mask=mask, impl=impl)
    assert (distances.dtype, ids.dtype) == (torch.int32, torch.int64)
    expected_distances, expected_ids = hamming_topk(queries, gallery, k, mask=mask, impl="reference")
    assert torch.equal(distances, expected_distances)
    assert torch.equal(ids, expected_ids)


def test_reference_by_hand():
    gallery = torch.tensor([[0b111], [0b1], [0b11], [0b100], [0b1]], dtype=torch.uint8)
    queries = torch.tensor([[0b1]], dtype=torch.uint8)
    assert [answer.tolist() for answer in hamming_topk(queries, gallery, 4, impl="reference")] == [[[0, 0, 1, 2]], [[1, 4, 2, 0]]]
    mask = torch.tensor([True, False, True, False, True])
    distances, ids = hamming_topk(queries, gallery, 4, mask=mask, impl="reference")
    assert distances.tolist() == [[0, 1, 2, MISSING[0]]]
    assert ids.tolist() == [[4, 2, 0, MISSING[1]]]


# Bits of one byte, of no whole word, one word, a word and a tail, several words, and of sums that 8 bits cannot hold (512, 1032).
# Few queries are scored on rows of one, two, four or any number of words.
@pytest.mark.parametrize("bits", [8, 24, 64, 72, 128, 192, 256, 384, 512, 832, 1032])
@pytest.mark.parametrize("make", [random_codes, near_codes])
@pytest.mark.parametrize("queries", [1, 7])  # one query is scored by words; seven in pairs by planes, with one left over
def test_cpu(bits, make, queries):
    gallery = make(3001, bits // 8)  # several blocks; the last one is incomplete
    check(make(queries, bits // 8), gallery, 17)
    check(gallery[:queries], gallery, 700, mask=torch.rand(3001) < 0.3)


def test_near_and_far_queries_side_by_side():
    """Distances of long codes need more than 8 bits, but not those of every query."""
    gallery = near_codes(3000, 129)
    queries = random_codes(8, 129)
    queries[[1, 2, 4]] = gallery[:3]
    check(queries, gallery, 10)


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(st.data())
def test_cpu_against_brute_force(data):
    width = data.draw(st.sampled_from([1, 3, 8, 9, 16, 24, 32, 40, 64, 96]), "width")
    count, size = data.draw(st.integers(1, 9), "queries"), data.draw(st.integers(1, 600), "gallery")
    k = data.draw(st.integers(1, 700), "k")
    torch.manual_seed(data.draw(st.integers(0, 1000), "seed"))
    make = data.draw(st.sampled_from([random_codes, near_codes]), "codes")
    share = data.draw(st.sampled_from([None, 0.0, 0.1, 0.9]), "allowed")
    mask = None if share is None else torch.rand(size) < share
    with threads(data.draw(st.sampled_from([1, 2]), "threads")):
        check(make(count, width), make(size, width), k, mask)


@pytest.mark.parametrize("queries", [1, 2, 6])
@pytest.mark.parametrize("width", [8, 24, 64])
def test_identical_codes_come_in_the_order_of_positions(queries, width):
    code = random_codes(1, width)
    distances, ids = hamming_topk(code.expand(queries, -1), code.expand(5000, -1), 1000)
    assert not distances.any()
    assert torch.equal(ids, torch.arange(1000).expand(queries, -1))


def test_candidates_that_keep_being_beaten():
    """Each code is nearer than the ones before it, so each is a candidate and the candidates must be reduced often."""
    steps = torch.arange(65).repeat_interleave(200).flip(0)
    gallery = torch.stack([(steps > bit) for bit in range(64)], 1)
    packed = torch.from_numpy(np.packbits(gallery.numpy(), axis=1, bitorder="little"))
    for queries in (1, 7):
        check(torch.zeros(queries, 8, dtype=torch.uint8), packed, 300)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_thread_count_changes_nothing(count):
    """With one query the threads share the gallery; with forty they share the queries."""
    queries, gallery = near_codes(count, 8), near_codes(150_000, 8)
    mask = torch.rand(150_000) < 0.5
    answers = []
    for n in (1, 2, 3):
        with threads(n):
            answers.append((*hamming_topk(queries, gallery, 50), *hamming_topk(queries, gallery, 50, mask=mask)))
    for answer in answers[1:]:
        assert all(map(torch.equal, answers[0], answer))


@pytest.mark.parametrize("impl", ["reference", "cpu", pytest.param("triton", marks=pytest.mark.kernel)])
def test_limits(impl, device):
    """Only codes nearer than a query's limit are returned; ties at the last distance below it are ordered by position."""
    gallery = near_codes(900, 8, device)
    queries = gallery[:6] ^ 1
    whole = hamming_topk(queries, gallery, 900, impl="reference")
    limits = torch.tensor([0, 2, 12, 16, 40, 2**31 - 1], dtype=torch.int32, device=device)
    inside = whole[0] < limits[:, None]
    expected = [torch.where(inside, part, missing) for part, missing in zip(whole, MISSING, strict=True)]
    assert inside.sum(1).unique().numel() > 3
    for k in (20, 900):
        found = nearest(queries, gallery, k, limits=limits, impl=impl)
        assert all(torch.equal(ours, right[:, :k]) for ours, right in zip(found, expected, strict=True))


def test_same_bits_flipped_everywhere_change_nothing():
    queries, gallery, flips = near_codes(5, 16), near_codes(2000, 16), random_codes(1, 16)
    flipped = hamming_topk(queries ^ flips, gallery ^ flips, 30)
    assert all(map(torch.equal, hamming_topk(queries, gallery, 30), flipped))


def test_fewer_are_a_prefix_of_more():
    queries, gallery = near_codes(5, 8), near_codes(2000, 8)
    many = hamming_topk(queries, gallery, 2500)
    for k in (1, 10, 999):
        assert all(torch.equal(few, more[:, :k]) for few, more in zip(hamming_topk(queries, gallery, k), many, strict=True))


@pytest.mark.parametrize("impl", ["cpu", "reference", pytest.param("triton", marks=pytest.mark.kernel)])
def test_nothing_to_find(impl, device):
    codes, none = random_codes(3, 8, device), random_codes(0, 8, device)
    assert [tuple(answer.shape) for answer in hamming_topk(none, codes, 2, impl=impl)] == [(0, 2)] * 2
    for gallery, mask in ((none, None), (codes, torch.zeros(3, dtype=torch.bool, device=device))):
        distances, ids = hamming_topk(codes, gallery, 2, mask=mask, impl=impl)
        assert distances.tolist() == [[MISSING[0]] * 2] * 3
        assert ids.tolist() == [[MISSING[1]] * 2] * 3


# The plan (path, codes of a span, queries of a program, groups of codes of a tile, programs), or None for the usual plan;
# queries, gallery, bytes, k, codes and the share that the mask allows. A group is 2 codes of 64 bits, 4 of odd words.
KERNEL_CASES = {
    "as planned": (None, 1, 501, 8, 2, random_codes, None),
    "count: ties, more than one group": (("count",), 5, 2100, 8, 300, near_codes, None),
    "count: eight levels, mask": (("count",), 3, 1100, 9, 40, near_codes, 0.3),
    "k > N": (None, 2, 37, 3, 50, near_codes, None),
    "one query, the last span, tile and group not whole": (("bandwidth", 256, 1, 64, 2), 1, 2501, 8, 7, random_codes, None),
    "ties, a program without its last query": (("popcount", 128, 4, 32, 3), 3, 900, 8, 6, near_codes, None),
    "groups of four codes, mask": (("popcount", 256, 2, 64, 3), 2, 1001, 9, 3, near_codes, 0.3),
    "fewer allowed than k": (("popcount", 64, 2, 64, 3), 2, 500, 16, 4, near_codes, 0.005),
    "words in a loop, the last four not whole": (("popcount", 128, 2, 128, 2), 2, 500, 70, 2, near_codes, None),
    "tensor cores": (("dot", 256, 64, 64, 2), 3, 1100, 16, 3, near_codes, None),
    "tensor cores, mask, no power of two": (("dot", 128, 32, 64, 2), 2, 500, 24, 3, random_codes, 0.3),
}


@pytest.mark.kernel
@pytest.mark.parametrize("case", KERNEL_CASES)
def test_kernel(case, device, monkeypatch):
    from orthohash_triton.kernels import hamming_topk as kernels

    plan, queries, size, width, k, make, share = KERNEL_CASES[case]
    if plan:
        monkeypatch.setattr(kernels, "plan", lambda *_: kernels.Plan(*plan))
    mask = None if share is None else torch.rand(size, device=device) < share
    gallery = make(size, width, device)
    check(gallery[-queries:] ^ 1, gallery, k, mask, impl="triton")


@pytest.mark.kernel
@pytest.mark.parametrize("k", [3, 2100])  # selection by spans, and by counting
def test_kernel_identical_codes(k, device):
    code = random_codes(1, 8, device)
    distances, ids = hamming_topk(code, code.expand(2500, -1), k, impl="triton")
    assert not distances.any()
    assert torch.equal(ids[0], torch.arange(k, device=device))


@pytest.mark.kernel
def test_kernel_counts_for_some_queries_at_a_time(device, monkeypatch):
    from orthohash_triton.kernels import hamming_topk as kernels

    monkeypatch.setattr(kernels, "_BUFFER_BYTES", 2 * kernels._BYTES_OF_PLACE * 400)
    gallery = near_codes(700, 3, device)
    check(gallery[:5] ^ 1, gallery, 400, torch.rand(700, device=device) < 0.9, impl="triton")


@pytest.mark.kernel
@pytest.mark.parametrize("ordered", [1024, 8])  # sorted by a program, and by torch
@pytest.mark.parametrize("masked", [False, True])
def test_kernel_orders_and_limits(ordered, masked, device, monkeypatch):
    """One query finds fewer than k codes below its limit, and one finds none."""
    from orthohash_triton.kernels import _smallest
    from orthohash_triton.kernels import hamming_topk as kernels

    monkeypatch.setattr(_smallest, "ORDERED", ordered)
    monkeypatch.setattr(kernels, "plan", lambda *_: kernels.Plan("popcount", 64, 2, 32, 3))
    gallery = near_codes(1501, 8, device)
    queries = gallery[:3] ^ 1
    mask = torch.rand(1501, device=device) < 0.4 if masked else None
    check(queries, gallery, 20, mask, impl="triton")
    limits = torch.tensor([65, 12, 0], dtype=torch.int32, device=device)
    limits[1] = hamming_topk(queries, gallery, 20, mask=mask, impl="reference")[0][1, -1]
    found, expected = (nearest(queries, gallery, 20, mask=mask, limits=limits, impl=impl) for impl in ("triton", "reference"))
    assert all(map(torch.equal, found, expected))
    assert (expected[0] == MISSING[0]).sum(1).unique().numel() == 3


@pytest.mark.kernel
@pytest.mark.parametrize("make", [near_codes, lambda *args: random_codes(*args) & 0])
def test_kernel_one_query_in_parts(make, device, monkeypatch):
    """There are more spans, and more codes in the chosen spans, than one program can hold."""
    from orthohash_triton.kernels import _smallest
    from orthohash_triton.kernels import hamming_topk as kernels

    launched = []
    monkeypatch.setattr(_smallest, "HELD", 64)
    monkeypatch.setattr(_smallest, "_VALUES_PER_WARP", 64)
    monkeypatch.setattr(_smallest, "launch", lambda kernel, *args, **kw: launched.append(args[0]) or launch(kernel, *args, **kw))
    launch = kernels._spans.launch
    monkeypatch.setattr(kernels, "plan", lambda *_: kernels.Plan("bandwidth", 32, 1, 16, 64))
    gallery = make(2300, 8, device)
    check(gallery[-1:] ^ 1, gallery, 5, impl="triton")
    assert launched == [(2,), (3,), (1,)]


@pytest.mark.kernel
@pytest.mark.parametrize("plan", [("popcount", 128, 2, 64, 2), ("count",)], ids=["spans", "count"])
def test_kernel_batches_of_queries_with_limits(plan, device, monkeypatch):
    """There is memory for one or two queries at a time; each query of a later batch has its own limit."""
    from orthohash_triton.kernels import hamming_topk as kernels

    monkeypatch.setattr(kernels, "_BUFFER_BYTES", 1)
    monkeypatch.setattr(kernels, "plan", lambda *_: kernels.Plan(*plan))
    gallery = near_codes(300, 8, device)
    queries, mask = gallery[:5] ^ 1, torch.rand(300, device=device) < 0.8
    check(queries, gallery, 2, mask, impl="triton")
    nearest_distance = hamming_topk(queries, gallery, 2, mask=mask, impl="reference")[0][:, 0]
    limits = nearest_distance + torch.tensor([1, 0, 64, 0, 1], dtype=torch.int32, device=device)
    found, expected = (nearest(queries, gallery, 2, mask=mask, limits=limits, impl=impl) for impl in ("triton", "reference"))
    assert all(map(torch.equal, found, expected))
    assert (expected[0][:, 0] == MISSING[0]).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("thread_count", [1, 3])
def test_cpu_groups_of_queries_with_limits(thread_count, monkeypatch):
    """Each query of a later group of queries has its own limit."""
    from orthohash_triton.kernels.cpu import hamming_topk as cpu

    monkeypatch.setattr(cpu, "_QUERIES_PER_GROUP", 2)
    gallery = near_codes(500, 8)
    queries = gallery[:7] ^ 1
    limits = torch.tensor([1, 64, 0, 65, 2, 9, 64], dtype=torch.int32)
    with threads(thread_count):
        found = nearest(queries, gallery, 20, limits=limits, impl="cpu")
    expected = nearest(queries, gallery, 20, limits=limits, impl="reference")
    assert all(map(torch.equal, found, expected))


def test_same_answers_as_faiss():
    faiss = pytest.importorskip("faiss")
    queries, gallery = near_codes(20, 8).numpy(), near_codes(20_000, 8).numpy()
    distances, ids = hamming_topk(queries, gallery, 100)
    assert isinstance(distances, np.ndarray)
    faiss_distances, faiss_ids = faiss.knn_hamming(queries, gallery, 100)
    assert np.array_equal(distances, faiss_distances)
    assert np.array_equal(ids, faiss_ids)


def test_processors_without_a_byte_shuffle():
    """The same tests run with Numba compiling for a generic processor, which uses byte planes instead of nibble planes."""
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    environment.pop("TRITON_INTERPRET", None)
    script = """
import torch
from orthohash_triton.kernels.cpu import _bits
from tests.ops.test_hamming_topk import check, near_codes
assert not _bits.NIBBLES
for width in (3, 8, 64):
    gallery = near_codes(2000, width)
    check(gallery[:5], gallery, 100, torch.rand(2000) < 0.5)
"""
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_registered_op():
    from orthohash_triton.ops import hamming_topk as module

    queries, gallery = random_codes(3, 8), random_codes(50, 8)
    limits = torch.tensor([0, 30, 65], dtype=torch.int32)
    torch.library.opcheck(module._topk.op, (queries, gallery, 4, torch.rand(50) < 0.5, limits, "auto"))
    compiled = torch.compile(lambda q, g: hamming_topk(q, g, 4), fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(queries, gallery), hamming_topk(queries, gallery, 4)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": torch.ones(2, 8)}, TypeError, r"queries must be .*uint8; got float32 .*\. Pack .* with pack_codes"),
        ({"gallery": random_codes(2, 8)[0]}, ValueError, "gallery must be "),
        ({"gallery": random_codes(9, 4)}, ValueError, "queries have 64 bits, .*gallery.* 32"),
        ({"gallery": random_codes(9, 8).to("meta")}, ValueError, "queries is on cpu, gallery on meta; both must"),
        ({"k": 0}, ValueError, "k must be between 1 and 2147483647; got 0"),
        ({"k": -3}, ValueError, "k must be between 1 and 2147483647; got -3"),
        ({"k": 2**31 - 1}, ValueError, r"k is 2147483647, .* only 9 codes .* for 2 queries .* 48.0 GiB of missing .*min\(k, 9\)"),
        ({"k": 2.0}, TypeError, "k must be an integer; got float"),
        ({"k": torch.tensor(2.7)}, TypeError, r"k must be an integer; got float32 \[\] on cpu"),
        ({"k": np.array(2.7)}, TypeError, "k must be an integer"),
        ({"mask": torch.ones(9)}, TypeError, "mask must be .*bool; got float32"),
        (
            {"mask": torch.ones(8, dtype=torch.bool)},
            ValueError,
            r"mask must have one entry for each of the 9 gallery.*got bool \[8\]",
        ),
        ({"mask": torch.ones(2, 9, dtype=torch.bool)}, ValueError, "mask must be a tensor"),
        ({"impl": "gpu"}, ValueError, "impl must be one of"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=f"hamming_topk: {message}"):
        hamming_topk(**{"queries": random_codes(2, 8), "gallery": random_codes(9, 8), "k": 3} | arguments)
