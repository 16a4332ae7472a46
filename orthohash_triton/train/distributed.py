"""Several processes that train one model: each takes its rows of every batch.

`batch_size` counts the batch of all processes together, and all of them draw the same random numbers, so that the number of
processes changes only the order of floating-point sums. A network that draws random numbers itself (dropout) draws other ones in
each process, and then the processes together do not repeat what one alone would do.
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

# Banks of codes are large, and all processes change them alike. torch 2.13 has a new name for it.
_BUFFERS_STAY: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    else "broadcast_buffers": False
}


@contextmanager
def torchrun(device: str) -> Iterator[bool]:
    """Join the processes that torchrun started, for as long as the block lasts; whether this one writes the results.

    Nothing is joined where torchrun started none, or they are joined already.
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
        gc.collect()  # a DistributedDataParallel that outlives its group can make PyTorch abort the process at exit
        dist.destroy_process_group()


def _own_device(device: str, rank: int) -> torch.device:
    """That of the process `rank`: a GPU of its own where `device` is just "cuda"."""
    if device != "cuda":
        return torch.device(device)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank % max(torch.cuda.device_count(), 1))))


@dataclass(frozen=True)
class Processes:
    """Those that train together: one, or all of torch.distributed's default group."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def of(cls, device: str) -> "Processes":
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return cls(dist.get_rank(), dist.get_world_size(), _own_device(device, dist.get_rank()))
        return cls(0, 1, torch.device(device))

    @property
    def leads(self) -> bool:
        """Whether this process writes files, logs and bars."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` rows."""
        return share_of(count, self.rank, self.count)

    def whole(self, part: Tensor, count: int) -> Tensor:
        """The `count` rows of all processes in order, of which this one has `part`; with gradients."""
        if self.count == 1:
            return part
        padded = part.new_zeros(count, *part.shape[1:])
        padded[self.share(count)] = part
        return SumOverProcesses.apply(padded)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the processes."""
        if self.count == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.count

    def agreed(self, find: Callable[[], T]) -> T:
        """What `find` answers in the leading process, in all of them."""
        if self.count == 1:
            return find()
        answers = [find() if self.leads else None]
        dist.broadcast_object_list(answers, src=0, device=self.device if self.device.type == "cuda" else None)
        return answers[0]  # type: ignore[return-value]

    def require_same(self, what: Callable[[], Any]) -> None:
        """That all processes have the same configuration, data and checkpoint; waits for all of them."""
        if self.count == 1:
            return
        found = gather_objects(what())
        if any(other != found[0] for other in found):
            raise ValueError(
                "train: the processes were started with different settings, data or checkpoints; give all of them the same"
            )

    def own_randomness(self, seed: int, step: int) -> AbstractContextManager[Any]:
        """Random numbers of this process alone, so that the common ones stay common."""
        return nullcontext() if self.count == 1 else self._own_randomness(seed, step)

    @contextmanager
    def _own_randomness(self, seed: int, step: int) -> Iterator[None]:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(zlib.crc32(f"{seed} {step} {self.rank}".encode()))
            yield

    @contextmanager
    def training(self, step: nn.Module, *, not_shared: tuple[nn.Module | None, ...]) -> Iterator[nn.Module]:
        """`step`, a module whose forward answers a loss, with gradients and batch norms (but those) shared by the processes."""
        if self.count == 1:
            yield step
            return
        # Without device_ids the positions of the samples stay on the CPU. Batch norms are replaced afterwards, as
        # DistributedDataParallel takes no SyncBatchNorm on a CPU; parameters are the same either way.
        for buffer in step.buffers():
            dist.broadcast(buffer, 0)
        parallel = nn.parallel.DistributedDataParallel(step, **_BUFFERS_STAY)
        with synchronised(step, but=not_shared):
            yield parallel
