"""Threads for compiled code that releases the GIL.

A pool per call, rather than Numba's own: that one may not be entered from two Python threads at once and does not survive a fork.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def thread_count() -> int:
    """Threads that the user allows: torch.set_num_threads rules here too."""
    return torch.get_num_threads()


def run_all(function: Callable[..., Any], argument_lists: Sequence[tuple[Any, ...]]) -> None:
    """function(*arguments) for every entry of `argument_lists`, on up to `thread_count()` threads."""
    workers = min(thread_count(), len(argument_lists))
    if workers <= 1:
        for arguments in argument_lists:
            function(*arguments)
        return
    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(function, *arguments) for arguments in argument_lists]:
            future.result()
