"""The Numba compiler with the options that all CPU kernels share."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numba


def compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function without the GIL and caches the result on disk if possible."""

    def decorate(function: Callable[..., Any]) -> Any:
        shared = {"nogil": True, "error_model": "numpy", **options}
        try:
            return numba.njit(cache=True, **shared)(function)
        except RuntimeError as error:  # neither the package's folder nor the user's cache folder is writable
            if "cannot cache" not in str(error):
                raise
            _warn_of_no_cache()
            return numba.njit(**shared)(function)

    return decorate


@functools.cache
def _warn_of_no_cache() -> None:
    warnings.warn(
        "there is no folder where compiled CPU kernels can be kept, so that each process compiles them anew, some seconds each. "
        "Name one that can be written to in NUMBA_CACHE_DIR",
        RuntimeWarning,
        stacklevel=2,
    )
