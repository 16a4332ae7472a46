"""A run as one self-contained page: what its codes find, what they are like, and the images that they bring together."""

from pathlib import Path
from typing import Any

from .._base import checks
from .._base.files import atomic_write
from ..runs.run import Run
from ..runs.samples import RunSamples, Samples, open_samples
from . import _page, _wall
from ._analysis import analyse, evenly_spaced, hardest_queries, query_precisions, typical_queries

__all__ = ["write_report"]

QUERIES = 12
_POINTS = 1000  # codes shown in the plane: t-SNE takes some five seconds of them
_HARDEST = 6


def write_report(run: Run, path: str | Path, *, queries: int = QUERIES) -> dict[str, Any]:
    """Write the report of `run` to `path`, one HTML file that needs nothing else, and answer its figures.

    Queries, their classes and images come from the run folder, or from the data set where the folder lacks them. What cannot be
    had is left out and named in "notes".

    Args:
        run: as `train.runs.load_run` opens it.
        path: the HTML file; its folder must exist.
        queries: how many queries the retrieval wall shows, at least 1.

    Returns:
        the figures of the page as plain values, see `_analysis.analyse`, and "report", the path.

    Raises:
        ImportError: jinja2, scikit-learn or Pillow is missing.
        FileNotFoundError: the folder of `path` does not exist.
        TypeError, ValueError: `queries` is no positive integer; `path` does not end in .html; the gallery is empty.
    """
    count = checks.integer("write_report", "queries", queries, minimum=1)
    if Path(path).suffix not in (".html", ".htm"):
        raise ValueError(f"write_report: the page is HTML; let its name end in .html, not as {path}")
    if run.index.ntotal == 0:
        raise ValueError(f"write_report: the gallery of {run.path} must hold at least one code; got none. Train again")
    template = _page.load_template()
    with atomic_write(path) as file:  # opened first, so that a folder that is missing is told at once
        found, page = _make(run, template, count)
        file.write(page.encode())
    return {"report": str(path), **found}


def _make(run: Run, template: Any, count: int) -> tuple[dict[str, Any], str]:
    """The figures and the page, with `count` queries on the wall."""
    samples = open_samples(run)
    precisions = query_precisions(samples)
    found = analyse(run, samples, precisions)
    gallery, asked = samples.gallery, samples.query if samples.query is not None else samples.gallery
    walls = [(
        "What the codes find", _about(samples), _wall.hang(run.index, gallery, asked, typical_queries(asked, count))
    )]  # fmt: skip
    if precisions is not None:
        hardest = hardest_queries(precisions, asked, gallery, min(count, _HARDEST))
        about = "The queries with the lowest average precision, one of each class at first."
        walls.append(("Where they fail", about, _wall.hang(run.index, gallery, asked, hardest)))
    sampled = _page.Sampled(asked, evenly_spaced(len(asked), _POINTS))
    charts = {
        "training": _page.training_charts(found["history"]),
        "retrieval": _page.retrieval_charts(found["retrieval"]),
        "codes": _page.code_charts(found),
        "plane": _page.plane_charts(sampled, run.config.bits),
    }
    found["notes"] += _missing_pictures(samples, walls)
    sprite = _wall.sprite(asked.pictures, sampled.rows.tolist())
    page = _page.render(template, found, charts, walls, sprite)
    del found["correlation"]  # K x K figures that the page shows as a picture
    return found, page


def _about(samples: RunSamples) -> str:
    if samples.query is None:
        return "Some of the gallery as queries, and the nearest others."
    return "Queries on the left, the nearest of the gallery to the right, with their Hamming distances."


def _missing_pictures(samples: RunSamples, walls: list[tuple[str, str, list[_wall.Row]]]) -> list[str]:
    """A note where pictures of the wall could not be read."""
    sides: tuple[Samples | None, ...] = (samples.gallery, samples.query)
    if not any(side is not None and side.pictures for side in sides):
        return []
    tiles = [tile for *_, rows in walls for row in rows for tile in (row.query, *row.neighbours)]
    missing = sum(not tile.picture for tile in tiles)
    if not missing:
        return []
    where = next((side.paths[0] for side in sides if side is not None and side.paths), None)
    moved = "" if where is None else f" Image files were expected where the run was made, the first at {where}."
    return [f"{missing:,} of the {len(tiles):,} images on this page could not be read, and show their classes.{moved}"]
