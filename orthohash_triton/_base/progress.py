"""Progress bars on standard error, so that standard output can be piped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .extras import install

Advance = Callable[..., None]
"""Advance a bar by one step. A text as argument replaces the description of the bar."""


@contextmanager
def progress_bar(description: str, total: int, *, done: int = 0, enabled: bool = True) -> Iterator[Advance]:
    """Show a progress bar with the remaining time, and yield a function that advances it by one step.

    Args:
        total: number of steps.
        done: number of steps that are finished already.
        enabled: with False nothing is shown, and the yielded function does nothing.

    Raises:
        ImportError: rich is not installed.
    """
    if not enabled:
        yield lambda description=None: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError as error:
        raise ImportError(f"progress bars need rich: {install('rich', extra='train')}, or pass progress=False") from error
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
