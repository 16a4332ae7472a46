"""An even split of rows over processes, and small objects gathered from all of them."""

from typing import Any

import torch.distributed as dist


def share_of(count: int, rank: int, size: int) -> slice:
    """Return the rows of process `rank` when `size` processes split `count` rows into runs of about equal length.

    Example:
        >>> from orthohash_triton._base.processes import share_of
        >>> [share_of(10, rank, 3) for rank in range(3)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    return slice(count * rank // size, count * (rank + 1) // size)


def gather_objects(value: Any, group: Any = None) -> list[Any]:
    """Return the `value` of each process of a torch.distributed group, by rank. Values are pickled; keep them small."""
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values
