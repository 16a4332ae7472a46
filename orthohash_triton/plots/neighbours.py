"""One picture: queries and their nearest neighbours, right ones and wrong ones told apart by colour and by mark."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .._base.files import atomic_write
from ..data import Dataset

# Okabe and Ito's blue and vermilion, which people with any kind of colour blindness tell apart.
RIGHT, WRONG = "#0072B2", "#D55E00"


def draw_neighbours(
    path: Path, query: Dataset, gallery: Dataset, rows: list[int], ids: Tensor, distances: Tensor, title: str
) -> None:
    """Write a PNG: one row for each of the queries `rows`, with the gallery images `ids` [len(rows), M] at `distances`."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.gridspec import GridSpec
    except ImportError as error:
        raise ImportError('the picture needs matplotlib: pip install "orthohash-triton[report]"') from error
    columns = ids.shape[1]
    height = 0.98 * len(rows) + 1.1  # inches
    figure = Figure(figsize=(0.92 * (columns + 2.6), height), dpi=130, facecolor="white")
    grid = GridSpec(
        len(rows), columns + 2, figure, width_ratios=[1, 0.25, *[1] * columns],
        left=0.13, right=0.985, top=1 - 0.92 / height, bottom=0.3 / height, wspace=0.16, hspace=0.34,
    )  # fmt: skip
    for row, position in enumerate(rows):
        axes = figure.add_subplot(grid[row, 0])
        label = int(query.labels[position])
        _show(axes, query, position, "black")
        axes.set_ylabel(query.class_names[label], rotation=0, ha="right", va="center", labelpad=10, fontsize=10)
        for column, (neighbour, distance) in enumerate(zip(ids[row].tolist(), distances[row].tolist(), strict=True)):
            axes = figure.add_subplot(grid[row, column + 2])
            right = int(gallery.labels[neighbour]) == label
            _show(axes, gallery, neighbour, RIGHT if right else WRONG)
            wrong_name = "" if right else f", {gallery.class_names[int(gallery.labels[neighbour])]}"
            axes.set_xlabel(f"{distance}{wrong_name}", fontsize=7, color=RIGHT if right else WRONG, labelpad=2)
    figure.suptitle(title, x=0.02, y=1 - 0.16 / height, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(
        0.02, 1 - 0.48 / height, "Query on the left, its nearest gallery images to the right, with their Hamming distances.",
        fontsize=9, va="top",
    )  # fmt: skip
    figure.text(0.985, 1 - 0.2 / height, "■ same class", color=RIGHT, fontsize=9, ha="right", va="top")
    figure.text(0.985, 1 - 0.48 / height, "■ another class", color=WRONG, fontsize=9, ha="right", va="top")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def _show(axes: Any, dataset: Dataset, position: int, colour: str) -> None:
    image = dataset.inputs[position].numpy()
    axes.imshow(image if image.ndim == 2 else np.moveaxis(image, 0, -1), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.2)
