"""Tests of class similarities, and of codebooks that follow them (SHC)."""

import math

import pytest
import torch

from orthohash_triton.codebooks import class_similarity, codebook_min_distance, make_codebook
from orthohash_triton.codebooks._minimum_distance import published_distance
from orthohash_triton.codebooks._semantic import _Search
from tests.tolerances import approximately, tolerance, unit_roundoff

pytestmark = pytest.mark.usefixtures("one_thread")

# Similarities are computed in float64 and rounded to float32 once: two of them differ by one unit in the last place at most.
ONE_ROUNDING = dict(rtol=0, atol=2 * unit_roundoff())


def problem(samples=60, classes=5):
    generator = torch.Generator().manual_seed(samples)
    labels = torch.arange(samples) % classes
    logits = 2 * torch.randn(samples, classes, generator=generator)
    logits[torch.arange(samples), labels] += 2  # a classifier that is mostly right
    return logits, labels


def by_loops(logits, classes_of, masked_of, normalise):
    """Compute the similarities by the formula, number by number."""
    classes = logits.shape[1]
    sums, counts = [[0.0] * classes for _ in range(classes)], [0] * classes
    for row, own, masked in zip(logits.tolist(), classes_of, masked_of, strict=True):
        weights = [0.0 if c in masked else math.exp(value) for c, value in enumerate(row)]
        for m in own:
            counts[m] += 1
            for c in range(classes):
                sums[m][c] += weights[c] / sum(weights)
    rows = [[value / counts[m] for value in sums[m]] for m in range(classes)]

    def normalised(rows):
        result = []
        for row in rows:
            mean = sum(row) / classes
            widest = max(abs(max(row) - mean), abs(min(row) - mean))
            result.append([(value - mean) / widest for value in row])
        return result

    def symmetric(rows):
        return [[(rows[i][j] + rows[j][i]) / 2 for j in range(classes)] for i in range(classes)]

    rows = symmetric(normalised(rows)) if normalise == "paper" else normalised(symmetric(rows))
    return torch.tensor([[1.0 if i == j else rows[i][j] for j in range(classes)] for i in range(classes)])


@pytest.mark.parametrize("normalise", ["paper", "code"])
@pytest.mark.parametrize("mask", ["prediction", "label"])
def test_similarity_against_explicit_loops(mask, normalise):
    logits, labels = problem()
    assert (logits.argmax(1) != labels).any()  # so that the two masks differ
    masked = (logits.argmax(1) if mask == "prediction" else labels).tolist()
    expected = by_loops(logits, [[c] for c in labels.tolist()], [[c] for c in masked], normalise)
    similarity = class_similarity(logits, labels, mask=mask, normalise=normalise)
    torch.testing.assert_close(similarity, expected, **ONE_ROUNDING)
    assert similarity.dtype == torch.float32
    assert torch.equal(similarity, similarity.T) == (normalise == "paper")
    assert torch.equal(class_similarity(logits.double(), labels, mask=mask, normalise=normalise), similarity)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_multi_hot_rows_count_for_each_class_and_mask_all(dtype):
    logits, labels = problem()
    hot = torch.nn.functional.one_hot(labels, 5)
    hot[::3, 2] = 1
    hot[7], hot[8] = 0, 1  # rows without a class, or of every class, are not counted
    classes = [[c for c in range(5) if y[c]] if 0 < sum(y) < 5 else [] for y in hot.tolist()]
    expected = by_loops(logits, classes, classes, "paper")
    torch.testing.assert_close(class_similarity(logits, hot.to(dtype)), expected, **ONE_ROUNDING)


def test_similarity_by_hand():
    # Two samples a class; the largest logit is masked, the others weigh 1 : 3, and 1 : 1.
    log = math.log
    logits = torch.tensor([[9, 0, log(3)], [9, 0, log(3)], [0, 9, 0], [0, 9, 0], [log(3), 0, 9], [log(3), 0, 9.0]])
    similarity = class_similarity(logits, torch.tensor([0, 0, 1, 1, 2, 2]))
    # Averages (0, 1/4, 3/4), (1/2, 0, 1/2), (3/4, 1/4, 0): minus 1/3, over 5/12, 1/3 and 5/12.
    expected = torch.tensor([[1, (-0.2 + 0.5) / 2, 1], [0.15, 1, 0.15], [1, 0.15, 1]])
    torch.testing.assert_close(similarity, expected)


def test_a_class_that_is_equally_like_all_others_is_like_none():
    """One sample of class 0 is predicted as class 1, so that its averages are (1/2, 1/2): no deviation to divide by."""
    logits = torch.tensor([[5.0, 0], [0, 5], [0, 5]])
    similarity = class_similarity(logits, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(similarity, torch.tensor([[1, (0 + 1) / 2], [(0 + 1) / 2, 1]]))


def test_similarity_in_parts_is_the_same(monkeypatch):
    logits, labels = problem(samples=101)
    whole = class_similarity(logits, labels)
    monkeypatch.setattr("orthohash_triton.codebooks._similarity._ENTRIES_AT_ONCE", 35)
    torch.testing.assert_close(class_similarity(logits, labels), whole, **ONE_ROUNDING)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"logits": torch.zeros(60)}, ValueError, r"logits must be a tensor \[N, C\]"),
        ({"logits": torch.zeros(60, 5).long()}, TypeError, "logits must be a tensor"),
        ({"logits": torch.zeros(60, 1)}, ValueError, "at least two classes"),
        ({"logits": torch.full((60, 5), float("nan"))}, ValueError, "logits must be finite"),
        ({"labels": torch.zeros(59).long()}, ValueError, r"labels must be \[60\] or \[60, 5\]"),
        ({"labels": torch.zeros(60)}, TypeError, "labels must be int64 class ids"),
        ({"labels": torch.arange(60) % 6}, ValueError, "labels has class 5; expected ids from 0 to 4"),
        ({"labels": torch.full((60,), -1)}, ValueError, "labels has class -1"),
        ({"labels": torch.arange(60) % 3}, ValueError, "2 of 5 classes have none, the first is class 3"),
        ({"mask": "none"}, ValueError, "mask must be one of 'prediction', 'label'"),
        ({"normalise": "no"}, ValueError, "normalise must be one of 'paper', 'code'"),
    ],
)
def test_bad_arguments_of_similarity(changed, error, message):
    logits, labels = problem()
    with pytest.raises(error, match=message):
        class_similarity(**(dict(logits=logits, labels=labels) | changed))


def superclasses(classes, groups, noise=0.1, seed=0):
    """Return similarities of 0.5 within a superclass and -0.1 between superclasses, plus noise."""
    group = torch.arange(classes) % groups
    similarity = -0.1 + 0.6 * (group[:, None] == group).float()
    similarity += noise * torch.randn(classes, classes, generator=torch.Generator().manual_seed(seed))
    similarity = ((similarity + similarity.T) / 2).clamp(-1, 1)
    return similarity.fill_diagonal_(1)


def digits():
    """Return the similarities of the ten digits from a linear classifier of 8 x 8 images."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = (torch.from_numpy(a) for a in datasets.load_digits(return_X_y=True))
    features = torch.cat([images.float() / 16, torch.ones(len(images), 1)], dim=1)
    weights = torch.linalg.lstsq(features, torch.nn.functional.one_hot(labels).float()).solution
    return class_similarity(10 * features @ weights, labels)


def error(codebook, similarity):
    codebook = codebook.to(similarity.dtype)
    return float((similarity - codebook @ codebook.T / codebook.shape[1]).square().sum())


@pytest.mark.parametrize(
    ("similarity", "bits"),
    [
        pytest.param(lambda: superclasses(100, 20), 32, id="100 classes, 32 bits"),
        pytest.param(lambda: superclasses(100, 20), 64, id="100 classes, 64 bits"),
        pytest.param(lambda: superclasses(30, 6), 16, id="30 classes, 16 bits"),
        pytest.param(digits, 16, id="digits, 16 bits"),
        pytest.param(digits, 32, id="digits, 32 bits"),
    ],
)
def test_semantic_halves_the_error_and_keeps_the_distance(similarity, bits):
    similarity = similarity()
    classes = len(similarity)
    start = make_codebook(classes, bits, method="minimum_distance")
    codebook = make_codebook(classes, bits, method="semantic", similarity=similarity)
    assert codebook.dtype == torch.int8
    assert codebook.shape == (classes, bits)
    assert codebook_min_distance(codebook) >= published_distance(classes, bits)
    assert error(codebook, similarity) <= error(start, similarity) / 2


def test_semantic_where_the_published_distance_cannot_be_reached():
    """Two of 196 codes of 8 bits differ in one bit only, although the papers' target is two."""
    similarity = superclasses(196, 14)
    start = make_codebook(196, 8, method="minimum_distance")
    assert codebook_min_distance(start) == 1 < published_distance(196, 8)
    codebook = make_codebook(196, 8, method="semantic", similarity=similarity)
    assert codebook_min_distance(codebook) == 1
    assert error(codebook, similarity) < 0.95 * error(start, similarity)


def test_lagrangian_alone_lowers_the_error_and_keeps_the_distance():
    similarity, distance = superclasses(100, 20), 10
    start = make_codebook(100, 32, method="minimum_distance").float()
    search = _Search(similarity, start, 32 - 2 * distance, seed=0)
    search.follow_lagrangian()
    rows = search.best[0]
    exact = error(rows.double(), similarity.double())
    assert search.error == pytest.approx(exact, **approximately(similarity.numel(), exact, sides=1))
    assert search.error < 0.9 * error(start, similarity)
    assert codebook_min_distance(rows) >= distance


def test_flip_costs_are_the_growth_of_the_error():
    similarity = superclasses(12, 4)
    rows = make_codebook(12, 16, method="bernoulli").float()
    distance = codebook_min_distance(rows)
    search = _Search(similarity, rows, limit=16 - 2 * distance, seed=0)
    products = rows @ rows.T
    costs, feasible = search._flip_costs(rows, products), search._feasible_flip_costs(rows, products)
    allowed = approximately(12, 8 / 16 * (similarity - products / 16).abs().sum(1), sides=1)
    for i in range(12):
        for k in range(16):
            flipped = rows.clone()
            flipped[i, k] *= -1
            growth = error(flipped.double(), similarity.double()) - error(rows.double(), similarity.double())
            assert 8 / 16 * costs[i, k].item() == pytest.approx(growth, **allowed)
            assert feasible[i, k].isinf() == (codebook_min_distance(flipped) < distance)


def test_descent_ends_where_no_flip_helps():
    similarity = superclasses(20, 4)
    search = _Search(similarity, make_codebook(20, 16, method="minimum_distance").float(), 16 - 2 * 4, seed=0)
    before = search.error
    search.descend()
    assert search.error < before
    # A flip whose gain is less than the rounding of the two errors is not seen. Costs are gains times 16 / 8.
    unseen = 16 / 8 * tolerance(similarity.numel(), search.error)["atol"]
    assert search._feasible_flip_costs(*search.best).min() > -unseen


def test_min_distance_rules():
    similarity = superclasses(20, 4)
    for distance in (3, 7):
        codebook = make_codebook(20, 16, method="semantic", similarity=similarity, min_distance=distance)
        assert codebook_min_distance(codebook) >= distance
    loose, tight = (
        error(make_codebook(20, 16, method="semantic", similarity=similarity, min_distance=d), similarity) for d in (3, 7)
    )
    assert loose < tight
    with pytest.raises(ValueError, match=r"min_distance=15; .* bound allow at most 8"):
        make_codebook(20, 16, method="semantic", similarity=similarity, min_distance=15)


def test_seed_decides_and_global_state_is_left_alone():
    similarity = superclasses(20, 4)
    state = torch.random.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first, again, other = (make_codebook(20, 16, method="semantic", similarity=similarity, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("classes", [1, 2])
def test_few_classes(classes):
    codebook = make_codebook(classes, 8, method="semantic", similarity=torch.ones(classes, classes))
    assert codebook.shape == (classes, 8)
    assert classes == 1 or codebook_min_distance(codebook) == published_distance(2, 8)  # similar, but not nearer than allowed


@pytest.mark.parametrize(
    ("similarity", "error", "message"),
    [
        (None, ValueError, r"needs similarity \[3, 3\]"),
        ([[1.0]], TypeError, "similarity must be a tensor"),
        (torch.eye(3).long(), TypeError, "similarity must be a tensor"),
        (torch.eye(4), ValueError, r"one row and one column per class, \[3, 3\]; got float32 \[4, 4\]"),
        (torch.eye(4)[:3], ValueError, r"one row and one column per class, \[3, 3\]; got float32 \[3, 4\]"),
        (torch.full((3, 3), float("nan")), ValueError, "must be finite"),
        (torch.tensor([[1, 2.0, 0], [2, 1, 0], [0, 0, 1]]), ValueError, "between -1 and 1, like a cosine; got 2"),
        (torch.tensor([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]), ValueError, r"symmetric; .* by 0.5. Take \(s \+ s.T\) / 2"),
        (torch.zeros(3, 3), ValueError, "a diagonal of 1; it is off by 1"),
    ],
)
def test_bad_similarities(similarity, error, message):
    with pytest.raises(error, match=message):
        make_codebook(3, 16, method="semantic", similarity=similarity)


def test_the_default_dtype_of_torch_does_not_matter():
    similarity = torch.eye(5)
    expected = make_codebook(5, 16, method="semantic", similarity=similarity)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(make_codebook(5, 16, method="semantic", similarity=similarity), expected)
    finally:
        torch.set_default_dtype(torch.float32)
