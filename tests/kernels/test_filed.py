"""Tests of the searches of filed codes with Triton, against the reference of the searches of a plain gallery."""

import pytest
import torch

pytest.importorskip("triton")

from orthohash_triton.kernels import _filed, filed_range, filed_topk
from orthohash_triton.kernels.filing import Filing

from orthohash_triton.ops.hamming_range import hamming_range
from orthohash_triton.ops.hamming_topk import hamming_topk, nearest
from orthohash_triton.reference.hamming_distance import hamming_distance
from tests.ops.test_hamming_topk import near_codes, random_codes

UNLIMITED = 10**9
UNTOUCHED = 77


def filing_of(codes: torch.Tensor, centres: torch.Tensor, centre_of_entry: torch.Tensor | None = None) -> Filing:
    """File `codes` under their nearest centres, or under the given ones: a search is exact for any assignment."""
    entries, entry_of_code = torch.unique(codes, dim=0, return_inverse=True)
    distances = hamming_distance(entries, centres)
    chosen = distances.argmin(1) if centre_of_entry is None else centre_of_entry[: len(entries)]
    rings = chosen * (8 * codes.shape[1] + 1) + distances.gather(1, chosen[:, None])[:, 0]
    order = torch.sort(rings, stable=True).indices
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    positions = torch.sort(place[entry_of_code], stable=True).indices
    ring_sizes, ring_distances, centre_rings = [], [], [0]
    for centre in range(len(centres)):
        around = distances[chosen == centre, centre]
        if len(around):  # a ring between two others may be empty
            counts = torch.bincount(around)[around.min() :].tolist()
            ring_sizes += counts
            ring_distances += range(int(around.min()), int(around.max()) + 1)
        centre_rings.append(len(ring_sizes))
    counts = torch.bincount(place[entry_of_code], minlength=len(entries))
    return Filing(
        entries[order],
        starts(counts),
        positions.int(),
        centres,
        starts(torch.tensor(ring_sizes, dtype=torch.int64, device=codes.device)),
        torch.tensor(ring_distances, dtype=torch.int32, device=codes.device),
        torch.tensor(centre_rings, device=codes.device),
    )


def starts(counts: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def crowded_codes(count: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return codes of which many are equal, as trained ones are: each is one of a few codes near one of three centres."""
    return near_codes(max(1, count // 7), width, device)[torch.randint(0, max(1, count // 7), (count,), device=device)]


def topk(queries, filing, k, mask=None, limits=None, budget=UNLIMITED):
    """Return (distances, ids, met) of a search of filed codes."""
    distances = torch.full((len(queries), k), UNTOUCHED, dtype=torch.int32, device=queries.device)
    ids, met = distances.long(), torch.full((len(queries),), UNTOUCHED, device=queries.device)
    filed_topk.filed_topk(queries, filing, mask, limits, budget, distances, ids, met)
    return distances, ids, met


def check_range(queries, gallery, filing, limits, mask=None):
    lims, distances, ids, met = filed_range.filed_range(queries, filing, mask, limits, UNLIMITED)
    expected = hamming_range(queries, gallery, limits, mask=mask, impl="reference")
    assert all(map(torch.equal, (lims, distances, ids), expected))
    assert (lims.dtype, distances.dtype, ids.dtype, met.dtype) == (torch.int64, torch.int32, torch.int64, torch.int64)


# Queries, codes, bytes of a code, k, codes, number of centres, share that the mask allows, limits. Codes of one word, of no whole
# word, and of several; more centres than a program takes; a k for which every code is an answer, and one for which a program has
# to put more answers in order than the smaller block holds; equal codes.
CASES = {
    "crowded": (7, 301, 8, 9, crowded_codes, 3, None, False),
    "crowded, mask, limits": (7, 301, 9, 20, crowded_codes, 3, 0.4, True),
    "one query": (1, 500, 4, 1, near_codes, 5, None, False),
    "uniform, mask": (3, 200, 3, 12, random_codes, 2, 0.1, False),
    "uniform, many centres": (2, 400, 2, 30, random_codes, 300, None, True),
    "k > N": (3, 90, 8, 120, crowded_codes, 4, None, False),
    "hundreds of answers": (2, 400, 8, 300, crowded_codes, 3, None, False),
    "all equal": (3, 150, 8, 40, lambda *args: random_codes(*args) & 0, 1, 0.5, False),
    "nothing allowed": (2, 50, 8, 5, near_codes, 2, 0.0, False),
}


def case(name, device):
    """Return queries, gallery, filing, k, mask and limits; some queries are equal to a code, some near one, some far."""
    count, size, width, k, make, centres, share, limited = CASES[name]
    gallery = make(size, width, device)
    queries = torch.cat([gallery[: (count + 1) // 2], gallery[-(count // 2) :] ^ 1, random_codes(1, width, device)])[-count:]
    mask = None if share is None else torch.rand(size, device=device) < share
    limits = None
    if limited:
        limits = torch.randint(0, 4 * width, (count,), dtype=torch.int32, device=device)
        limits[0] = 2**31 - 1
    return queries, gallery, filing_of(gallery, gallery[:centres].contiguous()), k, mask, limits


@pytest.mark.kernel
@pytest.mark.parametrize("name", CASES)
def test_topk(name, device):
    queries, gallery, filing, k, mask, limits = case(name, device)
    distances, ids, met = topk(queries, filing, k, mask, limits)
    expected = nearest(queries, gallery, k, mask=mask, limits=limits, impl="reference")
    assert torch.equal(distances, expected[0])
    assert torch.equal(ids, expected[1])
    assert ((met >= 0) & (met <= len(filing.entries))).all()


@pytest.mark.kernel
@pytest.mark.parametrize("name", CASES)
def test_range(name, device):
    queries, gallery, filing, _, mask, _ = case(name, device)
    limits = torch.randint(0, 4 * queries.shape[1], (len(queries),), dtype=torch.int32, device=device)
    limits[:2] = torch.tensor([0, 8 * queries.shape[1] + 1])[: len(queries)]
    check_range(queries, gallery, filing, limits, mask)


@pytest.mark.kernel
def test_any_assignment_to_centres_is_exact(device):
    gallery = crowded_codes(300, 8, device)
    centres = torch.cat([random_codes(6, 8, device), gallery[:2]])
    filing = filing_of(gallery, centres, torch.randint(0, 7, (300,), device=device))  # nothing is filed under the last centre
    queries = gallery[:4] ^ 3
    expected = hamming_topk(queries, gallery, 11, impl="reference")
    assert all(map(torch.equal, topk(queries, filing, 11)[:2], expected))
    check_range(queries, gallery, filing, torch.tensor([1, 4, 12, 30], dtype=torch.int32, device=device))


@pytest.mark.kernel
def test_only_what_lies_near_is_met(device):
    """A query at a centre with k copies meets one entry; a far one meets more than the budget, and gives up."""
    gallery = torch.cat([random_codes(1, 8, device).expand(20, -1), random_codes(100, 8, device)])
    filing = filing_of(gallery, gallery[:1].contiguous())
    queries = torch.cat([gallery[:1], gallery[50:51] ^ 7])
    expected = hamming_topk(queries, gallery, 20, impl="reference")
    distances, ids, met = topk(queries, filing, 20, budget=60)
    assert met.tolist() == [1, -1]
    assert torch.equal(distances[0], expected[0][0])
    assert torch.equal(ids[0], expected[1][0])
    needed = topk(queries, filing, 20)[2]
    assert 60 < needed[1] <= 101
    assert torch.equal(topk(queries, filing, 20, budget=int(needed[1]))[1], expected[1])

    limits = torch.tensor([1, 40], dtype=torch.int32, device=device)
    lims, distances, ids, met = filed_range.filed_range(queries, filing, None, limits, 60)
    assert met.tolist() == [1, -1]
    assert lims.tolist() == [0, 20, 20]
    assert not distances.any()
    assert torch.equal(ids, torch.arange(20, device=device))


@pytest.mark.kernel
def test_the_second_pass_gives_up_too(device):
    """The ring with the smallest bound holds k codes, but they are so far that the bounds of many other rings are below that."""
    zero = torch.zeros(1, 8, dtype=torch.uint8, device=device)
    query, ring = zero.clone(), zero.repeat(2, 1)
    query[0, 0], ring[0, 2], ring[1, 3] = 15, 15, 15  # all at distance 4 from the centre; those of the ring at 8 from the query
    others = random_codes(500, 8, device) & random_codes(500, 8, device) & random_codes(500, 8, device)
    around = hamming_distance(others, zero)[:, 0]
    gallery = torch.cat([ring, others[(around > 4) & (around < 13)]])
    filing = filing_of(gallery, zero)
    expected = hamming_topk(query, gallery, 2, impl="reference")
    distances, ids, met = topk(query, filing, 2)
    assert all(map(torch.equal, (distances, ids), expected))
    assert met.item() == len(gallery) > 200
    assert [topk(query, filing, 2, budget=budget)[2].item() for budget in (1, 2, len(gallery) - 1)] == [-1] * 3
    assert torch.equal(topk(query, filing, 2, budget=len(gallery))[1], expected[1])


@pytest.mark.kernel
def test_queries_and_entries_in_parts(device, monkeypatch):
    """The answers are the same if queries, entries or positions are taken in parts, or if torch puts them in order."""
    queries, gallery, filing, k, mask, limits = case("crowded, mask, limits", device)
    expected = nearest(queries, gallery, k, mask=mask, limits=limits, impl="reference")
    radii = torch.tensor([0, 5, 30, 9, 12, 1, 73], dtype=torch.int32, device=device)
    for name, most in (("_MOST_PAIRS", 1), ("_MOST_SLOTS", 40), ("_MOST_QUERIES", 2), ("_SORTED", (8, 16))):
        with monkeypatch.context() as patch:
            patch.setattr(_filed, name, most)
            assert all(map(torch.equal, topk(queries, filing, k, mask, limits)[:2], expected))
            check_range(queries, gallery, filing, radii, mask)


@pytest.mark.kernel
def test_positions_of_64_bits(device):
    gallery = crowded_codes(100, 8, device)
    filing = filing_of(gallery, gallery[:2].contiguous())
    far = filing._replace(positions=filing.positions.long() + 2**33)
    distances, ids, _ = topk(gallery[:3] ^ 1, far, 10)
    expected = hamming_topk(gallery[:3] ^ 1, gallery, 10, impl="reference")
    assert torch.equal(distances, expected[0])
    assert torch.equal(ids, expected[1] + 2**33)


@pytest.mark.kernel
def test_an_empty_filing(device):
    none = random_codes(0, 8, device)
    counts = torch.zeros(1, dtype=torch.int64, device=device)
    filing = Filing(none, counts, counts[:0].int(), random_codes(1, 8, device), counts, counts[:0].int(), torch.zeros(2).long())
    distances, ids, met = topk(random_codes(2, 8, device), filing, 3)
    assert distances.tolist() == [[2**31 - 1] * 3] * 2
    assert ids.tolist() == [[-1] * 3] * 2
    assert met.tolist() == [0, 0]
    limits = torch.tensor([0, 65], dtype=torch.int32, device=device)
    lims, *rest = filed_range.filed_range(random_codes(2, 8, device), filing, None, limits, 5)
    assert lims.tolist() == [0, 0, 0]
    assert [len(part) for part in rest] == [0, 0, 2]
