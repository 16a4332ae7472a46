"""Division of work on rows among threads."""

from collections.abc import Callable
from itertools import pairwise

from ._threads import run_all, thread_count


def over_ranges(function: Callable[[int, int], None], count: int, *, parts_per_thread: int = 1) -> None:
    """Call `function(start, stop)` on threads for consecutive ranges that cover `range(count)`.

    The function should release the GIL; otherwise threads gain nothing.
    """
    parts = max(1, min(count, thread_count() * parts_per_thread))
    bounds = [count * part // parts for part in range(parts + 1)]
    run_all(function, list(pairwise(bounds)))
