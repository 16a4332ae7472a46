"""Tests of the figure of queries and their nearest neighbours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex
from PIL import Image

from orthohash_triton.data import Dataset
from orthohash_triton.plots import neighbours
from orthohash_triton.plots._style import OTHER_CLASS, SAME_CLASS

NAMES = ("ant", "bee", "cow")


def pictures(labels: list[int], *, colours: bool = False) -> Dataset:
    """Return images whose pixels all have the value of 10 times their position."""
    shape = (3, 5, 5) if colours else (5, 5)
    values = 10 * torch.arange(len(labels), dtype=torch.uint8)
    return Dataset(values.view(-1, *[1] * len(shape)).expand(-1, *shape).contiguous(), torch.tensor(labels), NAMES, "toy")


def drawn_figure(monkeypatch: pytest.MonkeyPatch, query: Dataset, gallery: Dataset) -> Any:
    """Return the figure of queries 1 and 0, with two neighbours each."""
    saved = []
    monkeypatch.setattr(neighbours, "save_png", lambda path, figure: saved.append(figure))
    ids, distances = torch.tensor([[3, 0], [1, 2]]), torch.tensor([[0, 4], [2, 7]])
    neighbours.draw_neighbours(Path("x.png"), query, gallery, [1, 0], ids, distances, "a title")
    return saved[0]


@pytest.mark.parametrize("colours", [False, True])
def test_neighbours_of_another_class_are_marked_and_named(monkeypatch: pytest.MonkeyPatch, colours: bool) -> None:
    figure = drawn_figure(monkeypatch, pictures([0, 1], colours=colours), pictures([2, 0, 1, 1], colours=colours))
    found = [(axes.get_ylabel(), axes.get_xlabel(), to_hex(axes.spines["left"].get_edgecolor())) for axes in figure.axes]
    same, other, black = to_hex(SAME_CLASS), to_hex(OTHER_CLASS), "#000000"
    assert found == [
        ("bee", "", black), ("", "0", same), ("", "4, cow", other),
        ("ant", "", black), ("", "2", same), ("", "7, bee", other),
    ]  # fmt: skip
    assert [int(np.asarray(axes.images[0].get_array()).max()) for axes in figure.axes] == [10, 30, 0, 0, 10, 20]
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(0, 255)}
    assert figure.get_suptitle() == "a title"


def test_the_file_is_an_image(tmp_path: Path) -> None:
    path = tmp_path / "neighbours.png"
    query = pictures([0, 1])
    neighbours.draw_neighbours(path, query, query, [0], torch.tensor([[0, 1]]), torch.tensor([[0, 3]]), "a title")
    with Image.open(path) as image:
        assert (np.asarray(image.convert("L")) < 128).any()
