"""Tests that CITATION.cff has the fields that the format requires, with the version of the package."""

import pytest

import orthohash_triton
from tests.docs import pages

yaml = pytest.importorskip("yaml")

PERSON, ENTITY = {"family-names", "given-names"}, {"name"}


def test_the_citation_is_whole():
    citation = yaml.safe_load((pages.ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # required by version 1.2.0 of the format
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["version"] == orthohash_triton.__version__
    assert citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    for author in (*citation["authors"], *paper["authors"]):
        assert set(author) in (PERSON, ENTITY)
