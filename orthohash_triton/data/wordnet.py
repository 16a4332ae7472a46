"""WordNet's noun hierarchy (Miller, 1995), read from its database files: distances between classes that are WordNet synsets.

Debian ships the files as `wordnet-base`; tools/fetch_wordnet.sh installs or unpacks that package. The ten classes of
Fashion-MNIST need no files: the part of the hierarchy that they span stands below.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from ..hierarchy import class_distance

INSTALLED = Path("/usr/share/wordnet")
UNPACKED = Path(".data/wordnet")

# In the order of fashion_mnist.CLASS_NAMES. Not found by name: there "dress" and "coat" are fine, but "pullover" and "T-shirt"
# stand for what they are only in some senses (jersey is first of all an island), "bag" is first of all any bag, and there is no
# ankle boot.
FASHION_MNIST_SYNSETS = (
    "jersey.n.03",  # T-shirt: a close-fitting pullover shirt
    "trouser.n.01",
    "pullover.n.01",
    "dress.n.01",  # a one-piece garment for a woman
    "coat.n.01",  # an outer garment
    "sandal.n.01",
    "shirt.n.01",
    "gym_shoe.n.01",  # sneaker
    "bag.n.04",  # handbag
    "boot.n.01",  # footwear
)

# (child, parent) of what they span, from WordNet 3.0.
FASHION_MNIST_PARENTS = (
    ("jersey.n.03", "shirt.n.01"),
    ("shirt.n.01", "garment.n.01"),
    ("trouser.n.01", "garment.n.01"),
    ("pullover.n.01", "sweater.n.01"),
    ("sweater.n.01", "garment.n.01"),
    ("coat.n.01", "overgarment.n.01"),
    ("overgarment.n.01", "garment.n.01"),
    ("garment.n.01", "clothing.n.01"),
    ("dress.n.01", "woman's_clothing.n.01"),
    ("woman's_clothing.n.01", "clothing.n.01"),
    ("clothing.n.01", "covering.n.02"),
    ("clothing.n.01", "consumer_goods.n.01"),
    ("consumer_goods.n.01", "commodity.n.01"),
    ("commodity.n.01", "artifact.n.01"),
    ("sandal.n.01", "shoe.n.01"),
    ("gym_shoe.n.01", "shoe.n.01"),
    ("shoe.n.01", "footwear.n.02"),
    ("boot.n.01", "footwear.n.02"),
    ("footwear.n.02", "covering.n.02"),
    ("covering.n.02", "artifact.n.01"),
    ("bag.n.04", "container.n.01"),
    ("container.n.01", "instrumentality.n.03"),
    ("instrumentality.n.03", "artifact.n.01"),
)

_FILES = ("data.noun", "index.noun")
_FORMS = '"dog.n.01" (word, n, number of the sense) or "n02084071" (n and the offset in data.noun, as in ImageNet)'
_ABOVE = ("@", "@i")  # pointers to a hypernym: of a kind, of an instance


def fashion_mnist_distance() -> Tensor:
    """Distances of Fashion-MNIST's classes, float32 [10, 10] in [0, 1] (see `class_distance`), without WordNet installed."""
    return class_distance(FASHION_MNIST_PARENTS, FASHION_MNIST_SYNSETS)


def wordnet_distance(synsets: Sequence[str], folder: str | Path | None = None) -> Tensor:
    """Distances of classes that are WordNet noun synsets, float32 [C, C] in [0, 1]: see `class_distance`.

    synsets  C different ones, in the order of the class ids: "dog.n.01" or "n02084071". Any word of a synset names it.
    folder   where data.noun and index.noun are; None looks as `find_folder` does

    Raises FileNotFoundError without the files, ValueError for a synset that is unknown or named twice.
    """
    wordnet = WordNet(folder)
    names = [wordnet.name(wordnet.offset(synset)) for synset in synsets]
    return class_distance(list(wordnet.parents(names)), names)


def find_folder(folder: str | Path | None = None) -> Path:
    """The folder holding WordNet's data.noun and index.noun.

    Looked for, in order: `folder`, the environment variable ORTHOHASH_WORDNET, Debian's place, ./.data/wordnet. The first two are
    taken at their word: a folder named there that lacks the files is an error.
    """
    named = folder or os.environ.get("ORTHOHASH_WORDNET")
    candidates = [Path(named)] if named else [INSTALLED, UNPACKED]
    for candidate in candidates:
        if all((candidate / file).is_file() for file in _FILES):
            return candidate
    raise FileNotFoundError(
        f"WordNet was not found in {' or '.join(map(str, candidates))}: {' and '.join(_FILES)} are not both there. "
        "Run tools/fetch_wordnet.sh (or apt-get install wordnet-base), or set ORTHOHASH_WORDNET to the folder"
    )


class WordNet:
    """The nouns of a WordNet database, read when it is made.

    A synset goes by a name, "dog.n.01", or "n02084071" (see `offset`).
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = find_folder(folder)
        lines = (self.folder / _FILES[1]).read_bytes().splitlines()
        self._index = {word: rest for word, _, rest in (line.partition(b" ") for line in lines) if word}  # above: a licence
        self._data = (self.folder / _FILES[0]).read_bytes()

    def offset(self, synset: str) -> int:
        """Where the synset stands in data.noun, which is its identity there and, in ImageNet, its name."""
        if synset[:1] == "n" and synset[1:].isdecimal() and len(synset) == 9:
            offset = int(synset[1:])
            if not self._line(offset).startswith(synset[1:].encode()):
                raise ValueError(f"WordNet in {self.folder} has no noun synset {synset!r}. Its offsets are those of version 3.0")
            return offset
        word, _, sense = synset.rpartition(".n.")
        if not word or not sense.isdecimal():
            raise ValueError(f"a noun synset must be {_FORMS}; got {synset!r}")
        offsets = self._senses(word)
        if not 1 <= int(sense) <= len(offsets):
            known = f"{word!r} has {len(offsets)} senses as a noun" if offsets else f"{word!r} is not among its nouns"
            raise ValueError(f"WordNet in {self.folder} has no synset {synset!r}: {known}")
        return offsets[int(sense) - 1]

    def name(self, offset: int) -> str:
        """As "dog.n.01": its first word, and which of that word's senses it is."""
        word = self._fields(offset)[4].lower()
        return f"{word}.n.{self._senses(word).index(offset) + 1:02d}"

    def gloss(self, synset: str) -> str:
        """What the synset stands for, in WordNet's words."""
        return self._line(self.offset(synset)).decode().partition("|")[2].strip()

    def parents(self, synsets: Sequence[str]) -> Iterator[tuple[str, str]]:
        """(child, parent), by name, of everything above the synsets."""
        waiting = [self.offset(synset) for synset in synsets]
        seen = set(waiting)
        for offset in waiting:  # grows while it is read
            for above in self._above(offset):
                yield self.name(offset), self.name(above)
                if above not in seen:
                    seen.add(above)
                    waiting.append(above)

    def _above(self, offset: int) -> list[int]:
        fields = self._fields(offset)
        start = 4 + 2 * int(fields[3], 16)  # behind the words, each with a number of its own
        pointers = fields[start + 1 : start + 1 + 4 * int(fields[start])]
        return [int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] in _ABOVE]

    def _fields(self, offset: int) -> list[str]:
        return self._line(offset).decode().partition("|")[0].split()

    def _line(self, offset: int) -> bytes:
        return self._data[offset : max(offset, self._data.find(b"\n", offset))]

    def _senses(self, word: str) -> list[int]:
        """Offsets of the synsets of a word, the most frequent first; none for an unknown word."""
        fields = self._index.get(word.lower().encode(), b"n 0").split()
        return [int(offset) for offset in fields[len(fields) - int(fields[1]) :]]
