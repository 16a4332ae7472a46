import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from orthohash_triton.kernels.cpu import _ranks

from orthohash_triton.metrics import (
    _labels,
    _ranking,
    average_precision,
    average_precision_from_scores,
    mean_average_precision,
    mean_average_precision_from_scores,
    ndcg,
)
from orthohash_triton.reference.average_precision import Rankings as reference_rankings
from orthohash_triton.reference.average_precision import average_precision as reference

TIES = ("stable", "expected")
DENOMINATORS = ("hits", "min", "relevant")


def at_distances(distances, bits=16):
    """Return a zero query, and gallery codes at the given distances from it."""
    ones = np.arange(bits) < np.array(distances)[:, None]
    return np.zeros((1, bits // 8), np.uint8), np.packbits(ones, axis=1, bitorder="little")


def ap(distances, relevant, **options):
    """Return the average precision of one query of class 1."""
    query, gallery = at_distances(distances)
    return float(average_precision(query, gallery, np.array([1]), np.array(relevant), **options)[0])


def distances_of(queries, gallery):
    return np.unpackbits(queries[:, None] ^ gallery[None], axis=2).sum(axis=2, dtype=np.int64)


def random_case(seed, queries=5, gallery=40, bits=16, classes=3, multi_hot=False):
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, 256, (n, bits // 8), dtype=np.uint8) for n in (queries, gallery)]
    shapes = [(n, classes) if multi_hot else (n,) for n in (queries, gallery)]
    labels = [rng.integers(0, 2 if multi_hot else classes, shape) for shape in shapes]
    relevant = labels[0] @ labels[1].T > 0 if multi_hot else labels[0][:, None] == labels[1]
    if multi_hot and classes == 1:  # a column of integers would be class ids
        labels = [own == 1 for own in labels]
    return codes, labels, torch.from_numpy(distances_of(*codes)), torch.from_numpy(relevant)


@pytest.mark.parametrize(
    ("relevant", "options", "expected"),
    [
        ([1, 0, 1], {}, 5 / 6),  # (1/1 + 2/3) / 2
        ([1, 0, 0], {}, 1.0),
        ([0, 0, 1], {}, 1 / 3),
        ([0, 0, 0], {}, 0.0),
        ([1, 0, 1, 1], {"k": 3}, 5 / 6),  # by the two hits within 3
        ([1, 0, 1, 1], {"k": 3, "denominator": "min"}, 5 / 9),  # by min(3, 3)
        ([1, 0, 1, 1], {"k": 2, "denominator": "min"}, 1 / 2),
        ([1, 0, 1, 1], {"k": 2, "denominator": "relevant"}, 1 / 3),
        ([0, 0, 1], {"k": 2, "denominator": "relevant"}, 0.0),
    ],
)
@pytest.mark.parametrize("ties", TIES)
def test_by_hand_without_ties(relevant, options, expected, ties):
    distances = [1, 4, 6, 7][: len(relevant)]
    assert ap(distances, relevant, ties=ties, **options) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("relevant", "ties", "options", "expected"),
    [
        ([0, 1], "stable", {}, 1 / 2),
        ([1, 0], "stable", {}, 1.0),
        ([0, 1], "expected", {}, 3 / 4),
        ([1, 1], "expected", {}, 1.0),
        ([0, 1], "expected", {"k": 1}, 1 / 2),
        ([0, 1, 1], "expected", {"k": 1, "denominator": "relevant"}, 1 / 3),  # 2/3 of the orders have half the relevant
    ],
)
def test_by_hand_all_tied(relevant, ties, options, expected):
    assert ap([3] * len(relevant), relevant, ties=ties, **options) == pytest.approx(expected, abs=1e-15)


def test_position_breaks_ties_and_distance_comes_first():
    assert ap([5, 2, 5, 2], [1, 0, 0, 1]) == pytest.approx((1 / 2 + 2 / 3) / 2)


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=5),
    k=st.one_of(st.none(), st.integers(1, 7)),
    denominator=st.sampled_from(DENOMINATORS),
)
def test_expected_is_the_mean_over_every_order(groups, k, denominator):
    orders = list(permutations(groups))
    values = [ap([d for d, _ in order], [int(r) for _, r in order], k=k, denominator=denominator) for order in orders]
    expected = ap([d for d, _ in groups], [int(r) for _, r in groups], k=k, denominator=denominator, ties="expected")
    assert expected == pytest.approx(math.fsum(values) / len(values), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 6),
    gallery=st.integers(1, 70),
    # 8 bits tie nearly everything; 72 bits and 70 classes cross the 64-bit words.
    bits=st.sampled_from([8, 16, 72]),
    classes=st.sampled_from([1, 3, 70]),
    multi_hot=st.booleans(),
    k=st.one_of(st.none(), st.integers(1, 80)),
    ties=st.sampled_from(TIES),
    denominator=st.sampled_from(DENOMINATORS),
)
def test_against_reference(seed, queries, gallery, bits, classes, multi_hot, k, ties, denominator):
    codes, labels, distances, relevant = random_case(seed, queries, gallery, bits, classes, multi_hot)
    options = {"k": k, "ties": ties, "denominator": denominator}
    expected = reference(distances, relevant, **options)
    torch.testing.assert_close(torch.from_numpy(average_precision(*codes, *labels, **options)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("k", [1, 700, None])
def test_large_tied_groups(k, denominator):
    # 8 bits and 3,000 items: groups of hundreds of ties, where hypergeometric weights span hundreds of orders of magnitude.
    codes, labels, distances, relevant = random_case(1, queries=2, gallery=3000, bits=8, classes=4)
    values = average_precision(*codes, *labels, k=k, ties="expected", denominator=denominator)
    expected = reference(distances, relevant, k=k, ties="expected", denominator=denominator)
    np.testing.assert_allclose(values, expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_long_lists_of_queries_with_different_labels(classes, monkeypatch):
    """Sets of classes overlap, so the queries of a batch can have more relevant items in total than the gallery has items."""
    monkeypatch.setattr(_ranks, "_NOTES", 50)
    codes, labels, distances, relevant = random_case(5, queries=40, gallery=300, classes=classes, multi_hot=True)
    labels[0][:, 0] = labels[1][:280, 0] = 1  # nearly all items are relevant
    relevant = torch.from_numpy(labels[0] @ labels[1].T > 0)
    words = _labels.Labels(*(torch.from_numpy(side) > 0 for side in labels)).as_arrays()
    queries, gallery = _ranks.lay_out_queries(codes[0], words[0]), _ranks.lay_out_gallery(codes[1], words[1], True)
    ends = [batch.starts[: batch.lists.max() + 1].max() for batch in _ranks.ranked_batches(queries, gallery, 0, 40)]
    assert 280 <= max(ends) < _ranks.Batch(queries, gallery).entries.size
    torch.testing.assert_close(torch.from_numpy(average_precision(*codes, *labels)), reference(distances, relevant))


def test_very_long_codes():
    """Four lanes have more different distances than 16 bits can represent."""
    codes, labels, _, relevant = random_case(6, queries=3, gallery=50, bits=8 * 2056)
    codes[0][0], codes[1][::2] = 0, 255
    expected = reference(torch.from_numpy(distances_of(*codes)), relevant)
    torch.testing.assert_close(torch.from_numpy(average_precision(*codes, *labels)), expected)


@pytest.mark.parametrize(
    ("function", "owner", "name"),
    [(average_precision, reference_rankings, "rank"), (ndcg, _ranking.Ranking, "gained_torch")],
)
def test_the_environment_chooses_the_reference(function, owner, name, monkeypatch):
    codes, labels, _, _ = random_case(7, multi_hot=True)
    expected, called = function(*codes, *labels), []
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *arguments: called.append(name) or original(*arguments))
    monkeypatch.setenv("ORTHOHASH_IMPL", "reference")
    np.testing.assert_allclose(function(*codes, *labels), expected, rtol=1e-12)
    assert called
    monkeypatch.setenv("ORTHOHASH_IMPL", "numpy")
    with pytest.raises(ValueError, match="ORTHOHASH_IMPL must be one of auto, triton, cpu, reference; got 'numpy'"):
        function(*codes, *labels)


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("bits", [24, 128, 136])
def test_reference_counts_the_same(multi_hot, bits, monkeypatch):
    # Gains on a GPU are computed in PyTorch, as in the reference. Small chunks, so that there are several.
    monkeypatch.setattr(_ranking, "_CHUNK", 100)
    monkeypatch.setattr("orthohash_triton.reference.average_precision._ELEMENTS", 100)
    codes, labels, _, _ = random_case(3, queries=7, gallery=41, bits=bits, classes=5, multi_hot=multi_hot)
    ranking = _ranking.check("test", *map(torch.from_numpy, [*codes, *labels]))
    gains, discounts = torch.arange(6.0, dtype=torch.float64).exp2(), torch.rand(41, dtype=torch.float64)
    gains[0] = 0
    for ks in ([], [1], [10, None]):
        limits = ranking.limits(ks)
        compare_rankings(list(ranking.ranked(ks, "cpu")), list(ranking.ranked(ks, "reference")))
        if ks:
            others = ranking.gained_torch(0, 7, limits, gains, discounts)
            for name, other in others._asdict().items():
                dim = 1 if name in ("discounted", "gained") else 0
                part = torch.cat([getattr(chunk, name) for chunk in ranking.gained(ks, gains, discounts)], dim=dim)
                torch.testing.assert_close(part, other, rtol=0, atol=1e-12)


def compare_rankings(found, expected):
    """Compare the chunks of two implementations, which may divide the queries in different ways."""
    sums, expected_sums = (
        [torch.cat(parts, dim=-1) for parts in zip(*(chunk.sums for chunk in chunks), strict=True)]
        for chunks in (found, expected)
    )
    for part, other in zip(sums, expected_sums, strict=True):
        assert part.dtype == other.dtype
        torch.testing.assert_close(part, other, rtol=1e-12, atol=0)
    for name in ("counts", "relevant"):
        assert torch.equal(*(torch.cat([getattr(chunk, name) for chunk in chunks]) for chunks in (found, expected)))


def check_triton(ranking, ks):
    """Compare the results of the Triton kernels with sorted distances."""
    chunks = list(ranking.ranked(ks, "triton"))
    compare_rankings(chunks, list(ranking.ranked(ks, "reference")))
    return chunks


def ranking_on(device, codes, labels):
    return _ranking.check("test", *(torch.from_numpy(array).to(device) for array in [*codes, *labels]))


# Segments are runs of eight codes: galleries that end within one, fill all of one part, leave the last ones of a part empty.
@pytest.mark.kernel
@pytest.mark.parametrize("gallery", [1, 256, 300])
def test_triton_with_few_distances(gallery, device):
    codes, labels, _, _ = random_case(gallery, queries=2, gallery=gallery, bits=8)
    labels[0][1] = 9  # nothing is relevant to this query
    check_triton(ranking_on(device, codes, labels), [1, 7, 41, 255, None])  # more limits than one launch accepts


# Distances in one block and a counter for the farthest, with three splits of the gallery; in two blocks, which hold that too.
@pytest.mark.kernel
@pytest.mark.parametrize(("bits", "multi_hot", "gallery"), [(64, False, 530), (136, True, 300)])
def test_triton_across_parts_and_chunks(bits, multi_hot, gallery, device, monkeypatch):
    from orthohash_triton.kernels import average_precision as kernels

    monkeypatch.setattr(kernels, "_FEWEST_BATCHES", 1)
    monkeypatch.setattr(kernels, "_TABLE_BYTES", 1)
    codes, labels, _, _ = random_case(
        bits, queries=2, gallery=gallery, bits=bits, classes=70 if multi_hot else 2, multi_hot=multi_hot
    )
    codes[1][90::100], codes[1][80::100] = codes[0][0], ~codes[0][0]  # the nearest and the farthest, in several parts
    if multi_hot:
        labels[1][:, :68] = 0  # classes of the second word alone, which not all items share
    ranking = ranking_on(device, codes, labels)
    gallery_labels = ranking.labels.words()[1]
    assert kernels.Rankings(2, ranking.gallery, gallery_labels, torch.tensor([200]), shared=multi_hot).plan.splits > 1
    assert len(check_triton(ranking, [200, None])) == 2


@pytest.mark.kernel
@pytest.mark.parametrize("bits", [320, 384, 520])
def test_triton_with_long_codes(bits, device):
    # Codes that are taken in pieces, two of them side by side or none, and codes that are read in a loop.
    codes, labels, _, _ = random_case(0, queries=1, gallery=20, bits=bits, classes=2)
    codes[1][3], codes[1][7:9] = codes[0][0], ~codes[0][0]
    check_triton(ranking_on(device, codes, labels), [None])


@pytest.mark.kernel
def test_triton_counts_many_ties(device):
    # One thread has hundreds of items at one distance, more than eight bit planes can count.
    codes, labels, _, _ = random_case(0, queries=1, gallery=64 * 129, bits=8)
    codes[1][:] = codes[0][0] ^ 3
    check_triton(ranking_on(device, codes, labels), [None])


@pytest.mark.kernel
def test_triton_without_ranks(device):
    codes, labels, _, _ = random_case(2, queries=3, gallery=41, bits=16)
    check_triton(ranking_on(device, codes, labels), [])


@pytest.mark.kernel
def test_triton_by_hand(device):
    # Distances 5, 2, 5, 2, 7: the order is 1, 3, 0, 2, 4, and items 0, 3 and 4 are relevant.
    codes, labels = at_distances([5, 2, 5, 2, 7]), [np.array([1]), np.array([1, 0, 0, 1, 1])]
    (ranked,) = ranking_on(device, codes, labels).ranked([1, 3, 5], "triton")
    expected = torch.tensor([[0.0], [1 / 2 + 2 / 3], [1 / 2 + 2 / 3 + 3 / 5]], dtype=torch.float64)
    torch.testing.assert_close(ranked.sums.precisions, expected, rtol=1e-12, atol=0)
    assert ranked.sums.hits.tolist() == [[0], [2], [3]]
    assert ranked.sums.totals.tolist() == [3]
    assert ranked.counts[0].nonzero().flatten().tolist() == [2, 5, 7]
    assert ranked.relevant[0, [2, 5, 7]].tolist() == [1, 1, 1]


@pytest.mark.parametrize("bits", [8, 64, 72, 128, 136, 520])
@pytest.mark.parametrize("gallery", [1, 63, 64, 65, 255, 256, 257, 1000, 1025])
def test_lanes_and_words(bits, gallery):
    # The CPU implementation takes the gallery in steps of four lanes of 64 codes: up to 128 bits as bit planes.
    codes, labels, distances, relevant = random_case(gallery, queries=3, gallery=gallery, bits=bits, classes=2)
    codes[1][gallery // 2 :] = codes[1][0]  # ties across lanes
    codes[0][2] = 0  # the empty slots of the last step must not be counted
    distances = torch.from_numpy(distances_of(*codes))
    for k in (None, 100):
        values = average_precision(*codes, *labels, k=k)
        np.testing.assert_allclose(values, reference(distances, relevant, k=k), rtol=1e-12)


@pytest.mark.parametrize("multi_hot", [False, True])
def test_any_number_of_queries_of_a_label(multi_hot, monkeypatch):
    # Queries with equal labels share the list of relevant items, within one batch of 16 and over several batches.
    counts = [40, 1, 15, 16, 17, 2, 33]
    codes, labels, distances, relevant = random_case(0, queries=sum(counts), gallery=300, bits=16, classes=7, multi_hot=multi_hot)
    chosen = np.random.default_rng(1).permutation(np.repeat(np.arange(7), counts))
    labels[0] = labels[0][chosen] if multi_hot else chosen
    relevant = torch.from_numpy(labels[0] @ labels[1].T > 0 if multi_hot else labels[0][:, None] == labels[1])
    np.testing.assert_allclose(average_precision(*codes, *labels), reference(distances, relevant), rtol=1e-12, atol=1e-15)


def test_more_relevant_items_than_a_batch_holds():
    # A batch stores up to 2**16 relevant items, or those of one query: this gives three batches of one query, then one of two.
    rng = np.random.default_rng(0)
    queries, gallery = (rng.integers(0, 256, (n, 1), dtype=np.uint8) for n in (5, 100_000))
    labels = rng.random(100_000) < 0.7
    query_labels = np.array([1, 1, 0, 1, 0])
    values = average_precision(queries, gallery, query_labels, labels.astype(int))
    distances = distances_of(queries, gallery)
    for row, label, value in zip(distances, query_labels, values, strict=True):
        ranked = labels[np.argsort(row, kind="stable")] == label
        assert value == pytest.approx((ranked.cumsum() / np.arange(1, 100_001))[ranked].mean(), rel=1e-12)


def test_too_large_a_gallery():
    codes, labels = torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"average_precision: gallery_codes must hold fewer than 2\*\*31 rows"):
        average_precision(codes, codes.expand(2**31, 1), labels, labels.expand(2**31))


@pytest.mark.gpu
def test_on_a_gpu(device):
    codes, labels, distances, relevant = random_case(4, queries=30, gallery=3000, bits=64)
    tensors = [torch.from_numpy(array).to(device) for array in [*codes, *labels]]
    for ties in TIES:
        values = average_precision(*tensors, ties=ties, k=500)
        assert values.device.type == device.type
        torch.testing.assert_close(values.cpu(), reference(distances, relevant, ties=ties, k=500), rtol=0, atol=1e-12)


def test_zero_hits():
    query, gallery = at_distances([1, 2])
    queries, labels = np.repeat(query, 2, axis=0), np.array([1, 7])  # nothing is relevant to the second
    arguments = (queries, gallery, labels, np.array([1, 0]))
    for ties in TIES:
        assert mean_average_precision(*arguments, ties=ties) == 0.5
        assert mean_average_precision(*arguments, ties=ties, zero_hits="skip") == 1.0
    assert math.isnan(mean_average_precision(queries, gallery, np.array([8, 9]), np.array([1, 0]), zero_hits="skip"))


def test_skip_counts_hits_within_k_only():
    query, gallery = at_distances([1, 2])
    arguments = (np.repeat(query, 2, axis=0), gallery, np.array([0, 1]), np.array([0, 1]))
    assert mean_average_precision(*arguments, k=1) == 0.5
    assert mean_average_precision(*arguments, k=1, zero_hits="skip") == 1.0


@pytest.mark.parametrize("ties", TIES)
def test_mean_kind_and_threads(ties):
    codes, labels, _, _ = random_case(5, queries=9)
    arrays = [*codes, *labels]
    tensors = [torch.from_numpy(array) for array in arrays]
    values = average_precision(*tensors, ties=ties)
    assert isinstance(values, torch.Tensor)
    assert values.dtype == torch.float64
    assert isinstance(average_precision(*arrays, ties=ties), np.ndarray)
    mean = mean_average_precision(*arrays, ties=ties)
    assert type(mean) is float
    assert mean == mean_average_precision(*tensors, ties=ties) == float(values.mean())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 2)
        assert torch.equal(average_precision(*tensors, ties=ties), values)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_multi_hot_dtypes(dtype):
    codes, labels, distances, relevant = random_case(6, multi_hot=True)
    tensors = [*map(torch.from_numpy, codes), *(torch.from_numpy(label).to(dtype) for label in labels)]
    torch.testing.assert_close(average_precision(*tensors), reference(distances, relevant), rtol=0, atol=1e-12)


def test_labels_are_not_changed_and_layouts_do_not_matter():
    codes, labels, distances, relevant = random_case(7, queries=6)
    strided = [np.repeat(array, 2, axis=0)[::2] for array in [*codes, *labels]]
    copies = [array.copy() for array in strided]
    torch.testing.assert_close(torch.from_numpy(average_precision(*strided)), reference(distances, relevant), rtol=0, atol=1e-12)
    for array, copy in zip(strided, copies, strict=True):
        assert (array == copy).all()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    gallery=st.integers(1, 50),
    k=st.one_of(st.none(), st.integers(1, 60)),
    denominator=st.sampled_from(DENOMINATORS),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    levels=st.sampled_from([2, 1000]),
)
def test_scores_against_reference(seed, gallery, k, denominator, dtype, levels):
    generator = torch.Generator().manual_seed(seed)
    scores = ((torch.randint(-levels, levels + 1, (4, gallery), generator=generator)) / levels).to(dtype)
    labels = [torch.randint(0, 3, (n,), generator=generator) for n in (4, gallery)]
    values = average_precision_from_scores(scores, *labels, k=k, denominator=denominator)
    expected = reference(-scores.double(), labels[0][:, None] == labels[1], k=k, denominator=denominator)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)


def test_scores_of_every_magnitude():
    # Both zeros tie, so position decides between them; infinities and subnormals keep their place.
    scores = np.array([[-0.0, 0.0, np.inf, -np.inf, 1e-45, -1e-45, 3e38, -3e38]], np.float32)
    order = [2, 6, 4, 0, 1, 5, 7, 3]
    for hit in range(8):
        labels = (np.arange(8) == hit).astype(int)
        assert average_precision_from_scores(scores, np.array([1]), labels)[0] == pytest.approx(1 / (order.index(hit) + 1))
    assert mean_average_precision_from_scores(scores, np.array([5]), labels) == 0.0


def bad(**changes):
    codes, labels, _, _ = random_case(0)
    arguments = dict(zip(("query_codes", "gallery_codes", "query_labels", "gallery_labels"), [*codes, *labels], strict=True))
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query_labels": np.array(["a"] * 5)}, TypeError, r"labels must be names on both sides .* ndarray <U1 \[5\]"),
        (
            {"query_labels": np.zeros(4, np.int64)},
            ValueError,
            "query_labels must have one row for each of the 5 rows of query_codes",
        ),
        ({"gallery_labels": np.zeros(5, np.int64)}, ValueError, "gallery_labels must have one row for each of the 40 rows"),
        ({"query_labels": np.zeros(5)}, TypeError, "query_labels must be integer class ids .* Convert class ids with .long"),
        ({"query_labels": np.zeros(5, bool)}, TypeError, "query_labels must be integer class ids"),
        ({"query_labels": 5}, TypeError, "query_labels must be a tensor, an array or a list of integer class ids"),
        ({"query_labels": np.zeros((5, 1, 1), int)}, ValueError, "query_labels must be integer class ids"),
        ({"query_labels": np.ones((5, 3), int)}, ValueError, "must be of one kind"),
        ({"query_labels": np.ones((5, 3), int), "gallery_labels": np.ones((40, 4), int)}, ValueError, "must be of one kind"),
        ({"query_labels": np.full((5, 3), 2), "gallery_labels": np.ones((40, 3), int)}, ValueError, "only 0 and 1"),
        ({"query_codes": np.zeros((5, 3), np.uint8)}, ValueError, "query_codes have 24 bits, gallery_codes 16"),
        ({"query_codes": np.zeros((5, 2), np.int8)}, TypeError, "query_codes must be"),
        (
            {"query_codes": np.zeros((0, 2), np.uint8), "query_labels": np.zeros(0, int)},
            ValueError,
            "query_codes must hold at least one",
        ),
        (
            {"gallery_codes": np.zeros((0, 2), np.uint8), "gallery_labels": np.zeros(0, int)},
            ValueError,
            "gallery_codes must hold",
        ),
        ({"k": 0}, ValueError, "k must be at least 1; got 0"),
        ({"k": 2.5}, TypeError, "k must be an integer"),
        ({"ties": "random"}, ValueError, "ties must be one of 'stable', 'expected'; got 'random'"),
        ({"denominator": "all"}, ValueError, "denominator must be one of 'hits', 'min', 'relevant'; got 'all'"),
        ({"zero_hits": "drop"}, ValueError, "zero_hits must be one of 'zero', 'skip'; got 'drop'"),
    ],
)
def test_bad_arguments(changes, error, message):
    with pytest.raises(error, match=rf"mean_average_precision: .*{message}"):
        mean_average_precision(**bad(**changes))


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (np.zeros((2, 3), int), TypeError, "scores must be a tensor"),
        (np.zeros(3), ValueError, r"scores must be a tensor \[Q, N\]"),
        (np.array([[0.0, np.nan, 1.0]] * 2), ValueError, "must not hold NaN"),
        (np.zeros((0, 3)), ValueError, "at least one row"),
        (np.zeros((2, 4)), ValueError, "gallery_labels must have one row for each of the 4 columns of scores"),
        (np.zeros((3, 3)), ValueError, "query_labels must have one row for each of the 3 rows of scores"),
    ],
)
def test_bad_scores(scores, error, message):
    with pytest.raises(error, match=message):
        average_precision_from_scores(scores, np.array([0, 1]), np.array([0, 1, 1]))


def test_words_hold_every_class():
    labels = torch.eye(130, dtype=torch.bool)
    words, _ = _labels.Labels(labels, labels).as_arrays()
    assert words.shape == (130, 3)
    assert [int(word).bit_count() for word in words.sum(axis=1, dtype=np.uint64)] == [1] * 130


@pytest.mark.parametrize("classes", [0, 1, 64, 130])
def test_words_of_multi_hot_rows_hold_one_bit_a_class(classes):
    labels = torch.rand(9, classes) < 0.5
    for words, rows in zip(_labels.Labels(labels, labels[:5]).as_arrays(), (labels, labels[:5]), strict=True):
        assert words.shape == (len(rows), max(1, math.ceil(classes / 64)))
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
        assert np.array_equal(bits[:, :classes], rows.numpy())
        assert not bits[:, classes:].any()


def test_scores_in_double_precision_keep_their_order():
    """Differences below the precision of float32 are not ties."""
    scores = np.array([[1.0, 1.0 + 1e-12, 1.0 - 1e-12]])
    assert average_precision_from_scores(scores, np.array([1]), np.array([0, 1, 0]))[0] == 1
    assert average_precision_from_scores(scores, np.array([1]), np.array([0, 0, 1]))[0] == pytest.approx(1 / 3)


def test_mean_from_scores_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.6]] * 3)
    labels = np.array([0, 1, 7]), np.array([0, 1, 0, 0])  # nothing is relevant to the third
    for k, denominator, zero, skip in (
        (None, "hits", ((1 + 2 / 3 + 3 / 4) / 3 + 1 / 2) / 3, ((1 + 2 / 3 + 3 / 4) / 3 + 1 / 2) / 2),
        (1, "hits", 1 / 3, 1),
        (2, "min", (1 / 2 + 1 / 2) / 3, 1 / 2),
        (2, "relevant", (1 / 3 + 1 / 2) / 3, (1 / 3 + 1 / 2) / 2),
    ):
        for zero_hits, expected in (("zero", zero), ("skip", skip)):
            found = mean_average_precision_from_scores(scores, *labels, k=k, denominator=denominator, zero_hits=zero_hits)
            assert found == pytest.approx(expected, abs=1e-15)
    with pytest.raises(
        ValueError, match="mean_average_precision_from_scores: zero_hits must be one of 'zero', 'skip'; got 'drop'"
    ):
        mean_average_precision_from_scores(scores, *labels, zero_hits="drop")


@pytest.mark.parametrize("name", ["query_labels", "gallery_labels", "gallery_codes"])
def test_arguments_on_different_devices(name):
    """ "meta" stands in for a GPU."""
    arguments = {key: torch.from_numpy(value) for key, value in bad().items()}
    arguments[name] = arguments[name].to("meta")
    with pytest.raises(ValueError, match=r"average_precision: .*(meta.*cpu|cpu.*meta).*; both must be on one device"):
        average_precision(**arguments)
