"""The data set debian-packages: descriptions of Debian packages as features, with their debtags as classes.

The texts come from the package lists of this machine (`apt-cache dumpavail`), which Debian provides and `apt-get update`
refreshes. The contents therefore depend on the release and the day, and the name of the data set contains a checksum of them. No
part of it is distributed with this package, because the licence of the descriptions as a collection is not established.
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
from .named import NamedDataset

MIN_PACKAGES = 100  # a tag with fewer packages is not a class
CACHE_FILE = "debian-packages-v1.npz"


class Package(NamedTuple):
    """A binary package: its name, its source package, the first line of its description, and its debtags."""

    name: str
    source: str
    description: str
    tags: frozenset[str]


def load() -> Dataset:
    """Load the data set from the cache, or make it from the package lists of this machine.

    - inputs, float32 [N, 256]: `text.embed` of the first line of the description without the name of the package. Packages
      without such a text are left out, and of packages with equal texts only the first by name is kept.
    - labels, bool [N, C]: the debtags of at least 100 packages, except the placeholders that end in TODO. Packages without any of
      them are left out.
    - groups, int64 [N]: packages whose source packages differ only in digits, such as gcc-11 and gcc-12, form a group.
    - The order is that of the names.

    Raises:
        FileNotFoundError: this machine has no Debian package lists with debtags.
        ImportError: wordllama is not installed.

    Example:
        >>> from orthohash_triton.data import debian
        >>> debian.load().class_names[:2]  # doctest: +SKIP
        ('accessibility::input', 'admin::automation')
    """
    return text.cached(CACHE_FILE, lambda: build(read_archive()))


def load_splits(query_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Return `query_fraction` of the packages as queries, drawn group by group, and the rest as training set and gallery.

    Example:
        >>> from orthohash_triton.data import debian
        >>> train, gallery, query = debian.load_splits(query_fraction=0.2)  # doctest: +SKIP
    """
    return split_stratified(load(), query_fraction, seed)


def read_archive() -> str:
    """Return the package lists of this machine, as `apt-cache dumpavail` prints them.

    Raises:
        FileNotFoundError: apt-cache is not installed, or fails.

    Example:
        >>> from orthohash_triton.data import debian
        >>> debian.read_archive().startswith("Package: ")  # doctest: +SKIP
        True
    """
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
    """Make the data set that `load` describes from package lists in the format of `apt-cache dumpavail`.

    Raises:
        FileNotFoundError: no debtag has `min_packages` packages.
        ImportError: wordllama is not installed.

    Example:
        >>> from orthohash_triton.data import debian
        >>> debian.build(debian.read_archive(), min_packages=500).is_multilabel  # doctest: +SKIP
        True
    """
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
    """Return the packages that have debtags, in the order of their names. Their own names are cut out of the descriptions.

    Example:
        >>> from orthohash_triton.data import debian
        >>> debian.parse("Package: anvil\\nDescription: Anvil, a forge of letters\\nTag: role::program")
        [Package(name='anvil', source='anvil', description=', a forge of letters', tags=frozenset({'role::program'}))]
    """
    packages = []
    for paragraph in archive.split("\n\n"):
        if "\nTag:" not in paragraph:
            continue
        fields = _fields(paragraph)
        if not {"Package", "Tag"} <= fields.keys():  # a paragraph that is cut off
            continue
        name = fields["Package"]
        synopsis = fields.get("Description", "").partition("\n")[0]
        tags = frozenset(fields["Tag"].replace("\n", " ").replace(",", " ").split())
        packages.append(Package(name, fields.get("Source", name).split(" ")[0], _without(synopsis, name), tags))
    return sorted(packages)


def _fields(paragraph: str) -> dict[str, str]:
    """Return the fields of a paragraph of "Name: value" lines. A line that begins with a space continues the field above."""
    starts = re.findall(r"^([^\s:]+):[ \t]*(.*(?:\n[ \t].*)*)", paragraph, flags=re.MULTILINE)
    return dict(starts)


def _without(synopsis: str, name: str) -> str:
    """Return `synopsis` without the whole words that equal `name` in any case."""
    return " ".join(re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", synopsis, flags=re.IGNORECASE).split())


def _distinct(packages: Iterable[Package]) -> Iterator[Package]:
    """Iterate over the packages that have a description, the first one of each."""
    seen = set()
    for package in packages:
        key = package.description.casefold()
        if key and key not in seen:
            seen.add(key)
            yield package


def _letters(source: str) -> str:
    """Return the name of a source package without digits and points, which is the same for all its versions."""
    return re.sub(r"[\d.]+", "", source)


def _fingerprint(packages: Iterable[Package]) -> str:
    """Return a checksum of all values of `packages` that the data set depends on."""
    lines = "\n".join(f"{package.name}\t{package.description}\t{' '.join(sorted(package.tags))}" for package in packages)
    return f"sha256 {hashlib.sha256(lines.encode()).hexdigest()[:12]}"


DATASET = NamedDataset(
    name="debian-packages",
    summary="some 28,000 descriptions of Debian packages as features, with several of 129 tags each",
    splits=lambda options: load_splits(options.query_fraction, options.seed),
    samples={"": load},
)
