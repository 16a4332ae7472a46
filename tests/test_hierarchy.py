"""Tests of distances in a class hierarchy, against trees computed by hand and a slow search for the lowest common subsumer."""

import random

import pytest
import torch

from orthohash_triton.hierarchy import class_distance
from tests.tolerances import unit_roundoff

NESTED = {"thing": {"clothing": {"tops": ["shirt", "pullover"], "trousers": None}, "shoes": ["boot", "sandal"], "bag": {}}}
PARENTS = {
    "shirt": "tops",
    "pullover": "tops",
    "tops": "clothing",
    "trousers": "clothing",
    "boot": "shoes",
    "sandal": "shoes",
    "clothing": "thing",
    "shoes": "thing",
    "bag": "thing",
}
CLASSES = ["shirt", "pullover", "trousers", "boot", "sandal", "bag"]


def thirds(rows):
    return torch.tensor(rows, dtype=torch.float32) / 3


# Heights: tops 1, clothing 2, shoes 1, thing 3.
BY_HAND = thirds(
    [
        [0, 1, 2, 3, 3, 3],
        [1, 0, 2, 3, 3, 3],
        [2, 2, 0, 3, 3, 3],
        [3, 3, 3, 0, 1, 3],
        [3, 3, 3, 1, 0, 3],
        [3, 3, 3, 3, 3, 0],
    ]
)


@pytest.mark.parametrize("hierarchy", [NESTED, PARENTS, list(PARENTS.items()), [list(pair) for pair in PARENTS.items()]])
def test_by_hand(hierarchy):
    distance = class_distance(hierarchy, CLASSES)
    assert distance.dtype == torch.float32
    assert torch.equal(distance, BY_HAND)


def test_the_order_of_classes_is_that_of_the_answer():
    order = [4, 0, 5, 2, 1, 3]
    assert torch.equal(class_distance(NESTED, [CLASSES[i] for i in order]), BY_HAND[order][:, order])


def test_branches_without_a_class_count_for_nothing():
    # Without pullover tops is still above shirt; without shirt too, clothing has height 1.
    assert torch.equal(class_distance(NESTED, ["shirt", "trousers", "boot"]), thirds([[0, 2, 3], [2, 0, 3], [3, 3, 0]]))
    assert torch.equal(class_distance(NESTED, ["trousers", "boot"]), torch.tensor([[0.0, 1], [1, 0]]))
    # A chain above the lowest common node of all classes is not part of the tree that they span.
    chain = {"entity": {"object": NESTED}}
    assert torch.equal(class_distance(chain, CLASSES), BY_HAND)
    assert torch.equal(class_distance(chain, ["shirt", "pullover"]), torch.tensor([[0.0, 1], [1, 0]]))


def test_a_class_may_stand_above_another():
    # tops 1, clothing 2: shirt and tops meet in tops itself.
    distance = class_distance(NESTED, ["shirt", "tops", "trousers"])
    assert torch.equal(distance, torch.tensor([[0, 0.5, 1], [0.5, 0, 1], [1, 1, 0]]))


def test_several_parents():
    # "a" and "b" meet in p (height 1) and in q (height 2, over r over c): p is the lower one, whatever the order of the pairs.
    pairs = [("a", "p"), ("b", "p"), ("a", "q"), ("b", "q"), ("c", "r"), ("r", "q"), ("p", "root"), ("q", "root")]
    expected = thirds([[0, 1, 2], [1, 0, 2], [2, 2, 0]]) * 3 / 2  # q, of height 2, is the root of the tree that they span
    assert torch.equal(class_distance(pairs, list("abc")), expected)
    assert torch.equal(class_distance(pairs[::-1], list("abc")), expected)
    # With a class below root alone, root (height 3) is the lowest node above all.
    with_other = [*pairs, ("d", "root")]
    assert torch.equal(class_distance(with_other, list("abc")), expected)
    assert torch.equal(class_distance(with_other, list("abcd")), thirds([[0, 1, 2, 3], [1, 0, 2, 3], [2, 2, 0, 3], [3, 3, 3, 0]]))


def test_one_class():
    assert torch.equal(class_distance(NESTED, ["boot"]), torch.zeros(1, 1))


def test_names_need_not_be_strings():
    assert torch.equal(
        class_distance({1: 10, 2: 10, 3: 11, 10: 11}, [1, 2, 3]), torch.tensor([[0, 0.5, 1], [0.5, 0, 1], [1, 1, 0]])
    )


def search(pairs, classes):
    """Compute the distances by their definition, node by node, with paths instead of sets."""
    parents = {}
    for child, parent in pairs:
        parents.setdefault(child, set()).add(parent)

    def above(node):
        return {node}.union(*(above(parent) for parent in parents.get(node, ())))

    def paths_up(node, length=0):
        yield node, length
        for parent in parents.get(node, ()):
            yield from paths_up(parent, length + 1)

    height = {}
    for name in classes:
        for node, length in paths_up(name):
            height[node] = max(height.get(node, 0), length)
    common = set.intersection(*map(above, classes))
    root = min(height[node] for node in common)
    distance = torch.zeros(len(classes), len(classes))
    for i, u in enumerate(classes):
        for j, v in enumerate(classes):
            if i != j:
                distance[i, j] = min(height[node] for node in above(u) & above(v)) / root
    return distance


@pytest.mark.parametrize("seed", range(20))
def test_against_a_search_in_random_graphs(seed):
    rng = random.Random(seed)
    size = rng.randint(5, 40)
    pairs = [(node, parent) for node in range(1, size) for parent in {rng.randrange(node) for _ in range(rng.randint(1, 3))}]
    rng.shuffle(pairs)
    classes = rng.sample(range(size), rng.randint(2, size - 1))
    distance = class_distance(pairs, classes)
    torch.testing.assert_close(distance, search(pairs, classes), rtol=2 * unit_roundoff(), atol=0)
    assert torch.equal(distance, distance.T)
    assert distance.min() == 0
    assert distance.max() <= 1


def test_an_ultrametric_on_a_tree():
    rng = random.Random(3)
    distance = class_distance({node: rng.randrange(node) for node in range(1, 60)}, range(30, 60))
    assert (distance[:, :, None] <= torch.maximum(distance[:, None], distance.T[None])).all()
    assert distance.max() == 1


@pytest.mark.parametrize(
    ("hierarchy", "classes", "error", "message"),
    [
        (NESTED, [], ValueError, "classes must name at least one class"),
        (NESTED, "shirt", TypeError, "classes must be a sequence of names; got str 'shirt'"),
        (NESTED, ["shirt", "boot", "shirt"], ValueError, "classes must be different; got 'shirt' more than once"),
        (NESTED, ["shirt", "boots"], ValueError, "it lacks 'boots'. Names similar to 'boots' are 'boot'"),
        (NESTED, list("abcdefg"), ValueError, "it lacks 'a', 'b', 'c', 'd', 'e' and 2 more"),
        ({"x": ["a"], "y": ["b"]}, ["a", "b"], ValueError, "must have one root; got 2: 'x', 'y'. Add one node above"),
        ({"r": {"x": ["a"], "y": ["a", "b"]}}, ["a", "b"], ValueError, "name everything once; got 'a' in more than one place"),
        ({"r": {"r": ["a"]}}, ["a"], ValueError, "name everything once; got 'r' in more than one place"),
        ([("a", "x"), ("x", "y"), ("y", "x"), ("b", "r")], ["a", "b"], ValueError, "must have no cycle; got 'x' -> 'y' -> 'x'"),
        ([("x", "y"), ("y", "x"), ("y", "z"), ("z", "r"), ("w", "z")], ["x"], ValueError, "must have no cycle; got '"),
        ({"a": "a", "b": "r"}, ["b"], ValueError, "must have no cycle; got 'a' -> 'a'"),
        ({"a": "r", "x": ["b"]}, ["a", "b"], TypeError, "hierarchy mixes two forms: 'a' has 'r'"),
        ({"r": [["a"]]}, ["a"], TypeError, "the list of 'r' must hold names; got list"),
        ([("a", "r"), ("b",)], ["a"], TypeError, "got a list with ('b',), which is not a pair"),
        (["ab", "cd"], ["a"], TypeError, "got a list with 'ab', which is not a pair"),
        (3, ["a"], TypeError, "hierarchy must be a nested dict.*got int 3"),
        ({}, ["a"], ValueError, "it lacks 'a'"),
    ],
)
def test_errors(hierarchy, classes, error, message):
    with pytest.raises(error) as raised:
        class_distance(hierarchy, classes)
    assert str(raised.value).startswith("class_distance: ")
    for part in message.split(".*"):
        assert part in str(raised.value)


def test_defaults_of_torch_do_not_matter():
    expected = class_distance({"a": ["b", "c"]}, ["b", "c"])
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = class_distance({"a": ["b", "c"]}, ["b", "c"])
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32
