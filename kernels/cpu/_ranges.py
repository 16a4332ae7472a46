"""Work on rows, shared out to threads."""

from collections.abc import Callable
from itertools import pairwise

from ._threads import run_all, thread_count


def over_ranges(function: Callable[[int, int], None], count: int, *, parts_per_thread: int = 1) -> None:
    """`function(start, stop)` for consecutive ranges that cover `range(count)`; it must release the GIL to gain anything."""
    parts = max(1, min(count, thread_count() * parts_per_thread))
    bounds = [count * part // parts for part in range(parts + 1)]
    run_all(function, list(pairwise(bounds)))
