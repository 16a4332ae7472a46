"""Searches of filed codes give the answers of a scan: the same distances and positions in the same order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from orthohash_triton.kernels.cpu import filing as filing_kernels

from orthohash_triton.ops import hamming_topk
from orthohash_triton.ops.hamming_range import hamming_range
from orthohash_triton.search import _filing
from tests.ops.test_hamming_topk import near_codes, random_codes, threads


def equal_codes(count: int, width: int) -> torch.Tensor:
    return random_codes(1, width).repeat(count, 1)


def tied_codes(count: int, width: int) -> torch.Tensor:
    """Return codes that differ from zero in one bit, so that nearly all distances are equal."""
    bit = torch.randint(0, 8 * width, (count,))
    codes = torch.zeros(count, width, dtype=torch.uint8)
    codes[torch.arange(count), bit // 8] = (1 << (bit % 8)).to(torch.uint8)
    return codes


KINDS = [random_codes, near_codes, equal_codes, tied_codes]


def check_structure(filing, codes: torch.Tensor) -> None:
    """Check the promises of the docstring of `Filing`."""
    assert torch.equal(_filing.unfiled(filing), codes)
    assert len(filing.entries.unique(dim=0)) == len(filing.entries) == len(filing.entry_starts) - 1
    for start, stop in zip(filing.entry_starts[:-1].tolist(), filing.entry_starts[1:].tolist(), strict=True):
        assert start < stop
        assert (filing.positions[start:stop].diff() > 0).all()
    centre = torch.arange(len(filing.centres)).repeat_interleave(filing.centre_rings.diff())
    assert len(centre) == len(filing.ring_distances) == len(filing.ring_starts) - 1
    assert (filing.ring_distances.diff()[centre.diff() == 0] == 1).all()
    of_ring = torch.arange(len(centre)).repeat_interleave(filing.ring_starts.diff())
    assert len(of_ring) == len(filing.entries)
    apart = (filing.entries ^ filing.centres[centre[of_ring]]).numpy()
    distances = [sum(int(byte).bit_count() for byte in row) for row in apart]
    assert distances == filing.ring_distances[of_ring].tolist()


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data())
def test_against_a_scan(data):
    width = data.draw(st.sampled_from([1, 2, 3, 7, 8, 9, 15, 16, 24, 32, 40, 128]), "width")
    count, size = data.draw(st.integers(0, 40), "queries"), data.draw(st.integers(0, 700), "gallery")
    k = data.draw(st.integers(1, 750), "k")
    torch.manual_seed(data.draw(st.integers(0, 1000), "seed"))
    codes = data.draw(st.sampled_from(KINDS), "codes")(size, width)
    own = codes[torch.randint(0, size, (count // 2,))] if size else codes
    queries = torch.cat([own, random_codes(count - len(own), width)])
    share = data.draw(st.sampled_from([None, 0.0, 0.1, 0.9]), "allowed")
    mask = None if share is None else torch.rand(size) < share
    limits = torch.randint(0, 8 * width + 2, (count,), dtype=torch.int32) if data.draw(st.booleans(), "limited") else None
    radius = torch.randint(0, 4 * width + 2, (count,), dtype=torch.int32)
    given_centres = data.draw(st.sampled_from([0, 1, 5]), "centres")
    filing = _filing.build(codes, random_codes(given_centres, width) if given_centres else None)
    budget = data.draw(st.sampled_from([_filing.UNLIMITED, 0, size // 8]), "budget")
    with threads(data.draw(st.sampled_from([1, 2]), "threads")):
        *answer, met = _filing.nearest(queries, filing, k, mask=mask, limits=limits, budget=budget)
        lims, near, positions, range_met = _filing.within(queries, filing, radius, mask=mask, budget=budget)
    answered = met >= 0
    assert answered.all() or budget < _filing.UNLIMITED
    assert (met <= budget).all()
    for ours, right in zip(answer, hamming_topk.nearest(queries, codes, k, mask=mask, limits=limits), strict=True):
        assert torch.equal(ours[answered], right[answered])
    kept_limits = torch.where(range_met >= 0, radius, 0)  # the answer to a query that gave up is empty
    for ours, right in zip((lims, near, positions), hamming_range(queries, codes, kept_limits, mask=mask), strict=True):
        assert torch.equal(ours, right)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("size", [0, 1, 900])
def test_structure(make, size):
    codes = make(size, 8)
    check_structure(_filing.build(codes), codes)
    check_structure(_filing.build(codes, random_codes(3, 8)[[0, 1, 2, 1]]), codes)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_removal(make, share):
    codes = make(900, 8)
    keep = torch.rand(900) < share
    filing = _filing.kept(_filing.build(codes), keep.numpy())
    check_structure(filing, codes[keep])
    queries = random_codes(5, 8)
    for ours, right in zip(_filing.nearest(queries, filing, 20), hamming_topk.nearest(queries, codes[keep], 20), strict=False):
        assert torch.equal(ours, right)


@pytest.mark.parametrize("width", [2, 8, 24])
def test_ties_at_the_last_distance_beyond_the_memory_for_candidates(width):
    """Thousands of entries at one distance are met in another order than that of their positions; the smallest are returned."""
    torch.manual_seed(0)
    codes = torch.cat([random_codes(6000, width), tied_codes(3000, width)])
    codes[:, 0] = 255
    codes = codes[torch.randperm(9000)]
    query = torch.zeros(1, width, dtype=torch.uint8)
    for centres in (codes[:1], query):
        filing = _filing.build(codes, centres)
        for k in (1, 7, 3500):
            for mask in (None, torch.rand(9000) < 0.5):
                answer = _filing.nearest(query, filing, k, mask=mask)
                right = hamming_topk.nearest(query, codes, k, mask=mask)
                assert all(map(torch.equal, answer, right))


def test_a_budget_is_kept_and_a_query_that_needs_less_is_answered():
    codes = random_codes(5000, 8)
    filing = _filing.build(codes)
    needed = _filing.nearest(codes[:20], filing, 5)[2]
    assert (needed > 0).all()
    for budget in (0, int(needed.median()), 5000):
        met = _filing.nearest(codes[:20], filing, 5, budget=budget)[2]
        assert (met <= budget).all()
        assert (met[met >= 0] == needed[met >= 0]).all()
    assert (met >= 0).all()


def test_a_mask_that_allows_few_positions_of_large_entries_ends_the_search():
    """Positions that are tested against the mask count towards the budget."""
    codes = equal_codes(100_000, 8)
    mask = torch.zeros(100_000, dtype=torch.bool)
    filing = _filing.build(codes, codes[:1])
    assert _filing.nearest(codes[:1], filing, 3, mask=mask, budget=100)[2].tolist() == [-1]
    assert _filing.within(codes[:1], filing, torch.ones(1, dtype=torch.int32), mask=mask, budget=100)[3].tolist() == [-1]
    mask[99_999] = True
    assert _filing.nearest(codes[:1], filing, 1, mask=mask)[1].tolist() == [[99_999]]


def test_implementations_agree():
    codes, queries = near_codes(500, 8), near_codes(9, 8)
    filing = _filing.build(codes)
    limits = torch.full((9,), 12, dtype=torch.int32)
    for search in (
        lambda impl: _filing.nearest(queries, filing, 30, impl=impl),
        lambda impl: _filing.within(queries, filing, limits, impl=impl),
    ):
        for ours, right in list(zip(search("cpu"), search("reference"), strict=True))[:-1]:
            assert torch.equal(ours, right)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("width", [2, 3, 8, 24])
def test_parts_that_are_too_large_to_sort_at_once(make, width, monkeypatch):
    """Such parts are divided by distance and then byte by byte, and give the same filing."""
    codes = make(3000, width)
    centres = random_codes(2, width)
    expected = _filing.build(codes, centres)
    monkeypatch.setattr(filing_kernels, "_SORTED_AT_ONCE", 20)
    for ours, right in zip(_filing.build(codes, centres), expected, strict=True):
        assert torch.equal(ours, right)


@pytest.mark.parametrize("width", [2, 3, 8, 33])
def test_many_centres(width):
    """More than 128 centres are found by tables: every code that is near to one centre only is filed under it."""
    torch.manual_seed(0)
    centres = random_codes(700, width)
    codes = centres[torch.randint(0, 700, (4000,))]
    flipped = torch.arange(4000) % 2 == 0
    codes[flipped, 0] ^= 1
    codes[::97] = random_codes(len(codes[::97]), width)  # some are near to none
    filing = _filing.build(codes, centres)
    check_structure(filing, codes)
    if width > 3:
        near = filing.entry_starts.diff()[filing.ring_distances.repeat_interleave(filing.ring_starts.diff()) <= 1]
        assert near.sum() == 4000 - len(codes[::97])


def test_centres_are_found_where_the_codes_are():
    torch.manual_seed(0)
    classes = random_codes(300, 16)
    codes = classes[torch.randint(0, 300, (100_000,))]
    codes[::3, 5] ^= 4
    filing = _filing.build(codes)
    assert torch.equal(filing.centres, classes.unique(dim=0))
    assert filing.ring_distances.max() == 1
    assert all(map(torch.equal, filing, _filing.build(codes)))


def test_threads_change_nothing():
    codes = near_codes(20_000, 8)
    with threads(1):
        expected = _filing.build(codes)
    with threads(3):
        assert all(map(torch.equal, expected, _filing.build(codes)))
