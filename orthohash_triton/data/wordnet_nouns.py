"""The data set wordnet-nouns: definitions of WordNet's nouns as features, with classes from its hypernym tree.

The licence of WordNet 3.0 (Miller, 1995) permits this use. No part of it is distributed with this package; `wordnet` describes
where it is read from and how to get it.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from .._base.reading import reader
from ..hierarchy import class_distance
from . import text, wordnet
from .dataset import Dataset, Splits, split_stratified
from .named import NamedDataset

MIN_NOUNS, MAX_NOUNS = 200, 2000  # synsets per class
_DEEPEST = 100  # levels of hypernyms, of which WordNet 3.0 has 20
CACHE_FILE = "wordnet-nouns-v1.npz"


class Noun(NamedTuple):
    """A synset that names a kind of thing: the offset of its first hypernym (None for the root), and its definition."""

    parent: int | None
    definition: str


def load(folder: str | Path | None = None) -> Dataset:
    """Load the data set from the cache, or make it from the WordNet in `folder` (see `wordnet.find_folder`).

    - inputs, float32 [56988, 256] for WordNet 3.0: `text.embed` of the definition, without the examples of use and the defined
      word. Of equal definitions only the first is kept. One in ten contains the first word of its class, because definitions name
      a wider kind: 88 % of the languages and 73 % of the fabrics do, but less than 10 % in two thirds of the classes.
    - labels, int64 [56988] of 84 classes: a cut through the tree of first hypernyms. A class is a synset with 200 to 2,000
      synsets at or below it whose own hypernym has more. Synsets above the cut, or below smaller branches, are left out, and so
      are instances (named people and places).
    - class_distance: `class_distance` in the same tree.
    - The order is that of the database.

    Raises:
        FileNotFoundError: WordNet is not installed.
        ImportError: wordllama is not installed.

    Example:
        >>> from orthohash_triton.data import wordnet_nouns
        >>> len(wordnet_nouns.load().class_names)  # doctest: +SKIP
        84
    """
    return text.cached(CACHE_FILE, lambda: build(wordnet.find_folder(folder)))


def load_splits(query_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Return `query_fraction` of every class as queries, and the rest as training set and gallery.

    Example:
        >>> from orthohash_triton.data import wordnet_nouns
        >>> train, gallery, query = wordnet_nouns.load_splits(query_fraction=0.2)  # doctest: +SKIP
    """
    return split_stratified(load(), query_fraction, seed)


def build(folder: Path, fewest: int = MIN_NOUNS, most: int = MAX_NOUNS) -> Dataset:
    """Make the data set that `load` describes from the database in `folder`, with classes of `fewest` to `most` synsets.

    Raises:
        ValueError: no branch of the tree has that many synsets.
        ImportError: wordllama is not installed.

    Example:
        >>> from orthohash_triton.data import wordnet, wordnet_nouns
        >>> wordnet_nouns.build(wordnet.find_folder(), fewest=100, most=1000).is_multilabel  # doctest: +SKIP
        False
    """
    nouns = read_nouns(folder / "data.noun")
    class_of = cut(nouns, fewest, most)
    if not class_of:
        raise ValueError(
            f"{folder} has no branch of {fewest} to {most} synsets; it holds {len(nouns)}. Is the database complete?"
        )
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


@reader("WordNet database")
def read_nouns(path: Path) -> dict[int, Noun]:
    """Read all nouns of a data.noun file by offset, without instances and the nouns below them.

    Example:
        >>> from orthohash_triton.data import wordnet, wordnet_nouns
        >>> len(wordnet_nouns.read_nouns(wordnet.find_folder() / "data.noun"))  # doctest: +SKIP
        74374
    """
    nouns = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        synset, _, gloss = line.partition(" | ")
        fields = synset.split()
        start = 5 + 2 * int(fields[3], 16)  # skip the words, each followed by a number, and the count of pointers
        pointers = list(zip(fields[start::4], fields[start + 1 :: 4], strict=False))  # (symbol, offset)
        hypernyms = [int(offset) for symbol, offset in pointers if symbol == "@"]
        if hypernyms or not any(symbol == "@i" for symbol, _ in pointers):
            nouns[int(fields[0])] = Noun(hypernyms[0] if hypernyms else None, gloss.partition('; "')[0].strip())
    _require_shallow(nouns)
    while below_instance := [offset for offset, noun in nouns.items() if noun.parent not in nouns and noun.parent is not None]:
        for offset in below_instance:
            del nouns[offset]
    return nouns


def _require_shallow(nouns: Mapping[int, Noun]) -> None:
    """Raise ValueError if the hypernyms of a noun form a circle, or a chain of absurd length, which would keep loops busy."""
    depths: dict[int, int] = {}
    for offset in nouns:
        chain, node = [], offset
        while node in nouns and node not in depths:
            chain.append(node)
            parent = nouns[node].parent
            if parent is None:
                break
            if len(chain) > _DEEPEST:
                raise ValueError(f"the hypernyms of the noun at {offset} form a circle, or more than {_DEEPEST} levels")
            node = parent
        below = depths.get(node, 0)
        if below + len(chain) > _DEEPEST:
            raise ValueError(f"the hypernyms of the noun at {offset} form more than {_DEEPEST} levels")
        depths |= {member: below + height for height, member in enumerate(reversed(chain), 1)}


def cut(nouns: Mapping[int, Noun], fewest: int, most: int) -> dict[int, int]:
    """Return the offset of the class of each noun that is in a class; see `load`.

    Example:
        >>> from orthohash_triton.data.wordnet_nouns import Noun, cut
        >>> nouns = {0: Noun(None, "thing"), 1: Noun(0, "animal"), 2: Noun(1, "dog"), 3: Noun(0, "tool")}
        >>> cut(nouns, fewest=2, most=3)
        {1: 1, 2: 1}
    """
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
    """Return the first of `offsets` with each definition, in order."""
    first = {nouns[offset].definition: offset for offset in reversed(offsets)}
    return sorted(first.values())


def _path(nouns: Mapping[int, Noun], offset: int) -> list[int]:
    """Return the offsets from the noun itself up to the root."""
    path = [offset]
    while (parent := nouns[path[-1]].parent) is not None:
        path.append(parent)
    return path


DATASET = NamedDataset(
    name="wordnet-nouns",
    summary="some 57,000 definitions of WordNet's nouns as features, of 84 classes with distances between them",
    splits=lambda options: load_splits(options.query_fraction, options.seed),
    samples={"": load},
)
