"""Definitions of WordNet's nouns, with classes from its hypernym tree: texts of one class each, as features.

WordNet 3.0 (Miller, 1995) has a licence of its own that permits this use; nothing of it ships with this package. Where it is read
from, and how to get it, says `wordnet`.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from ..hierarchy import class_distance
from . import text, wordnet
from .dataset import Dataset, Splits, split_stratified

MIN_NOUNS, MAX_NOUNS = 200, 2000  # in one class
CACHE_FILE = "wordnet-nouns-v1.npz"


class Noun(NamedTuple):
    """A synset that names a kind of thing: its first hypernym (None of the root) and its definition."""

    parent: int | None
    definition: str


def load(folder: str | Path | None = None) -> Dataset:
    """The nouns of the cached set, or else of the WordNet in `folder` (None looks as `wordnet.find_folder` does).

    Of WordNet 3.0: features float32 [56988, 256], labels int64 [56988] of 84 classes, and their class distance.

    text    the definition, without the examples of use and without the word that it defines, embedded by `text.embed`; of equal
            ones only the first is kept. One in ten has the first word of its class in it, as definitions name a wider kind:
            from 88 % of the languages and 73 % of the fabrics down to less than one in ten for two classes in three
    classes a cut through the tree of first hypernyms: every synset with 200 to 2,000 synsets at or below it whose own hypernym
            has more. What stands above the cut, or below a smaller branch, is left out, and so are instances (named people and
            places), which are no kinds of thing
    class_distance  that of `class_distance` in the same tree
    order   by place in the database

    Raises:
        FileNotFoundError: WordNet is not installed.
        ImportError: wordllama is not installed.
    """
    return text.cached(CACHE_FILE, lambda: build(wordnet.find_folder(folder)))


def load_splits(query_fraction: float = 0.1, seed: int = 0) -> Splits:
    """That fraction of every class as queries, the rest as training set and gallery."""
    return split_stratified(load(), query_fraction, seed)


def build(folder: Path, fewest: int = MIN_NOUNS, most: int = MAX_NOUNS) -> Dataset:
    """The data set of the database in `folder`, cut into classes of `fewest` to `most` synsets."""
    nouns = read_nouns(folder / "data.noun")
    class_of = cut(nouns, fewest, most)
    if not class_of:
        raise ValueError(f"{folder} has no branch of {fewest} to {most} synsets; it holds {len(nouns)}. Is it all of WordNet?")
    database = wordnet.WordNet(folder)
    classes = sorted(set(class_of.values()))
    names = tuple(map(database.name, classes))
    parents = dict(pair for offset in classes for pair in pairwise(_path(nouns, offset)))
    members = _distinct(nouns, sorted(class_of))
    number = {offset: i for i, offset in enumerate(classes)}
    labels = torch.tensor([number[class_of[offset]] for offset in members])
    inputs = text.embed([nouns[offset].definition for offset in members])
    name = f"wordnet-nouns, {len(members):,} definitions, {len(classes)} classes"
    return Dataset(inputs, labels, names, name, class_distance=class_distance(parents, classes))


def read_nouns(path: Path) -> dict[int, Noun]:
    """Offset -> noun, for all kinds of thing in a data.noun file: no instances, and nothing below one."""
    nouns = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        synset, _, gloss = line.partition(" | ")
        fields = synset.split()
        start = 5 + 2 * int(fields[3], 16)  # behind the words, each with a number of its own, and the number of pointers
        pointers = list(zip(fields[start::4], fields[start + 1 :: 4], strict=False))  # (symbol, offset)
        hypernyms = [int(offset) for symbol, offset in pointers if symbol == "@"]
        if hypernyms or not any(symbol == "@i" for symbol, _ in pointers):
            nouns[int(fields[0])] = Noun(hypernyms[0] if hypernyms else None, gloss.partition('; "')[0].strip())
    while below_instance := [offset for offset, noun in nouns.items() if noun.parent not in nouns and noun.parent is not None]:
        for offset in below_instance:
            del nouns[offset]
    return nouns


def cut(nouns: Mapping[int, Noun], fewest: int, most: int) -> dict[int, int]:
    """Offset of a noun -> offset of its class, for all nouns in a class: see `load`."""
    above = {offset: _path(nouns, offset) for offset in nouns}
    sizes = dict.fromkeys(nouns, 0)
    for path in above.values():
        for offset in path:
            sizes[offset] += 1
    class_of = {}
    for offset, path in above.items():
        highest = next((node for node in reversed(path) if sizes[node] <= most), None)
        if highest is not None and sizes[highest] >= fewest:
            class_of[offset] = highest
    return class_of


def _distinct(nouns: Mapping[int, Noun], offsets: Sequence[int]) -> list[int]:
    """The first of `offsets` with each definition."""
    first = {nouns[offset].definition: offset for offset in reversed(offsets)}
    return sorted(first.values())


def _path(nouns: Mapping[int, Noun], offset: int) -> list[int]:
    """From the noun itself up to the root."""
    path = [offset]
    while (parent := nouns[path[-1]].parent) is not None:
        path.append(parent)
    return path
