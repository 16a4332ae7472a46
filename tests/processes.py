"""Two processes of a gloo group, for what they do together."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp


def in_two_processes(work: Callable[..., None], *arguments: Any) -> dict[Any, Any]:
    """What `work(rank, results, *arguments)` of both has put into `results`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_in_group, (port, work, results, arguments), nprocs=2)
        return dict(results)


def _in_group(rank: int, port: int, work: Callable[..., None], results: Any, arguments: tuple[Any, ...]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    work(rank, results, *arguments)
    dist.destroy_process_group()
