"""Distances between classes that are WordNet synsets, from the noun hierarchy (Miller, 1995) in WordNet's database files.

Debian packages the files as `wordnet-base`; tools/fetch_wordnet.sh installs or unpacks that package. The ten classes of
Fashion-MNIST need no files, because this module contains the part of the hierarchy that they span.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor

from .._base.quoting import quoted
from .._base.reading import naming
from ..hierarchy import class_distance
from . import _installed

INSTALLED = Path("/usr/share/wordnet")
UNPACKED = Path(".data/wordnet")

# In the order of fashion_mnist.CLASS_NAMES. The senses were chosen by hand, because the first sense of a name is often another
# thing: jersey.n.01 is an island, bag.n.01 any bag, and WordNet has no ankle boot.
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

# (child, parent) pairs of the part of WordNet 3.0 that they span.
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
_ABOVE = ("@", "@i")  # pointers to the hypernym of a kind and of an instance


def fashion_mnist_distance() -> Tensor:
    """Return the distances between the classes of Fashion-MNIST, float32 [10, 10] in [0, 1]. WordNet need not be installed.

    Example:
        >>> from orthohash_triton.data import fashion_mnist, wordnet
        >>> distance = wordnet.fashion_mnist_distance()
        >>> sandal, sneaker, bag = (fashion_mnist.CLASS_NAMES.index(name) for name in ("Sandal", "Sneaker", "Bag"))
        >>> bool(distance[sandal, sneaker] < distance[sandal, bag])
        True
    """
    return class_distance(FASHION_MNIST_PARENTS, FASHION_MNIST_SYNSETS)


def wordnet_distance(synsets: Sequence[str], folder: str | Path | None = None) -> Tensor:
    """Return the distances between classes that are WordNet noun synsets, float32 [C, C] in [0, 1]; see `class_distance`.

    Args:
        synsets: C different synsets in the order of the class ids, as "dog.n.01" or "n02084071". Any word of a synset names it.
        folder: folder of data.noun and index.noun; see `find_folder`.

    Raises:
        FileNotFoundError: WordNet is not installed.
        ValueError: a synset is unknown, or occurs twice.

    Example:
        >>> from orthohash_triton.data import wordnet
        >>> wordnet.wordnet_distance(["dog.n.01", "cat.n.01"])  # doctest: +SKIP
        tensor([[0., 1.],
                [1., 0.]])
    """
    wordnet = WordNet(folder)
    names = [wordnet.name(wordnet.offset(synset)) for synset in synsets]
    return class_distance(list(wordnet.parents(names)), names)


def find_folder(folder: str | Path | None = None) -> Path:
    """Return the folder that holds WordNet's data.noun and index.noun.

    If `folder` or else the environment variable ORTHOHASH_WORDNET names a folder, only that folder is tried. Otherwise Debian's
    folder and then ./.data/wordnet are tried.

    Raises:
        FileNotFoundError: the files are in none of them.

    Example:
        >>> from orthohash_triton.data import wordnet
        >>> wordnet.find_folder()  # doctest: +SKIP
        PosixPath('/usr/share/wordnet')
    """
    return _installed.find_folder(
        "WordNet was not found in", _FILES,
        folder=folder, variable="ORTHOHASH_WORDNET", places=(INSTALLED, UNPACKED),
        advice="Run tools/fetch_wordnet.sh (or apt-get install wordnet-base)",
    )  # fmt: skip


class WordNet:
    """The nouns of a WordNet database, which is read into memory.

    A synset is named "dog.n.01" (word, n, number of the sense) or "n02084071" (n and its offset in data.noun, as in ImageNet).

    Args:
        folder: see `find_folder`.

    Raises:
        FileNotFoundError: WordNet is not installed.

    Example:
        >>> from orthohash_triton.data.wordnet import WordNet
        >>> WordNet().gloss("dog.n.01")[:18]  # doctest: +SKIP
        'a member of the ge'
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = find_folder(folder)
        with self._reading():
            lines = (self.folder / _FILES[1]).read_bytes().splitlines()
            self._data = (self.folder / _FILES[0]).read_bytes()
        fields = (line.partition(b" ") for line in lines)
        self._index = {word: rest for word, _, rest in fields if word}  # lines of the licence begin with a space

    def offset(self, synset: str) -> int:
        """Return the offset of the synset in data.noun, which identifies it there and in ImageNet.

        Raises:
            ValueError: the name is malformed, or there is no such synset.
        """
        if synset[:1] == "n" and synset[1:].isdecimal() and len(synset) == 9:
            offset = int(synset[1:])
            if not self._line(offset).startswith(synset[1:].encode()):
                raise ValueError(
                    f"WordNet in {self.folder} has no noun synset {quoted(synset)}. Its offsets are those of version 3.0"
                )
            return offset
        word, _, sense = synset.rpartition(".n.")
        if not word or not sense.isdecimal():
            raise ValueError(f"a noun synset must be {_FORMS}; got {quoted(synset)}")
        offsets = self._senses(word)
        if not 1 <= int(sense) <= len(offsets):
            known = f"{quoted(word)} has {len(offsets)} senses as a noun" if offsets else f"{quoted(word)} is not among its nouns"
            raise ValueError(f"WordNet in {self.folder} has no synset {quoted(synset)}: {known}")
        return offsets[int(sense) - 1]

    def name(self, offset: int) -> str:
        """Return the name of the synset at `offset`, such as "dog.n.01": its first word, and the sense of that word."""
        with self._reading():
            word = self._fields(offset)[4].lower()
            return f"{word}.n.{self._senses(word).index(offset) + 1:02d}"

    def gloss(self, synset: str) -> str:
        """Return the definition and the examples of the synset."""
        line = self._line(self.offset(synset))
        with self._reading():
            return line.decode().partition("|")[2].strip()

    def parents(self, synsets: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Iterate over the (child, parent) pairs, by name, of the synsets and everything above them."""
        waiting = [self.offset(synset) for synset in synsets]
        seen = set(waiting)
        for offset in waiting:  # the loop appends to the list
            for above in self._above(offset):
                yield self.name(offset), self.name(above)
                if above not in seen:
                    seen.add(above)
                    waiting.append(above)

    def _above(self, offset: int) -> list[int]:
        """Return the offsets of the direct hypernyms."""
        with self._reading():
            fields = self._fields(offset)
            start = 4 + 2 * int(fields[3], 16)  # skip the words, each of which is followed by a number
            pointers = fields[start + 1 : start + 1 + 4 * int(fields[start])]
            return [int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] in _ABOVE]

    def _fields(self, offset: int) -> list[str]:
        """Return the fields of the line at `offset` that precede the gloss."""
        return self._line(offset).decode().partition("|")[0].split()

    def _line(self, offset: int) -> bytes:
        """Return data.noun from `offset` to the end of the line."""
        return self._data[offset : max(offset, self._data.find(b"\n", offset))]

    def _senses(self, word: str) -> list[int]:
        """Return the offsets of the synsets of a word, most frequent first; an empty list for an unknown word."""
        with self._reading():
            fields = self._index.get(word.lower().encode(), b"n 0").split()
            return [int(offset) for offset in fields[len(fields) - int(fields[1]) :]]

    def _reading(self) -> AbstractContextManager[None]:
        """Return a context whose errors name the database. Its lines are parsed when they are needed."""
        return naming(self.folder, "WordNet database")
