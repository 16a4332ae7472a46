"""Tests of searches with a second ranking by float vectors."""

import math

import numpy as np
import pytest
import torch

from orthohash_triton import pack_codes, unpack_codes
from orthohash_triton.search import HammingIndex, Rerank
from tests.tolerances import tolerance

GALLERY, QUERIES, DIMENSIONS = 200, 7, 24


def vectors(count, seed):
    return np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)


def setting(**storage):
    """Return (index, packed queries, float queries, float gallery). The codes are the signs of the vectors."""
    index = HammingIndex(DIMENSIONS, **storage)
    index.add(pack_codes(vectors(GALLERY, 0)))
    return index, pack_codes(vectors(QUERIES, 1)), vectors(QUERIES, 1), vectors(GALLERY, 0)


def scores_of(metric, query, gallery):
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "l2":
        return ((gallery - query) ** 2).sum(1)
    product = gallery @ query
    if metric == "cosine":
        product /= np.linalg.norm(query) * np.linalg.norm(gallery, axis=1)
    return product


def bounds(metric, queries, gallery, sides=1):
    """Return the bounds of float32 scores. A squared distance is |q|^2 + |g|^2 - 2 <q, g>, whose terms are larger than it is."""
    size = np.abs(queries) @ np.abs(gallery).T
    if metric == "l2":
        size = (np.linalg.norm(queries, axis=1).max() + np.linalg.norm(gallery, axis=1).max()) ** 2
    if metric == "cosine":
        size = 1.0
    return tolerance(queries.shape[1], float(np.max(size)), sums=2, sides=sides)


def expected(index, packed, queries, gallery, k, metric, k_factor, **filters):
    """Return (scores, positions), computed by sorting the whole shortlist."""
    _, shortlist = index.search(packed, min(math.ceil(k * k_factor), index.ntotal), **filters)
    answer = []
    for query, listed in zip(queries, shortlist, strict=True):
        listed = listed[listed >= 0]
        scores = scores_of(metric, query, gallery[listed])
        order = np.argsort(scores if metric == "l2" else -scores, kind="stable")[:k]
        answer.append((scores[order], listed[order]))
    return [np.stack(part) for part in zip(*answer, strict=True)]


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
@pytest.mark.parametrize(("k", "k_factor"), [(1, 1), (5, 4), (3, 2.5), (20, 1000)])
def test_ranks_the_shortlist_by_vectors(metric, k, k_factor):
    index, packed, queries, gallery = setting()
    right_scores, right_ids = expected(index, packed, queries, gallery, k, metric, k_factor)
    scores, ids = index.search(packed, k, rerank=Rerank(queries, gallery, metric=metric, k_factor=k_factor))
    np.testing.assert_allclose(scores, right_scores, **bounds(metric, queries, gallery))
    np.testing.assert_array_equal(ids, right_ids)
    assert (scores.dtype, ids.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("metric", ["inner_product", "cosine", "l2"])
@pytest.mark.parametrize("dimensions", [24, 19])
def test_asymmetric_ranking_needs_no_vectors(metric, dimensions):
    index = HammingIndex(24)
    index.add(pack_codes(vectors(GALLERY, 0)[:, :dimensions]))
    queries = vectors(QUERIES, 1)[:, :dimensions]
    packed, signs = pack_codes(queries), unpack_codes(index.codes, dimensions).numpy()
    right_scores, right_ids = expected(index, packed, queries, signs, 6, metric, 5)
    scores, ids = index.search(packed, 6, rerank=Rerank(queries, metric=metric, k_factor=5))
    np.testing.assert_allclose(scores, right_scores, **bounds(metric, queries, signs))
    np.testing.assert_array_equal(ids, right_ids)


def test_asymmetric_by_hand():
    index = HammingIndex(8)
    index.add(np.array([[0b00000000], [0b00000001], [0b11111111]], np.uint8))
    query = torch.tensor([[3.0, -1, -1, -1, -1, -1, -1, -1]])
    scores, ids = index.search(pack_codes(query), 3, rerank=Rerank(query))
    assert scores.tolist() == [[10.0, 4.0, -4.0]]
    assert ids.tolist() == [[1, 0, 2]]


def test_as_faiss_refines():
    """If the shortlist is the whole gallery, the answer equals that of a float index."""
    faiss = pytest.importorskip("faiss")
    index, packed, queries, gallery = setting()
    for metric, flat in (("inner_product", faiss.IndexFlatIP(DIMENSIONS)), ("l2", faiss.IndexFlatL2(DIMENSIONS))):
        flat.add(gallery)
        right_scores, right_ids = flat.search(queries, 5)
        scores, ids = index.search(packed, 5, rerank=Rerank(queries, gallery, metric=metric, k_factor=GALLERY))
        np.testing.assert_allclose(scores, right_scores, **bounds(metric, queries, gallery, sides=2))
        np.testing.assert_array_equal(ids, right_ids)


def test_equal_scores_stay_in_hamming_order():
    index, packed, queries, _ = setting()
    same = np.ones((GALLERY, DIMENSIONS), np.float32)
    for metric in ("inner_product", "cosine", "l2"):
        _, ids = index.search(packed, 9, rerank=Rerank(queries, same, metric=metric, check_signs=False))
        np.testing.assert_array_equal(ids, index.search(packed, 36)[1][:, :9])


def test_a_shortlist_is_never_longer_than_the_index():
    index, packed, queries, gallery = setting()
    right = index.search(packed, 5, rerank=Rerank(queries, gallery, k_factor=GALLERY))
    for k_factor in (1e15, 1e308):
        for ours, expected in zip(
            index.search(packed, 5, rerank=Rerank(queries, gallery, k_factor=k_factor)), right, strict=True
        ):
            np.testing.assert_array_equal(ours, expected)


def test_pieces_of_a_shortlist_answer_alike(monkeypatch):
    index, packed, queries, gallery = setting()
    whole = index.search(packed, 5, rerank=Rerank(queries, gallery, k_factor=30))
    monkeypatch.setattr("orthohash_triton.search.rerank._GATHERED_BYTES", 1)
    monkeypatch.setattr("orthohash_triton.search.rerank._FEWEST_COLUMNS", 40)
    for ours, right in zip(index.search(packed, 5, rerank=Rerank(queries, gallery, k_factor=30)), whole, strict=True):
        np.testing.assert_array_equal(ours, right)


# The same space before a head, of the same number of dimensions: the mistake that shapes do not show.
ROTATION = np.linalg.qr(np.random.default_rng(5).standard_normal((DIMENSIONS, DIMENSIONS)))[0].astype(np.float32)


def test_inputs_of_the_head_are_no_queries_for_codes():
    index, packed, queries, _ = setting()
    raw = queries @ ROTATION.T  # the head is a rotation: raw @ ROTATION == queries
    with pytest.raises(ValueError, match=r"search: rerank.queries are compared with codes, but only \d+% of .*such as head\(x\)"):
        index.search(packed, 5, rerank=Rerank(raw))
    with pytest.raises(ValueError, match="but only"):
        index.search(packed[:1], 5, rerank=Rerank(raw[:1]))
    assert index.search(packed, 5, rerank=Rerank(raw, check_signs=False))[1].shape == (QUERIES, 5)


@pytest.mark.parametrize("as_function", [False, True])
def test_queries_and_vectors_of_two_spaces(as_function):
    index, packed, queries, gallery = setting()
    raw, raw_gallery = queries @ ROTATION.T, gallery @ ROTATION.T

    def vectors(rows):
        return (lambda ids: rows[ids]) if as_function else rows

    with pytest.raises(ValueError, match=r"search: rerank.queries are the vectors .* \(100% .* rerank.vectors are not \(\d\d%\)"):
        index.search(packed, 5, rerank=Rerank(queries, vectors(raw_gallery)))
    with pytest.raises(ValueError, match=r"search: rerank.vectors are the vectors .* \(100% .* rerank.queries are not \(\d\d%\)"):
        index.search(packed, 5, rerank=Rerank(raw, vectors(gallery)))
    index.search(packed, 5, rerank=Rerank(raw, vectors(gallery), check_signs=False))
    right = index.search(packed, 5, rerank=Rerank(queries, vectors(gallery)))[1]
    np.testing.assert_array_equal(index.search(packed, 5, rerank=Rerank(raw, vectors(raw_gallery)))[1], right)


def test_queries_that_differ_little_from_their_codes_are_accepted():
    """Zeros and NaN have no sign, rounding changes the sign of small numbers, and a threshold that of some."""
    index, packed, queries, gallery = setting()
    rounded = np.where(np.abs(queries) < 0.2, -queries, queries)
    for kind in (rounded, np.where(np.abs(queries) < 1, 0, queries), np.full_like(queries, np.nan), np.sign(queries)):
        index.search(packed, 5, rerank=Rerank(kind))
        index.search(packed, 5, rerank=Rerank(kind, gallery))
    padded = HammingIndex(32)
    padded.add(np.pad(pack_codes(gallery), ((0, 0), (0, 1))))
    padded.search(np.pad(packed, ((0, 0), (0, 1))), 5, rerank=Rerank(np.pad(queries, ((0, 0), (0, 3)))))


@pytest.mark.parametrize("gathered", [1, 4 * DIMENSIONS * 20 * 2 + 1])
def test_pieces_of_queries_answer_alike(monkeypatch, gathered):
    index, packed, queries, gallery = setting()
    whole = index.search(packed, 5, rerank=Rerank(queries, gallery))
    monkeypatch.setattr("orthohash_triton.search.rerank._GATHERED_BYTES", gathered)
    for ours, right in zip(index.search(packed, 5, rerank=Rerank(queries, gallery)), whole, strict=True):
        np.testing.assert_array_equal(ours, right)


def test_vectors_of_any_kind(tmp_path):
    index, packed, queries, gallery = setting()
    np.save(tmp_path / "gallery.npy", gallery)
    right_scores, right_ids = index.search(packed, 5, rerank=Rerank(queries, gallery))
    kinds = [
        torch.from_numpy(gallery),
        torch.from_numpy(gallery).requires_grad_(),
        gallery.astype(np.float64),
        np.load(tmp_path / "gallery.npy", mmap_mode="r"),
        lambda ids: gallery[ids],
        lambda ids: torch.from_numpy(gallery)[ids].double(),
    ]
    for kind in kinds:
        scores, ids = index.search(packed, 5, rerank=Rerank(queries, kind))
        np.testing.assert_array_equal(ids, right_ids)
        np.testing.assert_array_equal(scores, right_scores)
    scores, ids = index.search(torch.from_numpy(packed), 5, rerank=Rerank(torch.from_numpy(queries), gallery))
    assert isinstance(scores, torch.Tensor)
    np.testing.assert_array_equal(ids, right_ids)
    half = index.search(packed, 5, rerank=Rerank(torch.from_numpy(queries).bfloat16(), torch.from_numpy(gallery).half()))[0]
    np.testing.assert_allclose(half, right_scores, atol=0.1)


def test_only_rows_of_the_shortlist_are_fetched_once_each():
    index, packed, queries, gallery = setting()
    asked = []

    def fetch(ids):
        asked.append(ids)
        return gallery[ids]

    index.search(packed, 5, rerank=Rerank(queries, fetch, k_factor=3))
    (ids,) = asked
    assert sorted(ids) == sorted(np.unique(index.search(packed, 15)[1]))


def test_vectors_stand_by_position_and_functions_get_ids():
    _, packed, queries, gallery = setting()
    index, names = HammingIndex(DIMENSIONS), np.arange(GALLERY)[::-1] * 10
    index.add_with_ids(pack_codes(gallery), names)
    by_position = index.search(packed, 5, rerank=Rerank(queries, gallery))
    by_id = index.search(packed, 5, rerank=Rerank(queries, lambda ids: gallery[::-1][ids // 10]))
    for ours, right in zip(by_id, by_position, strict=True):
        np.testing.assert_array_equal(ours, right)
    np.testing.assert_array_equal(by_position[1], names[setting()[0].search(packed, 5, rerank=Rerank(queries, gallery))[1]])


def test_filters_and_padding():
    index, packed, queries, gallery = setting()
    mask = np.zeros(GALLERY, bool)
    mask[[3, 50, 120]] = True
    for metric, worst in (("inner_product", -np.inf), ("cosine", -np.inf), ("l2", np.inf)):
        right_scores, right_ids = expected(index, packed, queries, gallery, 5, metric, 4, mask=mask)
        for filters in ({"mask": mask}, {"ids": [3, 50, 120]}):
            scores, ids = index.search(packed, 5, rerank=Rerank(queries, gallery, metric=metric), **filters)
            np.testing.assert_allclose(scores[:, :3], right_scores, **bounds(metric, queries, gallery))
            np.testing.assert_array_equal(ids[:, :3], right_ids)
            assert (scores[:, 3:] == worst).all()
            assert (ids[:, 3:] == -1).all()
        scores, ids = HammingIndex(DIMENSIONS).search(packed, 2, rerank=Rerank(queries, gallery[:0], metric=metric))
        assert (scores == worst).all()
        assert (ids == -1).all()


def test_nan_ranks_last_and_zeros_have_no_direction():
    index, packed, queries, gallery = setting()
    gallery[10] = np.nan
    gallery[20] = 0
    for metric in ("inner_product", "cosine", "l2"):
        scores, ids = index.search(packed, GALLERY + 2, rerank=Rerank(queries, gallery, metric=metric))
        assert (ids[:, -3:] == [10, -1, -1]).all()
        assert np.isnan(scores[:, -3]).all()
        if metric == "cosine":
            assert (scores[ids == 20] == 0).all()


@pytest.mark.parametrize("storage", ["mapped", "host"])
def test_codes_that_lie_elsewhere(tmp_path, storage):
    index, packed, queries, gallery = setting()
    index.save(tmp_path / "index")
    other = index.copy().to("cpu", storage="host") if storage == "host" else HammingIndex.load(tmp_path / "index", mmap=True)
    for how in (Rerank(queries), Rerank(queries, gallery)):
        for ours, right in zip(other.search(packed, 5, rerank=how), index.search(packed, 5, rerank=how), strict=True):
            np.testing.assert_array_equal(ours, right)


@pytest.mark.gpu
@pytest.mark.parametrize("storage", ["device", "host"])
def test_gpu(device, storage):
    index, packed, queries, gallery = setting()
    on_gpu = index.copy().to(device, storage=storage)
    for how in (Rerank(queries), Rerank(queries, gallery), Rerank(queries, torch.from_numpy(gallery).to(device), "cosine")):
        right_scores, right_ids = index.search(packed, 5, rerank=how)
        scores, ids = on_gpu.search(packed, 5, rerank=how)
        np.testing.assert_array_equal(ids, right_ids)
        np.testing.assert_allclose(scores, right_scores, **bounds("l2", queries, gallery, sides=2))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": [[1.0]]}, TypeError, r"queries must be a float tensor or array \[N, D\]; got list"),
        ({"queries": np.ones((7, 24), np.int64)}, TypeError, r"queries must be floats; got ndarray int64 \[7, 24\]"),
        ({"queries": torch.ones(24)}, ValueError, r"queries must be \[N, D\]; got float32 \[24\] on cpu"),
        ({"vectors": np.ones((200, 24), np.uint8)}, TypeError, r"vectors must be floats; got ndarray uint8 \[200, 24\]"),
        ({"vectors": "vectors.npy"}, TypeError, "vectors must be a float tensor or array"),
        (
            {"vectors": np.ones((200, 23))},
            ValueError,
            "queries and vectors must have the same number .*; got 24 and 23",
        ),
        ({"metric": "ip"}, ValueError, "metric must be one of 'inner_product', 'cosine', 'l2'; got 'ip'"),
        ({"k_factor": 0.5}, ValueError, "k_factor must be at least 1 and finite; got 0.5"),
        ({"k_factor": math.nan}, ValueError, "k_factor must be at least 1 and finite; got nan"),
        ({"k_factor": math.inf}, ValueError, "k_factor must be at least 1 and finite; got inf"),
        ({"k_factor": "4"}, TypeError, "k_factor must be a number; got str"),
        ({"k_factor": True}, TypeError, "k_factor must be a number; got bool"),
        ({"check_signs": 1}, TypeError, "check_signs must be True or False; got int 1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=f"Rerank: {message}"):
        Rerank(**{"queries": np.ones((7, 24)), **arguments})


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (
            Rerank(np.ones((6, 24))),
            ValueError,
            r"rerank.queries must have a row for each of the 7 queries; got ndarray float64 \[6, 24\]",
        ),
        (
            Rerank(np.ones((7, 25))),
            ValueError,
            r"rerank.queries must be \[Q, 24\] to be compared with codes of 24 bits .*Give rerank.vectors",
        ),
        (Rerank(np.ones((7, 16))), ValueError, r"rerank.queries must be \[Q, 24\]"),
        (
            Rerank(np.ones((7, 5)), np.ones((199, 5))),
            ValueError,
            r"rerank.vectors must have a row for each of the 200 codes .*\[199, 5\]",
        ),
        ("cosine", TypeError, "rerank must be a search.Rerank; got str 'cosine'"),
    ],
)
def test_bad_rerank(how, error, message):
    index, packed, _, _ = setting()
    with pytest.raises(error, match=f"HammingIndex.search: {message}"):
        index.search(packed, 3, rerank=how)


@pytest.mark.parametrize(
    ("fetch", "error", "message"),
    [
        (
            lambda ids: np.ones((len(ids), 23)),
            ValueError,
            r"vectors must return \[\d+, 24\] for \d+ ids; got ndarray float64 \[\d+, 23\]",
        ),
        (lambda ids: None, TypeError, "what vectors returns must be a float tensor or array"),
    ],
)
def test_bad_functions(fetch, error, message):
    index, packed, queries, _ = setting()
    with pytest.raises(error, match=f"Rerank: {message}"):
        index.search(packed, 3, rerank=Rerank(queries, fetch))


@pytest.mark.parametrize("size", [1e25, 1e-30])
def test_cosines_of_vectors_of_any_finite_length(size):
    """In float32 the squares of these vectors overflow or vanish."""
    index, packed, queries, gallery = setting()
    expected = index.search(packed, 5, rerank=Rerank(queries, gallery, metric="cosine"))
    sized = Rerank((queries * size).astype(np.float32), (gallery * size).astype(np.float32), metric="cosine")
    scores, ids = index.search(packed, 5, rerank=sized)
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_allclose(scores, expected[0], rtol=1e-5)
