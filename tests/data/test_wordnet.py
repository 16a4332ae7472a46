"""Tests of reading WordNet's files: a small generated database, and the real one if it is installed."""

import itertools
from pathlib import Path

import pytest
import torch

from orthohash_triton.data import fashion_mnist, wordnet

LICENCE = "  1 This software and database is being provided to you, the LICENSEE\n"

# name -> words, pointers (symbol, name), gloss
SYNSETS = {
    "thing": (["thing", "entity"], [("~", "animal"), ("~", "pet")], 'anything; "a thing"'),
    "animal": (["animal"], [("@", "thing"), ("~", "dog")], "a living thing"),
    "pet": (["pet"], [("@", "thing")], "kept at home"),
    "dog": (["dog", "domestic_dog"], [("@", "animal"), ("@", "pet"), ("#m", "pack"), ("~", "poodle")], "it barks"),
    "poodle": (["poodle"], [("@", "dog")], "curly"),
    "sausage": (["hot_dog", "dog"], [("@", "thing")], "eaten"),
    "pack": (["pack"], [("@", "thing"), ("%m", "dog")], "of dogs"),
    "Rex": (["Rex"], [("@i", "dog")], "an instance"),
}
SENSES = {"dog": ["dog", "sausage"]}  # of words in several synsets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    offsets = dict.fromkeys(SYNSETS, 0)
    for _ in range(2):  # the offsets are of fixed width
        lines, position = [], len(LICENCE)
        for name, (words, pointers, gloss) in SYNSETS.items():
            offsets[name] = position
            fields = [f"{position:08d}", "03", "n", f"{len(words):02x}", *itertools.chain(*((word, "0") for word in words))]
            fields += [f"{len(pointers):03d}"]
            fields += [f"{symbol} {offsets[other]:08d} n 0000" for symbol, other in pointers]
            lines.append(" ".join(fields) + f" | {gloss}  \n")
            position += len(lines[-1])
    index = {word: [name] for name, (words, _, _) in SYNSETS.items() for word in words} | SENSES
    entries = [
        f"{word.lower()} n {len(names)} 2 @ ~ {len(names)} 1 " + " ".join(f"{offsets[name]:08d}" for name in names) + "  \n"
        for word, names in sorted(index.items())
    ]
    (tmp_path / "data.noun").write_text(LICENCE + "".join(lines))
    (tmp_path / "index.noun").write_text(LICENCE + "".join(entries))
    return tmp_path


def test_names_and_offsets(folder: Path) -> None:
    nouns = wordnet.WordNet(folder)
    for name, expected in {
        "dog.n.01": "dog.n.01",
        "domestic_dog.n.01": "dog.n.01",
        "Dog.n.2": "hot_dog.n.01",
        "entity.n.01": "thing.n.01",
        "rex.n.01": "rex.n.01",
    }.items():
        offset = nouns.offset(name)
        assert nouns.name(offset) == expected
        assert nouns.offset(f"n{offset:08d}") == offset
    assert nouns.gloss("thing.n.01") == 'anything; "a thing"'
    assert nouns.gloss("dog.n.02") == "eaten"


def test_parents(folder: Path) -> None:
    pairs = list(wordnet.WordNet(folder).parents(["rex.n.01", "poodle.n.01"]))
    assert sorted(pairs) == [
        ("animal.n.01", "thing.n.01"),
        ("dog.n.01", "animal.n.01"),
        ("dog.n.01", "pet.n.01"),
        ("pet.n.01", "thing.n.01"),
        ("poodle.n.01", "dog.n.01"),
        ("rex.n.01", "dog.n.01"),
    ]


def test_distances_by_hand(folder: Path) -> None:
    # Spanned: poodle and Rex under dog (1), under animal and pet (2), under thing (3) with the sausage.
    distance = wordnet.wordnet_distance(["rex.n.01", "dog.n.02", "poodle.n.01"], folder)
    assert torch.equal(distance, torch.tensor([[0, 3, 1], [3, 0, 3], [1, 3, 0]]) / 3)


def test_the_environment_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORTHOHASH_WORDNET", str(folder))
    assert wordnet.find_folder() == folder
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: expected a folder with data\.noun and index\.noun.*fetch_wordnet\.sh"):
        wordnet.find_folder(tmp_path / "empty")
    monkeypatch.setenv("ORTHOHASH_WORDNET", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="ORTHOHASH_WORDNET"):
        wordnet.wordnet_distance(["dog.n.01"])


def test_unpacked_is_looked_for_where_debians_place_is_empty(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ORTHOHASH_WORDNET", raising=False)
    monkeypatch.setattr(wordnet, "INSTALLED", tmp_path / "nowhere")
    monkeypatch.setattr(wordnet, "UNPACKED", folder)
    assert wordnet.find_folder() == folder


@pytest.mark.parametrize(
    ("synset", "message"),
    [
        ("dog", 'a noun synset must be "dog.n.01"'),
        ("dog.v.01", "a noun synset must be \"dog.n.01\".*got 'dog.v.01'"),
        ("dog.n.x", "a noun synset must be"),
        ("dog.n.03", "no synset 'dog.n.03': 'dog' has 2 senses as a noun"),
        ("dog.n.00", "no synset 'dog.n.00'"),
        ("cat.n.01", "no synset 'cat.n.01': 'cat' is not among its nouns"),
        ("n00000001", "no noun synset 'n00000001'"),
        ("n99999999", "no noun synset 'n99999999'"),
    ],
)
def test_unknown_synsets(folder: Path, synset: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        wordnet.wordnet_distance([synset, "dog.n.01"], folder)
    for part in message.split(".*"):
        assert part in str(raised.value)


def test_one_synset_by_two_words_is_named_twice(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"classes must be different; got 'dog\.n\.01' more than once"):
        wordnet.wordnet_distance(["dog.n.01", "domestic_dog.n.01"], folder)


def test_fashion_mnist_needs_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORTHOHASH_WORDNET", str(tmp_path))
    distance = dict(
        zip(itertools.product(fashion_mnist.CLASS_NAMES, repeat=2), wordnet.fashion_mnist_distance().flatten(), strict=True)
    )
    # Worked out by hand on the table: shirt 1, garment 2, clothing 3, covering 4, artifact 6; shoe 1, footwear 2.
    for pair, sixths in {
        ("T-shirt/top", "Shirt"): 1,
        ("Shirt", "T-shirt/top"): 1,
        ("Sandal", "Sneaker"): 1,
        ("Pullover", "Coat"): 2,
        ("Trouser", "Shirt"): 2,
        ("Ankle boot", "Sneaker"): 2,
        ("Dress", "Coat"): 3,
        ("Ankle boot", "Dress"): 4,
        ("Bag", "Shirt"): 6,
        ("Bag", "Bag"): 0,
    }.items():
        assert float(distance[pair]) == pytest.approx(sixths / 6), pair


@pytest.fixture
def installed() -> wordnet.WordNet:
    try:
        return wordnet.WordNet()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_the_shipped_table_is_wordnets(installed: wordnet.WordNet) -> None:
    assert [installed.name(installed.offset(name)) for name in wordnet.FASHION_MNIST_SYNSETS] == list(
        wordnet.FASHION_MNIST_SYNSETS
    )
    above = set(installed.parents(wordnet.FASHION_MNIST_SYNSETS))
    chain = {pair for pair in above if pair not in wordnet.FASHION_MNIST_PARENTS}  # above the lowest node over all ten
    assert above - chain == set(wordnet.FASHION_MNIST_PARENTS)
    assert {child for child, _ in chain} == {"artifact.n.01", "whole.n.02", "object.n.01", "physical_entity.n.01"}
    distance = wordnet.wordnet_distance(wordnet.FASHION_MNIST_SYNSETS, installed.folder)
    assert torch.equal(distance, wordnet.fashion_mnist_distance())


@pytest.mark.parametrize(
    ("word", "gloss"),
    [
        ("t-shirt.n.01", "pullover shirt"),
        ("sneaker.n.01", "canvas shoe"),
        ("handbag.n.01", "carrying money"),
        ("dress.n.01", "one-piece garment"),
        ("coat.n.01", "outer garment"),
        ("n02872752", "covers the whole foot and lower leg"),
    ],
)
def test_the_shipped_senses_are_those_of_clothes(installed: wordnet.WordNet, word: str, gloss: str) -> None:
    assert installed.name(installed.offset(word)) in wordnet.FASHION_MNIST_SYNSETS
    assert gloss in installed.gloss(word)


def test_imagenets_names(installed: wordnet.WordNet) -> None:
    names = ["n02099601", "n02123159", "n03594945", "n02084071"]  # golden retriever, tiger cat, jeep, dog
    assert installed.name(installed.offset(names[0])) == "golden_retriever.n.01"
    distance = wordnet.wordnet_distance(names, installed.folder)
    retriever, cat, jeep, dog = range(4)
    assert distance[retriever, dog] < distance[retriever, cat] < distance[retriever, jeep]
    assert torch.equal(distance, distance.T)
