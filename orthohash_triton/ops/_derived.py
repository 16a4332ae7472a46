"""What is computed once from a tensor that does not change, such as the packed form of a codebook."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

T = TypeVar("T")

_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def derived(tensor: Tensor, what: str, make: Callable[[], T]) -> T:
    """`make()`, remembered for as long as `tensor` lives and is not written to."""
    if tensor.is_inference():  # such tensors do not count their writes
        return make()
    version = (tensor._version, tensor.data_ptr())
    known = _known.get(tensor)
    if known is None or known[0] != version:
        known = _known[tensor] = (version, {})
    if what not in known[1]:
        known[1][what] = make()
    return known[1][what]
