"""A figure of queries and their nearest neighbours, with correct and wrong neighbours marked by colour."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..data import Dataset
from ._style import OTHER_CLASS, SAME_CLASS, new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_neighbours(
    path: Path, query: Dataset, gallery: Dataset, rows: Sequence[int], ids: Tensor, distances: Tensor, title: str
) -> None:
    """Write a PNG file with one row per query: its image and the images of its nearest gallery items.

    Args:
        path: the file to write.
        query: the queries, images with class ids.
        gallery: the gallery, images with class ids.
        rows: positions of the queries to show.
        ids: positions of their nearest gallery items, int64 [len(rows), M].
        distances: Hamming distances, [len(rows), M].
        title: title of the figure.

    Raises:
        ImportError: matplotlib is missing.
    """
    columns = ids.shape[1]
    height = 0.98 * len(rows) + 1.1  # inches
    figure = new_figure(0.92 * (columns + 2.6), height, dpi=130)
    grid = figure.add_gridspec(
        len(rows), columns + 2, width_ratios=[1, 0.25, *[1] * columns],
        left=0.13, right=0.985, top=1 - 0.92 / height, bottom=0.3 / height, wspace=0.16, hspace=0.34,
    )  # fmt: skip
    for row, position in enumerate(rows):
        axes = figure.add_subplot(grid[row, 0])
        label = int(query.labels[position])
        _show(axes, query, position, "black")
        axes.set_ylabel(query.class_names[label], rotation=0, ha="right", va="center", labelpad=10, fontsize=10)
        for column, (neighbour, distance) in enumerate(zip(ids[row].tolist(), distances[row].tolist(), strict=True)):
            axes = figure.add_subplot(grid[row, column + 2])
            is_same = int(gallery.labels[neighbour]) == label
            colour = SAME_CLASS if is_same else OTHER_CLASS
            _show(axes, gallery, neighbour, colour)
            other_name = "" if is_same else f", {gallery.class_names[int(gallery.labels[neighbour])]}"
            axes.set_xlabel(f"{distance}{other_name}", fontsize=7, color=colour, labelpad=2)
    figure.suptitle(title, x=0.02, y=1 - 0.16 / height, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(
        0.02, 1 - 0.48 / height, "Query on the left; nearest gallery images on the right, with their Hamming distances.",
        fontsize=9, va="top",
    )  # fmt: skip
    figure.text(0.985, 1 - 0.2 / height, "■ same class", color=SAME_CLASS, fontsize=9, ha="right", va="top")
    figure.text(0.985, 1 - 0.48 / height, "■ another class", color=OTHER_CLASS, fontsize=9, ha="right", va="top")
    save_png(path, figure)


def _show(axes: "Axes", dataset: Dataset, position: int, colour: str) -> None:
    image = dataset.inputs[position].numpy()
    axes.imshow(image if image.ndim == 2 else np.moveaxis(image, 0, -1), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.2)
