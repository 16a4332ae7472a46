"""Package descriptions of the Debian archive with their debtags: texts of several classes each, as features.

Read from this machine's package lists (`apt-cache dumpavail`), which Debian has and `apt-get update` refreshes, so what is in
the set depends on the release and the day; the name of the set tells both apart. Nothing of it ships with this package: the
licence of the descriptions as a collection is not established.
"""

import hashlib
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from . import text
from .dataset import Dataset, Splits, split_stratified

MIN_PACKAGES = 100  # of a tag, for it to be a class
CACHE_FILE = "debian-packages-v1.npz"


class Package(NamedTuple):
    """One binary package: its name, its source package, the first line of its description and its debtags."""

    name: str
    source: str
    description: str
    tags: frozenset[str]


def load() -> Dataset:
    """The packages of the cached set, or else of this machine's package lists: float32 [N, 256], labels bool [N, C].

    text    the first line of the description without the package's own name, embedded by `text.embed`; packages without one
            are left out, and of packages with the same text only the first by name is kept
    classes the debtags of at least 100 packages, but for the placeholders that end in TODO; packages without any are left out
    groups  packages whose source packages differ in digits only, as gcc-11 and gcc-12: they do not come apart in a split
    order   by name

    Raises:
        FileNotFoundError: this machine has no Debian package lists with debtags.
        ImportError: wordllama is not installed.
    """
    return text.cached(CACHE_FILE, lambda: build(read_archive()))


def load_splits(query_fraction: float = 0.1, seed: int = 0) -> Splits:
    """That fraction of the packages as queries, drawn group by group, the rest as training set and gallery."""
    return split_stratified(load(), query_fraction, seed)


def read_archive() -> str:
    """This machine's package lists, as `apt-cache dumpavail` prints them."""
    try:
        answer = subprocess.run(
            ["apt-cache", "dumpavail"], capture_output=True, check=True, encoding="utf-8", env={**os.environ, "LC_ALL": "C.UTF-8"}
        )
    except FileNotFoundError as error:
        raise FileNotFoundError("debian-packages is read from Debian's package lists, but apt-cache is missing here") from error
    except subprocess.CalledProcessError as error:
        raise FileNotFoundError(f"debian-packages: apt-cache dumpavail failed: {error.stderr.strip()}") from error
    return answer.stdout


def build(archive: str, min_packages: int = MIN_PACKAGES) -> Dataset:
    """The data set of package lists in the format of `apt-cache dumpavail`; `load` says what it holds."""
    packages = list(_distinct(parse(archive)))
    counts = Counter(tag for package in packages for tag in package.tags)
    classes = sorted(tag for tag, count in counts.items() if count >= min_packages and not tag.endswith("TODO"))
    packages = [package for package in packages if not package.tags.isdisjoint(classes)]
    if not packages:
        raise FileNotFoundError(
            f"debian-packages: no debtag has {min_packages} packages in this machine's package lists. "
            "Run apt-get update (tools/fetch_text_sets.sh does it) on Debian; other distributions carry no debtags"
        )
    sources = sorted({_letters(package.source) for package in packages})
    column, group = ({name: i for i, name in enumerate(names)} for names in (classes, sources))
    labels = torch.zeros(len(packages), len(classes), dtype=torch.bool)
    for row, package in enumerate(packages):
        labels[row, [column[tag] for tag in package.tags if tag in column]] = True
    groups = torch.tensor([group[_letters(package.source)] for package in packages])
    inputs = text.embed([package.description for package in packages])
    name = f"debian-packages, {len(packages):,} packages, {len(classes)} tags, {_fingerprint(packages)}"
    return Dataset(inputs, labels, tuple(classes), name, groups=groups)


def parse(archive: str) -> list[Package]:
    """The packages that have debtags, in the order of their names, with their own names cut out of the descriptions."""
    packages = []
    for paragraph in archive.split("\n\n"):
        if "\nTag:" not in paragraph:
            continue
        fields = _fields(paragraph)
        name = fields["Package"]
        synopsis = fields.get("Description", "").partition("\n")[0]
        tags = frozenset(fields["Tag"].replace("\n", " ").replace(",", " ").split())
        packages.append(Package(name, fields.get("Source", name).split(" ")[0], _without(synopsis, name), tags))
    return sorted(packages)


def _fields(paragraph: str) -> dict[str, str]:
    """Name -> value of a paragraph of "Name: value" lines; lines that begin with a space continue the field above."""
    starts = re.findall(r"^([^\s:]+):[ \t]*(.*(?:\n[ \t].*)*)", paragraph, flags=re.MULTILINE)
    return dict(starts)


def _without(synopsis: str, name: str) -> str:
    return " ".join(re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", synopsis, flags=re.IGNORECASE).split())


def _distinct(packages: Iterable[Package]) -> Iterator[Package]:
    seen = set()
    for package in packages:
        key = package.description.casefold()
        if key and key not in seen:
            seen.add(key)
            yield package


def _letters(source: str) -> str:
    """What names of source packages have in common across versions."""
    return re.sub(r"[\d.]+", "", source)


def _fingerprint(packages: Iterable[Package]) -> str:
    lines = "\n".join(f"{package.name}\t{package.description}\t{' '.join(sorted(package.tags))}" for package in packages)
    return f"sha256 {hashlib.sha256(lines.encode()).hexdigest()[:12]}"
