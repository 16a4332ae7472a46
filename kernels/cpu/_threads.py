"""Threads for compiled code that releases the GIL.

Numba's threads are not used, because two Python threads may not enter them at once and they do not survive a fork. These threads
are started when first needed and then kept, since starting them takes as long as a small search.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ..forks import thread_count

__all__ = ["run_all", "thread_count"]

_pool: ThreadPoolExecutor | None = None
_pool_threads = 0


def run_all(function: Callable[..., Any], argument_lists: Sequence[tuple[Any, ...]]) -> None:
    """Call function(*arguments) for every entry of `argument_lists` on up to `thread_count()` threads, including the caller's."""
    helpers = min(thread_count(), len(argument_lists)) - 1
    remaining = iter(argument_lists)

    def work() -> None:
        for arguments in remaining:
            function(*arguments)

    futures: list[Future[None]] = []
    with suppress(RuntimeError):  # an interpreter that shuts down starts no threads; then the caller's thread does all the work
        for _ in range(helpers):
            futures.append(_helpers(helpers).submit(work))
    try:
        work()
    finally:
        for future in futures:
            future.exception()  # wait, so that no thread uses the caller's arrays after the return
    for future in futures:
        future.result()


def _helpers(threads: int) -> ThreadPoolExecutor:
    global _pool, _pool_threads
    if _pool is None or _pool_threads < threads:
        _pool, _pool_threads = ThreadPoolExecutor(threads, thread_name_prefix="orthohash"), threads
    return _pool


def _forget_threads() -> None:
    """Discard the pool in a forked process, which has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
