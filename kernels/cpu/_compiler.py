"""The Numba compiler with the options that all CPU kernels share."""

import functools
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function without the GIL and caches the result on disk if possible."""

    def decorate(function: Callable[..., Any]) -> Any:
        shared = {"nogil": True, "error_model": "numpy", **options}
        try:
            return _with_stamp_of_all_sources(numba.njit(cache=True, **shared)(function))
        except RuntimeError as error:  # neither the package's folder nor the user's cache folder is writable
            if "cannot cache" not in str(error):
                raise
            _warn_of_no_cache()
            return numba.njit(**shared)(function)

    return decorate


def _with_stamp_of_all_sources(dispatcher: Any) -> Any:
    """Let cached machine code be valid only as long as no source file of this folder changes; return `dispatcher`.

    Numba compares the file of the function itself only. Functions of other files are compiled into it, so that a new version of
    the package would go on running old code wherever only those files changed. Numba has no public way to say so.
    """
    file = dispatcher._cache._cache_file
    file._source_stamp = (file._source_stamp, _checksum_of_sources())
    return dispatcher


@functools.cache
def _checksum_of_sources() -> int:
    checksum = 0
    for path in sorted(Path(__file__).parent.glob("*.py")):
        checksum = zlib.crc32(path.read_bytes(), checksum)
    return checksum


@functools.cache
def _warn_of_no_cache() -> None:
    warnings.warn(
        "there is no folder where compiled CPU kernels can be kept, so that each process compiles them anew, some seconds each. "
        "Name one that can be written to in NUMBA_CACHE_DIR",
        RuntimeWarning,
        stacklevel=2,
    )
