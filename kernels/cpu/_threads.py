"""Threads for compiled code that releases the GIL.

Not Numba's own: those may not be entered from two Python threads at once and do not survive a fork. Ours are started when first
needed and kept, since starting them takes as long as a small search.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch

_pool: ThreadPoolExecutor | None = None
_pool_threads = 0


def thread_count() -> int:
    """Threads that the user allows: torch.set_num_threads rules here too."""
    return torch.get_num_threads()


def run_all(function: Callable[..., Any], argument_lists: Sequence[tuple[Any, ...]]) -> None:
    """function(*arguments) for every entry of `argument_lists`, on up to `thread_count()` threads, the caller's among them."""
    helpers = min(thread_count(), len(argument_lists)) - 1
    remaining = iter(argument_lists)

    def work() -> None:
        for arguments in remaining:
            function(*arguments)

    futures: list[Future[None]] = []
    with suppress(RuntimeError):  # the interpreter is on its way out and starts no threads: the caller's own does all
        for _ in range(helpers):
            futures.append(_helpers(helpers).submit(work))
    try:
        work()
    finally:
        for future in futures:
            future.exception()  # nobody works on the caller's arrays when it goes on
    for future in futures:
        future.result()


def _helpers(threads: int) -> ThreadPoolExecutor:
    global _pool, _pool_threads
    if _pool is None or _pool_threads < threads:
        _pool, _pool_threads = ThreadPoolExecutor(threads, thread_name_prefix="orthohash"), threads
    return _pool


def _forget_threads() -> None:
    """A forked process has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
