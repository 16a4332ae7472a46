"""Shared settings for the figures of the documentation, which take their text colour from the page that embeds the SVG."""

import re
from pathlib import Path

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
INK = "#010203"  # placeholder for the text colour of the page
BLUE, ORANGE = "#4a7fd4", "#dd7a2c"  # legible on white and on dark grey
_GREY = "#7f858c"  # text colour of an SVG that is not embedded in a page, as on a code host

plt.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "orthohash", "font.size": 10, "font.family": "sans-serif",
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none",
    "legend.frameon": False, "legend.edgecolor": "none",
})  # fmt: skip


def canvas(width: float, height: float, parts: int = 1, **options: object) -> tuple[Figure, list[Axes]]:
    """Return a figure of `width` x `height` inches with `parts` axes side by side."""
    figure, axes = plt.subplots(1, parts, figsize=(width, height), layout="constrained", squeeze=False, **options)
    return figure, list(axes[0])


def sketch(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure whose axes have one unit per inch."""
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def save(figure: Figure, name: str, folder: Path = FOLDER) -> Path:
    """Write the figure as `name`.svg, without content that differs between runs or machines."""
    path = folder / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    plt.close(figure)
    text = path.read_text()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # it would apply to the whole page
    text = re.sub(r' id="[a-z]+[\w.]*_\d+"', "", text)
    text = re.sub(r"(font: [^;\"']*px) [^;\"]*", r"\1 sans-serif", text)
    text = text.replace(INK, "currentColor").replace("<svg", f'<svg color="{_GREY}" stroke-linejoin="round"', 1)
    path.write_text(re.sub(r"[ \t]+\n", "\n", text))
    return path
