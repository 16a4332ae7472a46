"""numpy in, numpy out: for codes, search and metrics."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch

F = TypeVar("F", bound=Callable[..., Any])


def as_tensor(value: Any) -> Any:
    """A numpy array as a tensor (sharing memory where torch can); as it is what torch has no dtype for, and anything else."""
    if not isinstance(value, np.ndarray):
        return value
    if not value.flags.writeable or any(stride < 0 for stride in value.strides):
        value = value.copy()  # torch knows neither read-only nor backward arrays
    try:
        return torch.from_numpy(value)
    except (TypeError, ValueError):  # strings, objects, foreign byte orders: the check of the argument says so by its name
        return value


def as_array(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, tuple):
        items = [as_array(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def numpy_friendly(function: F) -> F:
    """Let `function` take numpy arrays for its tensors; it then answers with numpy arrays."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        arrays = any(isinstance(value, np.ndarray) for value in (*args, *kwargs.values()))
        if not arrays:
            return function(*args, **kwargs)
        return as_array(function(*map(as_tensor, args), **{name: as_tensor(value) for name, value in kwargs.items()}))

    return wrapper  # type: ignore[return-value]
