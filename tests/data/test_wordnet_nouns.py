from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from orthohash_triton import data
from orthohash_triton.data import text, wordnet, wordnet_nouns

# word -> (pointers to hypernyms, gloss). "thing" has 3 + 4 + 2 kinds below it; an instance and what is below it do not count.
NOUNS = {
    "thing": ([], "all there is"),
    "animal": ([("@", "thing")], 'something alive; "animals eat"'),
    "dog": ([("@", "animal")], "it barks"),
    "cat": ([("@", "animal"), ("@", "tool")], "it purrs; softly"),
    "tool": ([("@", "thing")], "something for a job"),
    "hammer": ([("@", "tool")], "for nails"),
    "saw": ([("@", "tool")], "for wood"),
    "jigsaw": ([("@", "saw")], "for curves in wood"),
    "feeling": ([("@", "thing")], "an emotional state"),
    "joy": ([("@", "feeling")], "for wood"),  # the same words as saw
    "rex": ([("@i", "dog")], "a dog of that name"),
    "rexling": ([("@", "rex")], "a kind below an instance"),
}


def write_database(folder: Path) -> dict[str, int]:
    """Write data.noun and index.noun of NOUNS, and return the offset of each word."""
    header = "  1 This software and database is being provided\n"
    offsets: dict[str, int] = dict.fromkeys(NOUNS, 0)
    for _ in range(2):  # offsets are eight digits, so the first pass finds all of them
        body = header
        for word, (pointers, gloss) in NOUNS.items():
            offsets[word] = len(body)
            all_pointers = [*pointers, ("~", "thing")]
            written = " ".join(f"{symbol} {offsets[other]:08d} n 0000" for symbol, other in all_pointers)
            body += f"{offsets[word]:08d} 03 n 02 {word} 0 {word}_too 1 {len(all_pointers):03d} {written} | {gloss}  \n"
    (folder / "data.noun").write_text(body)
    (folder / "index.noun").write_text(header + "".join(f"{word} n 1 0 1 0 {offset:08d}  \n" for word, offset in offsets.items()))
    return offsets


@pytest.fixture(autouse=True)
def short_embedding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the embedding of a text by its length, so that the tests do not need wordllama, and use an empty cache."""

    def embed(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(len(one)), 1.0] for one in texts])

    monkeypatch.setattr(text, "embed", embed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_read_nouns(tmp_path: Path) -> None:
    offsets = write_database(tmp_path)
    nouns = wordnet_nouns.read_nouns(tmp_path / "data.noun")
    assert set(nouns) == set(offsets.values()) - {offsets["rex"], offsets["rexling"]}
    assert nouns[offsets["thing"]] == (None, "all there is")
    assert nouns[offsets["animal"]] == (offsets["thing"], "something alive")
    assert nouns[offsets["cat"]] == (offsets["animal"], "it purrs; softly")


def test_cut(tmp_path: Path) -> None:
    offsets = write_database(tmp_path)
    words = {offset: word for word, offset in offsets.items()}
    nouns = wordnet_nouns.read_nouns(tmp_path / "data.noun")

    def classes(fewest: int, most: int) -> dict[str, str]:
        return {words[noun]: words[own] for noun, own in wordnet_nouns.cut(nouns, fewest, most).items()}

    animals = {"animal": "animal", "dog": "animal", "cat": "animal"}
    tools = {"tool": "tool", "hammer": "tool", "saw": "tool", "jigsaw": "tool"}
    assert classes(3, 4) == animals | tools  # thing is too large, feeling too small
    assert classes(2, 3) == animals | {"saw": "saw", "jigsaw": "saw"} | {"feeling": "feeling", "joy": "feeling"}
    assert classes(5, 9) == {}
    assert set(classes(2, 20).values()) == {"thing"}


def test_build(tmp_path: Path) -> None:
    write_database(tmp_path)
    dataset = wordnet_nouns.build(tmp_path, 2, 4)
    assert dataset.class_names == ("animal.n.01", "tool.n.01", "feeling.n.01")
    # joy is left out: its definition is that of saw
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 2]
    assert dataset.inputs[:, 0].tolist() == [15, 8, 16, 19, 9, 8, 18, 18]
    assert torch.equal(dataset.class_distance, 1 - torch.eye(3))
    deeper = wordnet_nouns.build(tmp_path, 1, 2)
    distance = {
        (a, b): float(deeper.class_distance[i, j])
        for i, a in enumerate(deeper.class_names)
        for j, b in enumerate(deeper.class_names)
    }
    assert distance["dog.n.01", "cat.n.01"] == 0.5
    assert distance["hammer.n.01", "saw.n.01"] == 0.5
    assert distance["cat.n.01", "hammer.n.01"] == 1  # cat's second hypernym does not count


def test_splits_and_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_database(tmp_path)
    monkeypatch.setenv("ORTHOHASH_WORDNET", str(tmp_path))
    monkeypatch.setattr(wordnet_nouns.build, "__defaults__", (3, 4))
    train, gallery, query = data.load_splits("wordnet-nouns", query_fraction=0.3)
    assert train is gallery
    assert query.labels.tolist() == [0, 1]
    assert len(gallery) == 5
    draws = [data.load_splits("wordnet-nouns", query_fraction=0.3, seed=seed).query.inputs.tolist() for seed in range(6)]
    assert len({str(draw) for draw in draws}) > 1
    monkeypatch.setenv("ORTHOHASH_WORDNET", str(tmp_path / "gone"))
    assert torch.equal(data.load_splits("wordnet-nouns", query_fraction=0.3).query.class_distance, query.class_distance)


def test_without_wordnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORTHOHASH_WORDNET", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="WordNet was not found in"):
        data.load_splits("wordnet-nouns")
    write_database(tmp_path)
    with pytest.raises(ValueError, match=r"has no branch of 200 to 2000 synsets; it holds 10"):
        data.load_splits("wordnet-nouns")


def test_real_cut() -> None:
    """The figures that the docstring of `load` states."""
    try:
        folder = wordnet.find_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    nouns = wordnet_nouns.read_nouns(folder / "data.noun")
    class_of = wordnet_nouns.cut(nouns, wordnet_nouns.MIN_NOUNS, wordnet_nouns.MAX_NOUNS)
    assert (len(nouns), len(class_of), len(set(class_of.values()))) == (74374, 57422, 84)
    assert len({nouns[offset].definition for offset in class_of}) == 56988
