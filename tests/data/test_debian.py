import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from orthohash_triton import data
from orthohash_triton.data import debian, text

ARCHIVE = """\
Package: zed
Source: zed-editor (1.2-3)
Version: 2
Description: ZED, a zed-like editor for Zedboards
 A long description.
 .
 Tag: not a field
Tag: use::editing, role::program,
 suite::TODO

Package: anvil
Description: Forge of letters
Tag: role::program

Package: untagged
Description: Nothing is known about it

Package: gcc-11
Source: gcc-11
Description: Compiler
Tag: role::program, use::editing, suite::TODO

Package: gcc-12
Source: gcc-12
Description: compiler
Tag: role::program, suite::TODO

Package: gcc-12-doc
Source: gcc-12
Description: Manual of the compiler
Tag: use::editing, suite::TODO, rare::tag

Package: odd
Description: Has nothing but a rare tag
Tag: other::tag
"""


@pytest.fixture(autouse=True)
def short_embedding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the embedding of a text by its length, so that the tests do not need wordllama, and use an empty cache."""

    def embed(texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(len(one)), 1.0] for one in texts])

    monkeypatch.setattr(text, "embed", embed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_parse() -> None:
    packages = debian.parse(ARCHIVE)
    assert [package.name for package in packages] == ["anvil", "gcc-11", "gcc-12", "gcc-12-doc", "odd", "zed"]
    zed = packages[-1]
    assert zed.source == "zed-editor"
    assert zed.tags == {"use::editing", "role::program", "suite::TODO"}
    assert zed.description == ", a -like editor for Zedboards"  # whole words that equal the name in any case are removed
    assert packages[0].source == "anvil"


def test_build() -> None:
    dataset = debian.build(ARCHIVE, min_packages=3)
    assert dataset.class_names == ("role::program", "use::editing")  # neither TODO nor rare tags
    # gcc-12 has gcc-11's text; odd has no class
    assert dataset.labels.tolist() == [[True, False], [True, True], [False, True], [True, True]]
    assert dataset.inputs[:, 0].tolist() == [16, 8, 22, 30]
    assert len(dataset.groups.unique()) == 3
    assert dataset.groups[1] == dataset.groups[2]  # gcc-11 and gcc-12
    assert dataset.name.startswith("debian-packages, 4 packages, 2 tags, sha256 ")


def test_the_name_tells_contents_apart() -> None:
    name = debian.build(ARCHIVE, min_packages=3).name
    assert debian.build("\n\n".join(reversed(ARCHIVE.split("\n\n"))), min_packages=3).name == name  # the order does not matter
    assert debian.build(ARCHIVE.replace("letters", "figures"), min_packages=3).name != name


def test_splits_are_read_from_the_archive_and_then_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    paragraphs = [
        f"Package: p{i}\nSource: {'source' + chr(97 + i % 26) * (1 + i // 26)}\nDescription: text {'x' * i}\n"
        f"Tag: use::editing, use::{'viewing' if i % 2 else 'playing'}"
        for i in range(240)
    ]
    monkeypatch.setattr(debian, "read_archive", lambda: "\n\n".join(paragraphs))
    train, gallery, query = data.load_splits("debian-packages", query_fraction=0.2, seed=1)
    assert train is gallery
    assert (len(gallery), len(query)) == (192, 48)
    assert gallery.is_multilabel
    assert gallery.class_names == ("use::editing", "use::playing", "use::viewing")
    monkeypatch.setattr(debian, "read_archive", lambda: pytest.fail("the cache was not used"))
    again = data.load_splits("debian-packages", query_fraction=0.2, seed=1).query
    assert torch.equal(again.inputs, query.inputs)
    assert again.name == query.name
    assert not torch.equal(data.load_splits("debian-packages", query_fraction=0.2, seed=2).query.inputs, query.inputs)


def test_archive_without_debtags() -> None:
    with pytest.raises(FileNotFoundError, match=r"no debtag has 100 packages.*Run apt-get update"):
        debian.build(ARCHIVE)
    with pytest.raises(FileNotFoundError, match="no debtag has 1 packages"):
        debian.build("", min_packages=1)


def test_no_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-cache is missing here"):
        debian.read_archive()

    def fails(*args, **keywords):
        raise subprocess.CalledProcessError(100, "apt-cache", stderr="E: broken lists\n")

    monkeypatch.setattr(debian.subprocess, "run", fails)
    with pytest.raises(FileNotFoundError, match="apt-cache dumpavail failed: E: broken lists"):
        debian.load()
