"""Tests of the lookup by substrings: equal to the scan in distances and rows, whatever the codes, limits, masks and budgets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from orthohash_triton.kernels.cpu import lookup as kernels

from orthohash_triton import hamming_range, hamming_topk
from orthohash_triton.search._lookup import Lookup
from tests.ops.test_hamming_topk import near_codes, random_codes, threads


def equal_codes(count: int, width: int) -> torch.Tensor:
    return random_codes(1, width).repeat(count, 1)


def constant_bits(count: int, width: int) -> torch.Tensor:
    """Return codes of which three bits in four are the same in all."""
    return random_codes(count, width) & random_codes(1, width) & random_codes(1, width)


def shared_substrings(count: int, width: int) -> torch.Tensor:
    """Return codes of which any two agree in all bytes but one or two, so that every table has large buckets."""
    codes = equal_codes(count, width)
    codes[torch.arange(count), torch.randint(0, width, (count,))] = random_codes(count, 1)[:, 0]
    return codes


KINDS = [random_codes, near_codes, equal_codes, constant_bits, shared_substrings]


def asked(gallery: torch.Tensor, count: int) -> torch.Tensor:
    """Return queries of which most are a few bits away from a code of the gallery, and some are far from all."""
    width = gallery.shape[1]
    queries = random_codes(count, width)
    for q in range(count):
        if len(gallery) and q % 4:
            bits = torch.randint(0, 8 * width, (q % 5,))
            queries[q] = gallery[torch.randint(0, len(gallery), ())]
            for bit in bits.tolist():
                queries[q, bit // 8] ^= 1 << bit % 8
    return queries


def check_within(lookup, queries, limits, mask=None, budget=2**62):
    """Compare with the scan the answers of the queries that did not give up; return what was met."""
    found = lookup.within(queries, limits, mask, budget)
    gave_up = found.met < 0
    scanned = torch.where(gave_up, 0, limits).to(torch.int64)
    lims, distances, ids = hamming_range(queries, lookup.codes, scanned, mask=mask)
    assert torch.equal(found.lims, lims)
    assert torch.equal(found.distances, distances)
    assert torch.equal(found.ids, ids)
    assert (found.lims.dtype, found.distances.dtype, found.ids.dtype) == (torch.int64, torch.int32, torch.int64)
    return found.met


def check_nearest(lookup, queries, k, radius, mask=None, budget=2**62):
    """Compare with the scan the answers of the queries that have one; return what was met."""
    found = lookup.nearest(queries, k, radius, mask, budget)
    distances, ids = hamming_topk(queries, lookup.codes, k, mask=mask)
    answered = found.met >= 0
    assert torch.equal(found.distances[answered], distances[answered])
    assert torch.equal(found.ids[answered], ids[answered])
    if budget == 2**62:
        assert torch.equal(answered, (distances[:, -1] <= min(radius, lookup.largest_radius)))
    return found.met


# Widths of one byte, of no whole word, of a word, of a word and a tail, and of several words.
@pytest.mark.parametrize("width", [1, 3, 7, 8, 9, 16, 32, 65, 128])
@pytest.mark.parametrize("make", KINDS)
def test_equals_the_scan(width, make):
    torch.manual_seed(width)
    gallery = make(3000, width)
    queries = asked(gallery, 300)  # more than one block of queries
    for radius in (0, 2, 7):
        lookup = Lookup.build(gallery, radius)
        assert lookup.largest_radius >= radius
        assert (check_within(lookup, queries, torch.full((300,), radius + 1)) >= 0).all()
    limits = torch.randint(0, 6, (300,))
    check_within(lookup, queries, limits)
    check_within(lookup, queries, limits, torch.rand(3000) < 0.3, budget=500)
    check_nearest(lookup, queries, 3, 4)
    check_nearest(lookup, queries, 1, 3, torch.rand(3000) < 0.5)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_equals_the_scan_for_any_tables_limits_and_masks(data):
    torch.manual_seed(data.draw(st.integers(0, 1000), "seed"))
    width = data.draw(st.sampled_from([1, 2, 3, 8, 9, 16, 33]), "width")
    size = data.draw(st.integers(0, 400), "size")
    gallery = data.draw(st.sampled_from(KINDS), "codes")(size, width)
    queries = asked(gallery, data.draw(st.integers(0, 9), "queries"))
    radius = data.draw(st.integers(0, 8 * width + 1), "radius")
    lookup = Lookup.build(gallery, radius, data.draw(st.sampled_from([None, 1, 2, 5]), "tables"))
    limit = data.draw(st.integers(0, min(12, 8 * width + 2)), "limit")
    mask = data.draw(st.sampled_from([None, 0.0, 0.4, 1.0]), "allowed")
    mask = None if mask is None else torch.rand(size) < mask
    budget = data.draw(st.sampled_from([0, 1, 30, 1000, 100_000]), "budget")
    with threads(data.draw(st.sampled_from([1, 2]), "threads")):
        check_within(lookup, queries, torch.randint(0, limit + 1, (len(queries),)), mask, budget)
        check_nearest(lookup, queries, data.draw(st.integers(1, 20), "k"), limit, mask, budget)


def test_a_bucket_that_several_probes_share_reports_a_code_once():
    """Two tables of 4 bits have 16 substrings and 2 buckets each, so that every step meets the same code again and again."""
    gallery = torch.tensor([[0b00000000], [0b11111111]], dtype=torch.uint8)
    lookup = Lookup.build(gallery, 7, tables=2)
    queries = torch.arange(256, dtype=torch.uint8)[:, None]
    assert lookup.tables.starts.shape == (2, 3)
    check_within(lookup, queries, torch.full((256,), 8))


def test_cost_is_what_a_search_meets():
    torch.manual_seed(0)
    gallery = near_codes(2000, 8)
    lookup = Lookup.build(gallery, 3)
    queries = asked(gallery, 40)
    limits = torch.randint(0, 5, (40,))
    met = lookup.cost(queries, limits)
    assert torch.equal(met, lookup.within(queries, limits).met)
    assert met[limits == 0].eq(0).all()
    assert (met >= torch.tensor([lookup.buckets(limit - 1) if limit else 0 for limit in limits.tolist()])).all()
    budget = int(met.median())
    assert torch.equal(lookup.cost(queries, limits, budget), torch.where(met > budget, -1, met))
    assert torch.equal(lookup.within(queries, limits, budget=budget).met, torch.where(met > budget, -1, met))


def test_buckets_without_end_are_not_looked_into():
    """The budget ends a query whose buckets alone are more, before it looks into them; these are two million."""
    lookup = Lookup.build(random_codes(1000, 8), 4, tables=2)
    queries = random_codes(3, 8)
    assert lookup.buckets(lookup.largest_radius) > 2 * 10**6
    assert (lookup.within(queries, lookup.largest_radius + 1, budget=1000).met == -1).all()
    assert (lookup.nearest(queries, 1000, 64, budget=1000).met == -1).all()


def test_a_query_beyond_the_largest_radius_gives_up():
    lookup = Lookup.build(random_codes(100, 64), 2, tables=3)
    queries = random_codes(2, 64)
    met = lookup.within(queries, torch.tensor([lookup.largest_radius + 2, 1])).met
    assert met[0] == -1
    assert met[1] >= 1


@pytest.mark.parametrize("make", KINDS)
def test_kept(make):
    torch.manual_seed(0)
    gallery = make(1000, 8)
    lookup = Lookup.build(gallery, 3)
    for keep in (torch.rand(1000) < 0.7, torch.zeros(1000, dtype=torch.bool), torch.ones(1000, dtype=torch.bool)):
        kept = lookup.kept(keep, gallery[keep])
        check_within(kept, asked(gallery, 30), torch.full((30,), 4))
    assert torch.equal(kept.tables.rows, lookup.tables.rows)


def test_arrays_make_the_same_lookup():
    torch.manual_seed(0)
    gallery = near_codes(1000, 16)
    lookup = Lookup.build(gallery, 3)
    again = Lookup.of_arrays(gallery, {name: array.clone() for name, array in lookup.arrays().items()})
    check_within(again, asked(gallery, 30), torch.full((30,), 4))
    assert again.nbytes == lookup.nbytes == sum(array.nbytes for array in lookup.arrays().values())


@pytest.mark.parametrize("other", [random_codes(999, 16), random_codes(1000, 8)])
def test_tables_of_other_codes_are_refused(other):
    lookup = Lookup.build(random_codes(1000, 16), 3)
    with pytest.raises(ValueError, match=r"lookup: .* 1000|lookup: .* Build"):
        Lookup.of_arrays(other, lookup.arrays())


@pytest.mark.parametrize(("name", "value"), [("starts", 5), ("of_bits", 99), ("of_bits", -2), ("steps", 99), ("steps", -1)])
def test_damaged_tables_are_refused(name, value):
    lookup = Lookup.build(random_codes(1000, 16), 3)
    arrays = lookup.arrays()
    arrays[name] = arrays[name].clone()
    arrays[name].view(-1)[0] = value
    message = r"lookup: the tables are damaged, or list other rows than those of 1000 codes\. Build them anew"
    with pytest.raises(ValueError, match=message):
        Lookup.of_arrays(lookup.codes, arrays)


def test_damaged_rows_lead_to_no_address_outside_of_the_gallery():
    """Answers of damaged tables are wrong, but they are rows of the gallery, and no other memory is read."""
    gallery = near_codes(1000, 8)
    lookup = Lookup.build(gallery, 3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        arrays = {name: array.clone() for name, array in lookup.arrays().items()}
        inner = arrays["starts"][:, 1:-1]
        inner += torch.randint(0, 2**31, inner.shape, generator=generator) * (torch.rand(inner.shape, generator=generator) < 0.1)
        arrays["rows"] += torch.randint(-1000, 2**31, arrays["rows"].shape, generator=generator)
        found = Lookup.of_arrays(gallery, arrays).within(asked(gallery, 50), 4)
        assert ((found.ids >= 0) & (found.ids < 1000)).all()


def test_rows_beyond_int32(monkeypatch):
    """From 2**31 codes on the tables have 64-bit numbers; a lower bound makes them so for few codes."""
    torch.manual_seed(0)
    monkeypatch.setattr(kernels, "LARGEST_INT32", 100)
    gallery = near_codes(1000, 8)
    lookup = Lookup.build(gallery, 3)
    assert lookup.tables.starts.dtype == torch.int64
    check_within(lookup, asked(gallery, 30), torch.full((30,), 4))
    keep = torch.rand(1000) < 0.5
    check_within(lookup.kept(keep, gallery[keep]), asked(gallery, 30), torch.full((30,), 4))


def test_the_choice_prefers_balanced_bits_and_separates_equal_ones():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (5000, 64), dtype=np.uint8)
    bits[:, 32:48] = bits[:, :16]  # 16 bits exist twice
    bits[:, 48:] = 1  # 16 bits are constant
    gallery = torch.from_numpy(np.packbits(bits, axis=1, bitorder="little"))
    of_bits = Lookup.build(gallery, 2, tables=3).tables.of_bits
    assert (of_bits[48:] == -1).all()
    assert (of_bits[:16] != of_bits[32:48]).all()
    assert sorted(of_bits[of_bits >= 0].bincount().tolist()) == [16, 16, 16]
