"""Tests of the selection of queries for a report, and of the figures of the bits."""

import pytest
import torch

from orthohash_triton.report import _analysis
from orthohash_triton.runs.samples import Samples


def samples(labels: torch.Tensor, classes: int = 4) -> Samples:
    return Samples(torch.zeros(len(labels), 1, dtype=torch.uint8), labels, tuple("abcdefgh"[:classes]))


def test_queries_without_anything_relevant_are_not_the_hardest() -> None:
    """Their average precision is 0 for any codes: the gallery has nothing of their class."""
    query, gallery = samples(torch.tensor([0, 1, 3, 1, 0])), samples(torch.tensor([0, 1, 1, 2]))
    precisions = torch.tensor([0.9, 0.5, 0.0, 0.2, 0.3])
    assert _analysis.hardest_queries(precisions, query, gallery, 2) == [4, 3]  # at first one of each class
    assert _analysis.hardest_queries(precisions, query, gallery, 9) == [4, 3, 0, 1]


def test_a_query_of_several_classes_needs_one_of_them_in_the_gallery() -> None:
    query = samples(torch.tensor([[1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]]).bool())
    gallery = samples(torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]).bool())
    assert _analysis.hardest_queries(torch.zeros(4), query, gallery, 9) == [0, 3]


def test_typical_queries_are_the_first_of_each_class_and_then_the_second() -> None:
    query = samples(torch.tensor([2, 2, 0, 1, 0, 1]))
    assert _analysis.typical_queries(query, 4) == [2, 3, 0, 4]
    without_classes = Samples(query.codes, torch.zeros(6).long(), ("unlabelled",))
    assert _analysis.typical_queries(without_classes, 3) == [0, 2, 5]


@pytest.mark.parametrize(("total", "most", "expected"), [(5, 9, [0, 1, 2, 3, 4]), (11, 3, [0, 5, 10]), (4, 1, [0]), (1, 5, [0])])
def test_evenly_spaced_positions_include_both_ends(total: int, most: int, expected: list[int]) -> None:
    assert _analysis.evenly_spaced(total, most).tolist() == expected


def test_figures_of_the_bits() -> None:
    correlation = [[1.0, -0.5, 0.25, 0.0], [-0.5, 1.0, 0.0, 0.0], [0.25, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    found = _analysis._bit_figures({"bit_mean": [0.5, 0.25, 1.0, 0.0], "bit_correlation": correlation})
    assert found["constant"] == 2
    assert found["mean_correlation"] == pytest.approx(0.75 / 6)
    assert found["largest_correlation"] == 0.5
    assert found["most_correlated"][:2] == [{"bits": [0, 1], "correlation": -0.5}, {"bits": [0, 2], "correlation": 0.25}]
    alone = _analysis._bit_figures({"bit_mean": [0.5], "bit_correlation": [[1.0]]})
    assert (alone["mean_correlation"], alone["largest_correlation"], alone["most_correlated"]) == (0.0, 0.0, [])
