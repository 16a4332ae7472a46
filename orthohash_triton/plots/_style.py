"""Colours of the figures, and how figures are created and saved."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from .._base.extras import install
from .._base.files import atomic_write
from ..data.decoding import open_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of Okabe and Ito, which readers with any kind of colour blindness can distinguish, without yellow, which is too
# light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Three further colours, which differ from all others in lightness.
CLASS_COLOURS = (*COLOURS[:6], "#000000", "#8B5A2B", "#B8D600", "#5E3C99")
GREY = "#c4c4c4"
SAME_CLASS, OTHER_CLASS = COLOURS[0], COLOURS[1]


def new_figure(width: float, height: float, *, dpi: int, automatic_layout: bool = False) -> "Figure":
    """Return an empty figure of `width` by `height` inches on white. `automatic_layout` prevents overlaps between its parts.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError(f"the figures need matplotlib: {install('matplotlib', extra='report')}") from error
    layout = ConstrainedLayoutEngine(h_pad=0.08) if automatic_layout else None  # inches
    return Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout=layout)


def png_bytes(figure: "Figure", *, max_bytes: int | None = None) -> bytes:
    """Return `figure` as a PNG file; with 256 colours if it would be larger than `max_bytes` otherwise."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", pil_kwargs={"optimize": True})
    if max_bytes is not None and buffer.tell() > max_bytes:
        with open_image(buffer) as image:
            reduced = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        reduced.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def save_png(path: Path, figure: "Figure", *, max_bytes: int | None = None) -> None:
    """Write `figure` to `path` as `png_bytes` returns it; the file is complete or does not exist."""
    content = png_bytes(figure, max_bytes=max_bytes)
    with atomic_write(path) as file:
        file.write(content)


def hide_frame(axes: "Axes") -> None:
    """Hide the upper and the right border of `axes`, and draw the grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
