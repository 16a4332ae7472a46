"""The device and the number of CPU threads of a training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .._base.quoting import quoted


def require_device(name: str) -> None:
    """Raise ValueError unless tensors can be created on the device `name`.

    Example:
        >>> from orthohash_triton.train.devices import require_device
        >>> require_device("cpu")
        >>> require_device("abacus")
        Traceback (most recent call last):
        ValueError: device 'abacus' cannot be used (...); choose cpu, or cuda on a machine with a GPU
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises one of these three
        first_line = str(error).partition("\n")[0]
        raise ValueError(
            f"device {quoted(name)} cannot be used ({first_line}); choose cpu, or cuda on a machine with a GPU"
        ) from error


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` CPU threads in the block; None changes nothing.

    Example:
        >>> import torch
        >>> from orthohash_triton.train.devices import use_threads
        >>> with use_threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
