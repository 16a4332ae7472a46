"""Progress bars, on standard error so that figures on standard output can be piped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]
"""Advances a bar by one; called with a text, it also changes the bar's description."""


@contextmanager
def progress_bar(description: str, total: int, *, done: int = 0, enabled: bool = True) -> Iterator[Advance]:
    """A bar of `total` steps, of which `done` are done already, with the time that is left; yields what advances it."""
    if not enabled:
        yield lambda description=None: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError as error:
        raise ImportError('progress bars need rich: pip install "orthohash-triton[train]", or pass progress=False') from error
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, completed=done)
        yield lambda description=None: bar.update(task, advance=1, description=description)
