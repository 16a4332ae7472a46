"""Tests of file names in different Unicode normal forms."""

import unicodedata
from pathlib import Path

import pytest

from orthohash_triton._base.file_names import FileFinder, normalized


def form(name: str, kind: str) -> str:
    return unicodedata.normalize(kind, name)


@pytest.mark.parametrize(("on_disk", "in_list"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_a_file_in_another_normal_form(tmp_path: Path, on_disk: str, in_list: str) -> None:
    place = tmp_path / form("Größe", in_list) / form("café", on_disk)  # a path in both forms
    place.mkdir(parents=True)
    (place / form("é.jpg", on_disk)).touch()
    asked = tmp_path / form("Größe", on_disk) / form("café", in_list) / form("é.jpg", in_list)
    assert FileFinder().find(asked).samefile(place / form("é.jpg", on_disk))
    missing = asked.with_name(form("ö.jpg", in_list))
    assert FileFinder().find(missing) == missing


def test_the_exact_name_comes_first(tmp_path: Path) -> None:
    for kind in ("NFC", "NFD"):
        (tmp_path / form("é.jpg", kind)).touch()
    for kind in ("NFC", "NFD"):
        assert FileFinder().find(tmp_path / form("é.jpg", kind)).name == form("é.jpg", kind)


def test_relative_paths_and_names_that_are_not_unicode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(form("é.jpg", "NFD")).touch()
    assert FileFinder().find(Path(form("é.jpg", "NFC"))).exists()
    strange = Path("\udce9.jpg")
    assert FileFinder().find(strange) == strange
    assert normalized("\udce9") == "\udce9"
