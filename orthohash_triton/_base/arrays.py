"""Conversion between NumPy arrays and tensors, for functions that return NumPy arrays when they are given NumPy arrays."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch

from ..kernels.forks import limit_torch_after_fork

F = TypeVar("F", bound=Callable[..., Any])


def as_tensor(value: Any) -> Any:
    """Return a NumPy array as a tensor that shares its memory if possible. Return anything else unchanged.

    An array in the byte order of another machine is converted. One whose dtype torch does not have is returned unchanged, so
    that the check of the argument can name it in its message.
    """
    if not isinstance(value, np.ndarray):
        return value
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    if not value.flags.writeable or any(stride < 0 for stride in value.strides):
        value = value.copy()  # torch supports neither read-only arrays nor negative strides
    try:
        return torch.from_numpy(value)
    except (TypeError, ValueError):  # strings, objects
        return value


def as_array(value: Any) -> Any:
    """Return a tensor, or each tensor in a tuple, as a NumPy array. Return anything else unchanged."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, tuple):
        items = [as_array(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def numpy_friendly(function: F) -> F:
    """Decorate `function` to accept NumPy arrays instead of tensors. If one argument is an array, its results are arrays too.

    An array without dimensions is a number, which says nothing about the kind of the results.
    """

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        limit_torch_after_fork()
        arrays = any(isinstance(value, np.ndarray) and value.ndim for value in (*args, *kwargs.values()))
        if not arrays:
            return function(*args, **kwargs)
        return as_array(function(*map(as_tensor, args), **{name: as_tensor(value) for name, value in kwargs.items()}))

    return wrapper  # type: ignore[return-value]
