"""Messages between the processes of a torch.distributed group. They are collective: all ranks call them in the same order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

from .._base.processes import gather_objects, share_of

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
)  # errors that can be made from a message alone; any other error is raised as a RuntimeError on all ranks


class Ranks:
    """The processes of a torch.distributed group, with the rank of this process and the messages between them.

    Every message raises RuntimeError if another process has ended, or does not answer within the timeout of the group. The group
    cannot be used after that.

    Args:
        op: The name of the call in errors.
        group: The processes; None for all.

    Raises:
        RuntimeError: No process group is initialised.
        ValueError: This process is not in the group.
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
        self._call = op  # the call that the errors of messages name

    def device(self, near: torch.device | None = None) -> torch.device:
        """Return the device on which the group exchanges tensors.

        It is the accelerator `near` if the group's backend uses its memory directly, otherwise the CPU if the group supports it.
        Ranks whose `near` is of one kind get devices of one kind.
        """
        backends = dict(entry.split(":") for entry in dist.get_backend_config(self.group).split(","))
        if near is not None and backends.get(near.type, "gloo") != "gloo":  # gloo would itself copy the tensors to the CPU
            return near
        return torch.device("cpu") if "cpu" in backends else torch.device(next(iter(backends)))

    def agree(self, call: str, work: Callable[[], T], facts: Callable[[T], Mapping[str, Any]] | None = None) -> T:
        """Run `work` on this rank, and return its result once it succeeded on all ranks with equal facts.

        Otherwise all ranks raise the same error, so that no rank waits for another one that has failed.

        Args:
            call: The name of the method, which must be equal on all ranks.
            work: The local work.
            facts: Returns what must be equal on all ranks, by name, for the result of `work`.
        """
        self._call = call
        error, result = None, None
        texts: dict[str, str] = {}
        try:
            result = work()
            texts = {name: str(value) for name, value in facts(result).items()} if facts else {}
        except Exception as raised:
            error = raised
        report = [error is None, crc32(call.encode()), crc32(repr(texts).encode())]
        reports = self.gather(torch.tensor(report, dtype=torch.int64, device=self.device())).tolist()
        if any(other != [1, *report[1:]] for other in reports):
            raise self._common_error(call, texts, error) from error
        return result  # type: ignore[return-value]

    def _common_error(self, call: str, texts: dict[str, str], error: Exception | None) -> Exception:
        """Return the one error that all ranks raise after some of them have failed."""
        failure = None
        if error is not None:
            failure = (next((i for i, kind in enumerate(_KINDS) if isinstance(error, kind)), -1), str(error) or repr(error))
        reports = self.objects((call, failure, texts))
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
        """Return the `value` of each rank, stacked: [ranks, *value.shape]. Shape and dtype are equal on all ranks."""
        value = value.contiguous()
        values = [torch.empty_like(value) for _ in range(self.size)]
        if value.numel():
            with self._naming_silence():
                dist.all_gather(values, value, group=self.group)
        return torch.stack(values)

    def integers(self, value: int) -> list[int]:
        """Return the `value` of each rank."""
        return self.gather(torch.tensor(value, dtype=torch.int64, device=self.device())).tolist()

    def objects(self, value: Any) -> list[Any]:
        """Return the `value` of each rank, which is pickled; for small and rare messages."""
        with self._naming_silence():
            return gather_objects(value, self.group)

    def share(self, count: int) -> slice:
        """Return this rank's rows when all ranks split `count` rows evenly."""
        return share_of(count, self.rank, self.size)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of `value` over the ranks, computed in place."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def minimum(self, value: Tensor) -> Tensor:
        """Return the minimum of `value` over the ranks, computed in place."""
        return self._reduced(value, dist.ReduceOp.MIN)

    def _reduced(self, value: Tensor, operation: Any) -> Tensor:
        if value.numel():
            with self._naming_silence():
                dist.all_reduce(value, operation, group=self.group)
        return value

    @contextmanager
    def _naming_silence(self) -> Iterator[None]:
        """Explain the error of a message that did not reach all ranks; that of torch names neither the call nor a remedy."""
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"{self._call}: rank {self.rank} of {self.size} lost contact with the other ranks. One of them has ended, is "
                "stopped, or did not answer within the timeout of the process group (the argument timeout of "
                "torch.distributed.init_process_group), or the network between the machines is broken. The group sends no more "
                "messages: end all processes, look for the cause in the output of the other ranks, and start them again. "
                f"torch.distributed reports: {error}"
            ) from error


def _by_rank(values: Sequence[str | None]) -> str:
    """Return a text that lists the different values with their ranks; None is left out."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        if value is not None:
            ranks.setdefault(value, []).append(rank)
    return "; ".join(f"rank{'s' * (len(who) > 1)} {', '.join(map(str, who))}: {value}" for value, who in ranks.items())
