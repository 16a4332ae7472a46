"""Data-parallel training: several processes train one model, and each computes its share of every batch.

`batch_size` is the size of the batch of all processes together, and all processes draw the same random numbers. The number of
processes therefore changes only the order of floating-point sums. A network that draws random numbers itself (dropout) draws
different ones in each process; its training then depends on the number of processes.
"""

import gc
import inspect
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .._base.processes import gather_objects, share_of
from .sync_batch_norm import SumOverProcesses, synchronised

T = TypeVar("T")

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# Buffers are not broadcast: banks of codes are large, and equal in all processes. The option has a new name in torch 2.13.
_BUFFERS_STAY: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


@contextmanager
def torchrun(device: str) -> Iterator[bool]:
    """Join the process group of torchrun for the block. Yields whether this process writes the results.

    No group is joined if the process was not started by torchrun, or has joined already.
    """
    if not dist.is_available() or not all(os.environ.get(name) for name in _TORCHRUN):
        yield True
        return
    if dist.is_initialized():
        yield dist.get_rank() == 0
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(_own_device(device, int(os.environ["RANK"])))
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield dist.get_rank() == 0
    finally:
        gc.collect()  # a DistributedDataParallel that is freed after its group can make PyTorch abort the process at exit
        dist.destroy_process_group()


def _own_device(device: str, rank: int) -> torch.device:
    """Return the device of the process `rank`: a GPU of its own if `device` is "cuda" without a number."""
    if device != "cuda":
        return torch.device(device)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank % max(torch.cuda.device_count(), 1))))


def leads_torchrun() -> bool:
    """Return whether this process will write the results after it has joined the group of torchrun, or is alone."""
    return not all(os.environ.get(name) for name in _TORCHRUN) or os.environ["RANK"] == "0"


@dataclass(frozen=True)
class Processes:
    """The processes that train together: one, or all of torch.distributed's default group.

    Attributes:
        rank: number of this process.
        count: number of processes.
        device: device of this process.
    """

    rank: int
    count: int
    device: torch.device

    @classmethod
    def of(cls, device: str) -> "Processes":
        """Return the processes of the default group, or this process alone if there is no group of several."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return cls(dist.get_rank(), dist.get_world_size(), _own_device(device, dist.get_rank()))
        return cls(0, 1, torch.device(device))

    @property
    def leads(self) -> bool:
        """Whether this process writes files, logs and progress bars."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return the positions of this process's part of `count` rows. The parts differ by at most one row."""
        return share_of(count, self.rank, self.count)

    def whole(self, part: Tensor, count: int) -> Tensor:
        """Return the `count` rows of all processes in order, with gradients. `part` is this process's share."""
        if self.count == 1:
            return part
        padded = part.new_zeros(count, *part.shape[1:])
        padded[self.share(count)] = part
        return SumOverProcesses.apply(padded)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a scalar over the processes."""
        if self.count == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def agreed(self, find: Callable[[], T]) -> T:
        """Return the result of `find`, which only the leading process calls, in all processes."""
        if self.count == 1:
            return find()
        answers = [find() if self.leads else None]
        dist.broadcast_object_list(answers, src=0, device=self.device if self.device.type == "cuda" else None)
        return answers[0]  # type: ignore[return-value]

    def require_same(self, what: Callable[[], Any]) -> None:
        """Wait for all processes, and raise ValueError unless `what` returns an equal value in all of them."""
        if self.count == 1:
            return
        found = gather_objects(what())
        if any(other != found[0] for other in found):
            raise ValueError(
                "train: the processes were started with different settings, data or checkpoints; start all of them with the same"
            )

    def own_randomness(self, seed: int, step: int) -> AbstractContextManager[Any]:
        """Return a context in which random numbers differ between processes. The common random state is unchanged by it."""
        return nullcontext() if self.count == 1 else self._own_randomness(seed, step)

    @contextmanager
    def _own_randomness(self, seed: int, step: int) -> Iterator[None]:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(zlib.crc32(f"{seed} {step} {self.rank}".encode()))
            yield

    @contextmanager
    def training(self, step: nn.Module, *, not_shared: tuple[nn.Module | None, ...]) -> Iterator[nn.Module]:
        """Share the gradients and batch norms of `step`, whose forward returns a loss, between the processes for the block.

        Args:
            not_shared: batch norms that are not replaced.
        """
        if self.count == 1:
            yield step
            return
        # Without device_ids the positions of the samples stay on the CPU. Batch norms are replaced after the wrapping, because
        # DistributedDataParallel rejects SyncBatchNorm on a CPU; the replacements have the same parameters.
        for buffer in step.buffers():
            dist.broadcast(buffer, 0)
        parallel = nn.parallel.DistributedDataParallel(step, **_BUFFERS_STAY)
        with synchronised(step, but=not_shared):
            yield parallel
