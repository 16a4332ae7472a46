"""Counts of the operators and launches of a step. On a GPU each of them costs the host microseconds, and some make it wait."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from tests.launches import instead_of_launches

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
    """Return the torch operators of `step` on CPU tensors, except views and allocations, and the kernels that it launches.

    The kernels do not run. The second call of `step` is counted, because the first may fill caches."""
    launches: list[str] = []
    with instead_of_launches(lambda call: launches.append(call.name)):
        step()
        launches.clear()
        with _Counting() as counting:
            step()
    return {name: number for name, number in counting.found.items() if name not in FREE}, launches
