"""Tests of the galleries of the benchmarks: each kind is what it says, and comes out the same in parts."""

import json

import numpy as np
import pytest
import torch

from bench import fit_galleries, galleries
from orthohash_triton import hamming_distance

SMALL = {"trained": dict(classes=300)}  # the tables of ten thousand classes take seconds


@pytest.fixture(params=galleries.KINDS)
def kind(request):
    return request.param


def test_parts_and_threads_do_not_matter(kind):
    options = SMALL.get(kind, {})
    bits = 64 if kind == "trained" else 256
    whole = galleries.make(kind, 5000, bits, seed=3, **options)
    parts = np.empty_like(whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for start in range(0, 5000, 1700):
            galleries.fill(kind, parts[start : start + 1700], first=start, total=5000, seed=3, **options)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(parts, whole)
    assert (galleries.make(kind, 100, bits, seed=4, **options) != whole[:100]).any()


def test_queries_are_fresh(kind):
    options = SMALL.get(kind, {})
    gallery, queries = galleries.make(kind, 4000, 64, **options), galleries.queries(kind, 50, 64, total=4000, **options)
    assert len(np.unique(queries, axis=0)) > 10
    assert (queries[:, None] != gallery[:50]).any(2).all(1).any()


def test_uniform_codes():
    bits = np.unpackbits(galleries.make("uniform", 20_000, 128), axis=1)
    assert np.abs(bits.mean(0) - 0.5).max() < 6 * 0.5 / np.sqrt(20_000)
    assert np.abs(np.corrcoef(bits.T) - np.eye(128)).max() < 6 / np.sqrt(20_000)


def test_tied_codes():
    assert len(np.unique(galleries.make("tied", 10_000, 64, distinct=17), axis=0)) == 17


@pytest.mark.parametrize("bits", [64, 256])
def test_equidistant_codes(bits):
    codes = galleries.make("equidistant", 1000, bits)
    assert len(np.unique(codes, axis=0)) == 1000
    assert (hamming_distance(codes, galleries.equidistant_centres(bits)) == bits // 2).all()


@pytest.mark.parametrize("bits", [64, 256])
def test_codes_that_share_substrings(bits):
    codes = galleries.make("shared", 1000, bits)
    quarters = codes.reshape(1000, 4, -1)
    usual = [np.unique(quarters[:, part], axis=0, return_counts=True)[1].max() for part in range(4)]
    assert all(680 < count < 820 for count in usual)  # three codes of four share each quarter
    assert len(np.unique(codes, axis=0)) > 950


@pytest.mark.parametrize("bits", [64, 256])
def test_planted_copies(bits):
    gallery, queries = galleries.make("planted", 6400, bits), galleries.queries("planted", 100, bits, total=6400)
    nearest = np.asarray(hamming_distance(queries, gallery)).min(1)
    assert nearest.max() <= bits // 32
    assert nearest.max() > 0
    distances = np.asarray(hamming_distance(gallery, gallery)) + bits * np.eye(6400, dtype=int)
    copies = (distances.min(1) <= bits // 32).sum()
    assert 120 < copies < 280  # a hundred copies and their sources


def test_words_of_many_classes_are_far_apart():
    words = galleries.words_of_classes(1000, 64).view(np.uint8).reshape(1000, 8)
    distances = np.asarray(hamming_distance(words, words)) + 64 * np.eye(1000, dtype=int)
    assert distances.min() >= 24


def test_trained_codes_are_shared_as_in_the_run():
    fitted = json.loads(galleries.SPREADS.read_text())[galleries.DEMO]
    codes = galleries.make("trained", fitted["codes"], 64, classes=fitted["classes"])
    found = fit_galleries.counts(codes)
    assert fit_galleries.error(found, fitted["run"]) < 3 * np.log(1.3) ** 2


def test_wrong_arguments():
    with pytest.raises(ValueError, match="kind must be one of uniform, trained"):
        galleries.make("odd", 10, 64)
    with pytest.raises(ValueError, match="a multiple of 64 bits; got 32"):
        galleries.make("uniform", 10, 32)
    with pytest.raises(TypeError, match="uniform has no options classes"):
        galleries.make("uniform", 10, 64, classes=3)
