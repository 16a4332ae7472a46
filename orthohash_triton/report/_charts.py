"""Charts as plain geometry in the units of their SVG view box; templates/charts.html draws them in the colours of the page."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 44  # margins around the plot
_LEVELS = 32  # levels of magnitude in a heat map
_LARGEST_MAP = 512  # cells per side of a heat map


@dataclass(frozen=True)
class Tick:
    """A label at a position on an axis of a chart."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line of a chart: a path in the colour number `tone` of the style sheet. `area` is the path closed along the axis."""

    name: str
    tone: int
    path: str
    area: str = ""
    points: tuple[tuple[float, float], ...] = ()  # marked with dots if there are few


@dataclass(frozen=True)
class Band:
    """A rectangle that shows `tip` while the pointer is over it."""

    x: float
    y: float
    width: float
    height: float
    tip: str


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, filled with the colour number `tone` of the style sheet."""

    x: float
    y: float
    width: float
    height: float
    tone: int


@dataclass(frozen=True)
class Dots:
    """The points of one class in a scatter chart."""

    name: str
    tone: int | None  # None for classes without a colour of their own
    points: tuple[tuple[float, float, int], ...]  # x, y, number of the image in the sprite
    centre: tuple[float, float]


@dataclass(frozen=True)
class Table:
    """The values of a chart as text, for readers who cannot see the chart or need exact values."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """One chart of the report: its text, axes and geometry."""

    title: str
    about: str  # a description in one or two sentences, also for screen readers
    table: Table
    x_label: str = ""
    y_label: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    names: tuple[Tick, ...] = ()  # names of horizontal bars, on the left
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    bands: tuple[Band, ...] = ()
    dots: tuple[Dots, ...] = ()
    rule: Tick | None = None  # a horizontal reference line
    map: str = ""  # a heat map, as a data URI
    named: bool = False  # draw the names of the classes over their dots

    @property
    def right(self) -> int:
        """Return the right border of the plot."""
        return self.width - RIGHT

    @property
    def bottom(self) -> int:
        """Return the lower border of the plot."""
        return self.height - BOTTOM

    @property
    def top(self) -> int:
        """Return the upper border of the plot."""
        return TOP


@dataclass(frozen=True)
class Series:
    """The values of one line of a chart. None is not drawn."""

    name: str
    y: Sequence[float | None]
    tone: int = 0
    area: bool = False


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from values in [low, high] to positions in [start, end]."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    format: Callable[[float], str] = field(default=lambda value: f"{value:g}")

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (self.end - self.start) * (value - low) / ((high - low) or 1), 2)

    def ticks(self, count: int = 5) -> tuple[Tick, ...]:
        """Return about `count` ticks at round values."""
        return tuple(Tick(self(value), self.format(value)) for value in self.values(count))

    def values(self, count: int) -> list[float]:
        """Return about `count` round values in [low, high]; all powers of ten on a logarithmic scale."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers]
        step = nice_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [round(step * i, 10) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice_step(least: float) -> float:
    """Return the smallest number of the form 1, 2 or 5 times a power of ten that is at least `least`."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def percent(value: float) -> str:
    """Return a share as text, such as "12.5 %"."""
    return f"{100 * value:.3g} %"


def lines(
    title: str,
    about: str,
    x: Sequence[float],
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_name: str,
    form: Callable[[float], str] = percent,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    log: bool = False,
    whole: bool = False,
    rule: tuple[float, str] | None = None,
) -> Chart:
    """Return a chart of lines over common, ascending x.

    Args:
        title, about: see `Chart`.
        x: ascending values [M].
        series: the lines, with M values each.
        x_label, y_label: labels of the axes.
        x_name: name of an x in tips and in the table.
        form: format of the values.
        x_range, y_range: ends of the axes; None uses the ends of the data.
        log: use a logarithmic x axis.
        whole: x are integers.
        rule: value and text of a horizontal reference line.
    """
    known = [value for line in series for value in line.y if value is not None]
    low, high = y_range or _range(known)
    first, last = x_range or (min(x), max(x))
    across = Scale(first, last, LEFT, WIDTH - RIGHT, log, lambda value: f"{value:,.0f}" if log or whole else f"{value:g}")
    up = Scale(low, high, HEIGHT - BOTTOM, TOP, False, lambda value: f"{value:g}")
    x_text = [f"{value:,.0f}" if whole or log else f"{value:.3f}" for value in x]
    ticks = across.ticks()
    if whole and not log:
        ticks = tuple(Tick(across(v), f"{v:,.0f}") for v in sorted({round(v) for v in across.values(6)}) if first <= v <= last)
    return Chart(
        title, about, _table(x_name, x_text, series, form), x_label, y_label,
        x_ticks=ticks, y_ticks=up.ticks(),
        lines=tuple(_line(x, one, across, up) for one in series),
        bands=_bands(x, [f"{x_name} {text}" for text in x_text], series, across, form),
        rule=None if rule is None else Tick(up(rule[0]), rule[1]),
    )  # fmt: skip


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis that contains 0 and all values, rounded to steps."""
    high = max([*values, 0.0])
    step = nice_step((high - min([*values, 0.0])) / 5)
    return math.floor(min([*values, 0.0]) / step) * step, math.ceil(high / step - 1e-9) * step or 1.0


def _line(x: Sequence[float], series: Series, across: Scale, up: Scale) -> Line:
    points = tuple((across(a), up(min(max(b, up.low), up.high))) for a, b in zip(x, series.y, strict=True) if b is not None)
    path = "M" + "L".join(f"{a} {b}" for a, b in points) if points else ""
    area = f"{path}L{points[-1][0]} {up.start}L{points[0][0]} {up.start}Z" if series.area and points else ""
    return Line(series.name, series.tone, path, area, points if len(points) <= 12 and not series.area else ())


def _bands(
    x: Sequence[float], names: Sequence[str], series: Sequence[Series], across: Scale, form: Callable[[float], str]
) -> tuple[Band, ...]:
    """Return one band around each x, which extends half-way to the neighbouring x."""
    places = [across(value) for value in x]
    edges = [LEFT, *((a + b) / 2 for a, b in pairwise(places)), WIDTH - RIGHT]
    found = []
    for i, name in enumerate(names):
        known = [(line.name, line.y[i]) for line in series]
        values = [f"{label}: {form(value)}" for label, value in known if value is not None]
        width = round(edges[i + 1] - edges[i], 2)
        if width > 0:
            found.append(Band(round(edges[i], 2), TOP, width, HEIGHT - BOTTOM - TOP, "\n".join([name, *values])))
    return tuple(found)


def _table(x_name: str, x: Sequence[str], series: Sequence[Series], form: Callable[[float], str]) -> Table:
    rows = [
        (text, *("-" if line.y[i] is None else form(line.y[i]) for line in series))  # type: ignore[arg-type]
        for i, text in enumerate(x)
    ]
    return Table((x_name, *(line.name for line in series)), tuple(rows))


def columns(
    title: str, about: str, values: Sequence[float], *, x_label: str, y_label: str, x_name: str, rule: tuple[float, str]
) -> Chart:  # fmt: skip
    """Return a chart with one vertical bar for each of `values` in [0, 1], numbered from 0."""
    up = Scale(0, 1, HEIGHT - BOTTOM, TOP, format=lambda value: f"{value:g}")
    across = Scale(0, len(values), LEFT, WIDTH - RIGHT)
    step = (WIDTH - RIGHT - LEFT) / len(values)
    gap = 1.0 if step > 4 else 0.0
    bars = tuple(
        Bar(across(i), up(value), round(step - gap, 2), round(up(0) - up(value), 2), 0) for i, value in enumerate(values)
    )
    bands = tuple(
        Band(across(i), TOP, round(step, 2), HEIGHT - BOTTOM - TOP, f"{x_name} {i}\n{y_label}: {percent(value)}")
        for i, value in enumerate(values)
    )
    ticks = tuple(Tick(across(i + 0.5), str(i)) for i in range(0, len(values), int(nice_step(max(len(values) / 8, 1)))))
    rows = tuple((str(i), percent(value)) for i, value in enumerate(values))
    return Chart(
        title, about, Table((x_name, y_label), rows), x_label, y_label,
        x_ticks=ticks, y_ticks=up.ticks(), bars=bars, bands=bands, rule=Tick(up(rule[0]), rule[1]),
    )  # fmt: skip


def rows(
    title: str, about: str, names: Sequence[str], values: Sequence[float], counts: Sequence[int], *, x_label: str, table: Table
) -> Chart:
    """Return a chart with one named horizontal bar for each of `values` in [0, 1]."""
    each, left = 24, 116
    height = TOP + each * len(values) + BOTTOM
    across = Scale(0, 1, left, WIDTH - RIGHT, format=lambda value: f"{value:g}")
    bars = tuple(
        Bar(left, TOP + each * i + 4, round(across(value) - left, 2), each - 8, 0) for i, value in enumerate(values)
    )  # fmt: skip
    bands = tuple(
        Band(0, TOP + each * i, WIDTH - RIGHT, each, f"{name}\n{x_label}: {percent(value)}\nqueries: {count:,}")
        for i, (name, value, count) in enumerate(zip(names, values, counts, strict=True))
    )
    labels = tuple(Tick(TOP + each * (i + 0.5), shortened(name, 17)) for i, name in enumerate(names))
    return Chart(
        title, about, table, x_label, height=height, left=left, x_ticks=across.ticks(), names=labels, bars=bars, bands=bands
    )


def shortened(text: str, most: int) -> str:
    """Return `text`, cut to `most` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def scatter(
    title: str, about: str, places: np.ndarray, groups: Sequence[tuple[str, int | None, np.ndarray]], table: Table, *, named: bool
) -> Chart:
    """Return a chart of points in the plane.

    Args:
        title, about, table: see `Chart`.
        places: positions [M, 2].
        groups: name, colour number and point numbers of each class, in drawing order.
        named: draw the names of the classes over their points.
    """
    side = 480
    low, high = places.min(0), places.max(0)
    scale = (side - 24) / max(float((high - low).max()), 1e-12)
    middle = (low + high) / 2
    drawn = np.round((places - middle) * scale * (1, -1) + side / 2, 1)
    dots = tuple(
        Dots(
            name, tone, tuple((float(x), float(y), int(row)) for (x, y), row in zip(drawn[own], own, strict=True)),
            _centre(drawn[own]),
        )
        for name, tone, own in groups
    )  # fmt: skip
    return Chart(title, about, table, width=side, height=side, dots=dots, named=named)


def _centre(points: np.ndarray) -> tuple[float, float]:
    """Return the point nearest to the median, which is always one of the points."""
    nearest = np.linalg.norm(points - np.median(points, axis=0), axis=1).argmin()
    return float(points[nearest][0]), float(points[nearest][1])


def heat_map(title: str, about: str, values: Sequence[Sequence[float]], table: Table, *, label: str) -> Chart:
    """Return a chart of a square matrix of values in [-1, 1]. The hue shows the sign and the opacity the magnitude."""
    matrix = _coarse(np.array(values, float))
    return Chart(title, about, table, label, height=WIDTH, map=_as_image(matrix))


def _coarse(matrix: np.ndarray) -> np.ndarray:
    """Reduce a large matrix to the value of largest magnitude in each block; return a small one unchanged."""
    block = math.ceil(len(matrix) / _LARGEST_MAP)
    if block == 1:
        return matrix
    side = math.ceil(len(matrix) / block)
    padded = np.zeros((side * block, side * block))
    padded[: len(matrix), : len(matrix)] = matrix
    blocks = padded.reshape(side, block, side, block).swapaxes(1, 2).reshape(side, side, -1)
    return np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]


def _as_image(matrix: np.ndarray) -> str:
    """Return a matrix of values in [-1, 1] as a PNG image in a data URI."""
    from PIL import Image

    level = np.rint(np.abs(matrix) * _LEVELS).clip(0, _LEVELS).astype(np.uint8)
    image = Image.fromarray(np.where(matrix < 0, level + _LEVELS + 1, level).astype(np.uint8), "P")
    image.putpalette([*(0x2B, 0x8C, 0xC4) * (_LEVELS + 1), *(0xE0, 0x6A, 0x1E) * (_LEVELS + 1)])
    opacity = [round(255 * i / _LEVELS) for i in range(_LEVELS + 1)]
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes([*opacity, *opacity]), optimize=True)
    return data_uri("image/png", buffer.getvalue())


def data_uri(media_type: str, content: bytes) -> str:
    """Return `content` as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
