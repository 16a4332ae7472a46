"""What a step asks of the host: on a GPU every operator and every launch costs it microseconds, and some make it wait."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from orthohash_triton.kernels import launch
from torch.utils._python_dispatch import TorchDispatchMode

FREE = {"empty", "empty_like", "new_empty", "detach", "alias", "view", "select", "slice", "unsqueeze", "expand", "permute", "t",
        "transpose", "unbind", "diagonal"}  # fmt: skip


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[operator.overloadpacket.__name__] += 1
        return operator(*args, **(kwargs or {}))


def operators_and_launches(step: Callable[[], Any]) -> tuple[dict[str, int], list[str]]:
    """Torch's operators of `step` that are neither views nor allocations, and the kernels that it launches, on CPU tensors; the
    kernels do not run. The second step is counted: the first may prepare what is kept."""
    launches: list[str] = []
    with launch.executor(lambda kernel, *_, **__: launches.append(kernel.fn.__name__)):
        step()
        launches.clear()
        with _Counting() as counting:
            step()
    return {name: number for name, number in counting.found.items() if name not in FREE}, launches
