"""Tests of sizes that nothing can answer: they are refused, or cost no more than the largest answer."""

import numpy as np
import pytest

from orthohash_triton import hamming_range, hamming_topk
from orthohash_triton.ops.hamming_topk import nearest
from orthohash_triton.search import HammingIndex, _questions
from tests.search.galleries import codes, filled


def test_a_k_that_only_padding_could_fill():
    """The result would take 12 bytes for each of 2**31 places. Queries that do not exist take none."""
    with pytest.raises(
        ValueError, match=r"search: k is 2147483647, but there are only 300 codes .* 1 queries would have 24.0 GiB"
    ):
        filled().search(codes(1), 2**31 - 1)
    assert filled().search(codes(0), 1000)[0].shape == (0, 1000)


@pytest.mark.parametrize("ids", [None, range(300, 600)])
def test_a_large_k_searches_for_no_more_codes_than_there_are(monkeypatch, ids):
    asked = []
    monkeypatch.setattr(
        _questions, "nearest", lambda queries, gallery, k, mask=None, limits=None: asked.append(k) or nearest(queries, gallery, k)
    )
    distances, found = filled(ids=ids).search(codes(2), 10**6)
    assert asked == [300]
    assert distances.shape == found.shape == (2, 10**6)
    right = filled(ids=ids).search(codes(2), 300)
    np.testing.assert_array_equal(distances[:, :300], right[0])
    np.testing.assert_array_equal(found[:, :300], right[1])
    assert (distances[:, 300:] == 2**31 - 1).all()
    assert (found[:, 300:] == -1).all()
    monkeypatch.undo()
    for filters in ({"ids": found[0, :2]}, {"mask": np.zeros(300, bool)}, {"ids": []}):
        few = filled(ids=ids).search(codes(2), 10**6, **filters)[1]
        assert ((few >= 0).sum(1) == (2 if len(filters.get("ids", [])) else 0)).all()


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-5, ValueError), (2.0**26, TypeError), ("64M", TypeError), (True, TypeError)]
)
def test_bad_chunk_bytes(size, error):
    index = filled()
    with pytest.raises(error, match="HammingIndex: chunk_bytes must be"):
        index.chunk_bytes = size
    index.chunk_bytes = 2**62
    assert index.copy().chunk_bytes == 2**62


def test_codes_that_are_too_long():
    """The distance of longer codes would not fit beside a position, and results would be wrong."""
    longest = np.zeros((2, 2**20), np.uint8)
    with pytest.raises(
        ValueError, match=r"hamming_topk: queries must have codes of 8388600 bits or fewer; got uint8 \[2, 1048576\]"
    ):
        hamming_topk(longest, longest, 1)
    longest = longest[:, 1:]
    longest[1] = 255
    assert hamming_topk(longest, longest, 2)[0].tolist() == [[0, 8388600], [0, 8388600]]
    assert hamming_range(longest, longest, 10**30)[1].tolist() == [0, 8388600, 0, 8388600]


@pytest.mark.parametrize("ids", [range(10**30), range(0, -(10**30), -1), range(2**62), range(301)])
def test_ranges_of_more_ids_than_there_are(ids):
    """They are not written out, which would take more memory than there is."""
    index = filled()
    calls = [
        lambda: index.search(codes(1), 1, ids=ids),
        lambda: index.range_search(codes(1), 1, exclude_ids=ids),
        lambda: index.remove_ids(ids),
        lambda: index.reconstruct_batch(ids),
    ]
    for call in calls:
        with pytest.raises(IndexError, match=r"HammingIndex\.\w+: (exclude_)?ids must be in the index, .* 300 codes; got range"):
            call()
    with pytest.raises(ValueError, match=r"ids must be one for each of the 2 codes; got range"):
        HammingIndex(64).add_with_ids(codes(2), ids)
    HammingIndex(64).add_with_ids(codes(0), range(0))
    assert index.search(codes(1), 1, ids=range(299, -1, -1))[0].tolist() == [[0]]
