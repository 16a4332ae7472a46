"""Launches of Triton kernels that are looked at instead of run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from orthohash_triton.kernels import launch


@dataclass(frozen=True)
class Call:
    """One launch of a kernel, as `kernels.launch` passes it to an executor."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    warps: int
    stages: int
    most_registers: int | None  # per thread; None lets the compiler choose
    constexprs: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the kernel's function."""
        return self.kernel.fn.__name__

    @property
    def named(self) -> dict[str, Any]:
        """The arguments by name, without the constants."""
        return dict(zip(self.kernel.arg_names, self.args, strict=False))


@contextmanager
def instead_of_launches(look: Callable[[Call], Any], device: launch.Device | None = None) -> Iterator[None]:
    """Call `look` for every launch inside the block, planned for `device`, and run no kernel."""

    def run(
        kernel: Any,
        grid: tuple[int, ...],
        *args: Any,
        num_warps: int,
        num_stages: int,
        maxnreg: int | None = None,
        **constexprs: Any,
    ) -> None:
        look(Call(kernel, tuple(grid), args, num_warps, num_stages, maxnreg, constexprs))

    with launch.executor(run, device):
        yield
