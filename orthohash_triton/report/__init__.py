"""The report of a run: one self-contained HTML page with its retrieval quality, its codes and the images that it finds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._base import checks
from .._base.file_names import printable
from .._base.files import atomic_write
from ..plots.profiles import EMBEDDED_CODES
from ..runs.duplicates import Duplicates
from ..runs.run import Run
from ..runs.samples import RunSamples, Samples, open_samples
from . import _duplicates, _page, _wall
from ._analysis import analyse, evaluate_samples, evenly_spaced, hardest_queries, typical_queries

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["write_duplicates", "write_report"]

QUERIES = 12
_HARDEST = 6


def write_report(run: Run, path: str | Path, *, queries: int = QUERIES) -> dict[str, Any]:
    """Write the report of `run` to `path`, a self-contained HTML file, and return the figures in it.

    Queries, their classes and images are read from the run folder, or from the data set if the folder lacks them. Whatever is not
    available is left out and mentioned in "notes".

    Args:
        run: a run, opened by `runs.load_run`.
        path: the HTML file to write. Its folder must exist.
        queries: number of queries to show with their nearest neighbours, at least 1.

    Returns:
        The figures of the page as plain values that `json` can write: "report" (the path), "run", "setting", "retrieval", "bits",
        "history", "queries_per_second" and "notes". "retrieval" is None without queries or without classes.

    Raises:
        ImportError: jinja2, scikit-learn or Pillow is missing.
        FileNotFoundError: the folder of `path` does not exist.
        TypeError: `queries` is not an integer.
        ValueError: `queries` is not positive, `path` does not end in .html, or the gallery is empty.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton.report import write_report
        >>> from orthohash_triton.runs import save_run
        >>> from orthohash_triton.train import TrainConfig, train
        >>> folder = Path(tempfile.mkdtemp())
        >>> config = TrainConfig(dataset="digits", method="lsh", bits=16, threads=1)
        >>> splits = config.load_splits()
        >>> run = save_run(folder / "run", config, train(config, splits.train, progress=False), splits.gallery)
        >>> figures = write_report(run, folder / "report.html", queries=2)
        >>> figures["run"]["bits"], figures["run"]["gallery"], round(figures["retrieval"]["chance"], 1)
        (16, 1438, 0.1)
    """
    count = checks.integer("write_report", "queries", queries, minimum=1)
    if Path(path).suffix not in (".html", ".htm"):
        raise ValueError(f"write_report: path must end in .html; got {path}")
    if run.index.ntotal == 0:
        raise ValueError(f"write_report: the gallery of {run.path} must hold at least one code; got none. Train again")
    template = _page.load_template()
    with atomic_write(path) as file:  # opened first, so that a missing folder is reported before the work
        found, page = _make(run, template, count)
        file.write(printable(page).encode())
    return {"report": str(path), **found}


def require_duplicates_page() -> None:
    """Raise ImportError if a package that `write_duplicates` needs is missing.

    Example:
        >>> from orthohash_triton.report import require_duplicates_page
        >>> require_duplicates_page()
    """
    _duplicates.load_duplicates_template()


def write_duplicates(found: Duplicates, path: str | Path) -> None:
    """Write a self-contained HTML file with the pictures of near-duplicates side by side, the largest groups first.

    Args:
        found: the result of `runs.duplicates.find_duplicates`.
        path: the HTML file to write. Its folder must exist.

    Raises:
        ImportError: jinja2 is missing.
        FileNotFoundError: the folder of `path` does not exist.
        ValueError: `path` does not end in .html.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from orthohash_triton.report import write_duplicates
        >>> from orthohash_triton.runs.duplicates import find_duplicates, open_items
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.save(folder / "codes.npy", np.zeros((5, 8), np.uint8))
        >>> write_duplicates(find_duplicates(open_items(folder / "codes.npy"), radius=4), folder / "duplicates.html")
        >>> "5 items" in (folder / "duplicates.html").read_text()
        True
    """
    if Path(path).suffix not in (".html", ".htm"):
        raise ValueError(f"write_duplicates: path must end in .html; got {path}")
    template = _duplicates.load_duplicates_template()
    with atomic_write(path) as file:
        file.write(printable(_duplicates.render_duplicates(template, found)).encode())


def _make(run: Run, template: "Template", count: int) -> tuple[dict[str, Any], str]:
    """Return the figures and the page with `count` queries."""
    samples = open_samples(run)
    evaluation = evaluate_samples(samples)
    found = analyse(run, samples, evaluation)
    gallery, asked = samples.gallery, samples.query if samples.query is not None else samples.gallery
    walls = [(
        "Nearest neighbours", _about(samples), _wall.find_neighbours(run.index, gallery, asked, typical_queries(asked, count))
    )]  # fmt: skip
    if evaluation is not None:
        hardest = hardest_queries(evaluation.average_precision[None], asked, gallery, min(count, _HARDEST))
        about = "The queries with the lowest average precision, at first one of each class."
        walls.append(("Hardest queries", about, _wall.find_neighbours(run.index, gallery, asked, hardest)))
    sampled = _page.Sampled(asked, evenly_spaced(len(asked), EMBEDDED_CODES))
    charts = {
        "training": _page.training_charts(found["history"]),
        "retrieval": _page.retrieval_charts(found["retrieval"]),
        "codes": _page.code_charts(found),
        "plane": _page.plane_charts(sampled, run.config.bits),
    }
    found["notes"] += _missing_pictures(samples, walls)
    sprite = _wall.sprite(asked.pictures, sampled.rows.tolist())
    page = _page.render(template, found, charts, walls, sprite)
    del found["correlation"]  # K x K figures, which the page shows as an image
    return found, page


def _about(samples: RunSamples) -> str:
    if samples.query is None:
        return "A sample of the gallery as queries, each with the nearest other gallery items."
    return "Queries on the left; the nearest gallery items on the right, with their Hamming distances."


def _missing_pictures(samples: RunSamples, walls: list[tuple[str, str, list[_wall.Row]]]) -> list[str]:
    """Return a note if some images of the walls could not be read."""
    sides: tuple[Samples | None, ...] = (samples.gallery, samples.query)
    if not any(side is not None and side.pictures for side in sides):
        return []
    tiles = [tile for *_, rows in walls for row in rows for tile in (row.query, *row.neighbours)]
    missing = sum(not tile.picture for tile in tiles)
    if not missing:
        return []
    where = next((side.paths[0] for side in sides if side is not None and side.paths), None)
    moved = "" if where is None else f" The image files are expected at the paths of the training, the first one at {where}."
    return [f"{missing:,} of the {len(tiles):,} images on this page could not be read; their classes are shown instead.{moved}"]
