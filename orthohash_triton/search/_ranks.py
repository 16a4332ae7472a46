"""What the processes of a torch.distributed group tell each other: all of it collective, called by all ranks in one order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_KINDS: tuple[type[Exception], ...] = (
    TypeError,
    ValueError,
    IndexError,
    NotImplementedError,
    ImportError,
    MemoryError,
    FileNotFoundError,
    OSError,
)  # errors that one message makes; any other becomes a RuntimeError on the ranks that hear of it


class Ranks:
    """The processes of `group` (None: all), as `op` meets them.

    Raises:
        RuntimeError: no process group is initialised.
        ValueError: this process is not in the group.
    """

    def __init__(self, op: str, group: Any = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                f"{op}: torch.distributed has no process group. Start the script with torchrun and call "
                "torch.distributed.init_process_group() first, or use HammingIndex in a single process"
            )
        self.group = group
        self.rank = dist.get_rank(group)
        if self.rank < 0:
            raise ValueError(f"{op}: rank {dist.get_rank()} is not in the process group. Call it in the group's processes only")
        self.size = dist.get_world_size(group)

    def device(self, near: torch.device | None = None) -> torch.device:
        """Where the group's messages lie: on the accelerator `near` if the group serves its kind itself, on the CPU if it can.

        Ranks that ask with devices of one kind get devices of one kind.
        """
        served = dict(entry.split(":") for entry in dist.get_backend_config(self.group).split(","))
        if near is not None and served.get(near.type, "gloo") != "gloo":  # gloo copies to the CPU by itself
            return near
        return torch.device("cpu") if "cpu" in served else torch.device(next(iter(served)))

    def agree(self, call: str, work: Callable[[], T], facts: Callable[[T], Mapping[str, Any]] | None = None) -> T:
        """The result of `work`, which is local, once all ranks made the same `call` without an error and have the same `facts`.

        Otherwise the same error on all ranks: a rank in trouble must not leave the others waiting for it.

        facts: what must be equal everywhere, by name.
        """
        error, result = None, None
        told: dict[str, str] = {}
        try:
            result = work()
            told = {name: str(value) for name, value in facts(result).items()} if facts else {}
        except Exception as raised:
            error = raised
        report = [error is None, crc32(call.encode()), crc32(repr(told).encode())]
        reports = self.gather(torch.tensor(report, dtype=torch.int64, device=self.device())).tolist()
        if any(other != [1, *report[1:]] for other in reports):
            raise self._trouble(call, told, error) from error
        return result  # type: ignore[return-value]

    def _trouble(self, call: str, told: dict[str, str], error: Exception | None) -> Exception:
        """The error that all ranks raise."""
        failure = None
        if error is not None:
            failure = (next((i for i, kind in enumerate(_KINDS) if isinstance(error, kind)), -1), str(error) or repr(error))
        reports = self.objects((call, failure, told))
        calls, failures, facts = zip(*reports, strict=True)
        if len(set(calls)) > 1:
            return RuntimeError(
                f"the ranks called different methods: {_by_rank(calls)}. Every method is collective: call the same ones in the "
                "same order on all ranks"
            )
        if any(failures):
            kind, message = next(filter(None, failures))
            if len(set(failures)) > 1:
                message = _by_rank([failure and failure[1] for failure in failures])
            return (_KINDS[kind] if kind >= 0 else RuntimeError)(message)
        name = next(name for fact in facts for name in fact if len({other.get(name) for other in facts}) > 1)
        found = _by_rank([fact.get(name) for fact in facts])
        return ValueError(f"{call}: {name} must be the same on all ranks; got {found}. Pass equal arguments")

    def gather(self, value: Tensor) -> Tensor:
        """`value` of each rank, stacked: [ranks, *value.shape]. It has one shape and dtype everywhere."""
        value = value.contiguous()
        values = [torch.empty_like(value) for _ in range(self.size)]
        if value.numel():
            dist.all_gather(values, value, group=self.group)
        return torch.stack(values)

    def integers(self, value: int) -> list[int]:
        """`value` of each rank."""
        return self.gather(torch.tensor(value, dtype=torch.int64, device=self.device())).tolist()

    def objects(self, value: Any) -> list[Any]:
        """`value` of each rank, pickled on the way: for small things that are told rarely."""
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def minimum(self, value: Tensor) -> Tensor:
        """The least over the ranks, in place."""
        return self._reduced(value, dist.ReduceOp.MIN)

    def _reduced(self, value: Tensor, operation: Any) -> Tensor:
        if value.numel():
            dist.all_reduce(value, operation, group=self.group)
        return value


def _by_rank(values: Sequence[str | None]) -> str:
    """Which ranks say what; those that say nothing are left out."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        if value is not None:
            ranks.setdefault(value, []).append(rank)
    return "; ".join(f"rank{'s' * (len(who) > 1)} {', '.join(map(str, who))}: {value}" for value, who in ranks.items())
