"""Groups of near-duplicate codes."""

from contextlib import ExitStack
from typing import Any

from torch import Tensor

from .._base.arrays import numpy_friendly
from .._base.progress import Advance, progress_bar
from ..ops.dispatch import choose, implementation
from ..ops.hamming_self_join import join_arguments


@numpy_friendly
def near_duplicates(codes: Any, radius: Any, *, inclusive: bool = True, impl: str = "auto", progress: bool = False) -> Tensor:
    """Return the group of each code, where codes within a radius of each other are in one group.

    Groups are the connected components of the graph of near pairs: two codes of a group may be farther apart than the radius if a
    chain of near codes links them. The pairs are found as in `hamming_self_join` and are not kept, so that memory is proportional
    to N; equal codes are linked without comparing them in pairs. On a GPU the pairs are found there and linked on the host.

    Args:
        codes: uint8 [N, B], packed codes (see `pack_codes`), N < 2**31. A NumPy array is accepted, and gives an array.
        radius: bits, 0 or more; with 0 the groups are those of equal codes.
        inclusive: with False, only codes nearer than `radius` are linked.
        impl: "auto" | "triton" | "cpu" | "reference".
        progress: show a progress bar on standard error.

    Returns:
        int64 [N]: the smallest position in the group of each code. A code that resembles no other has its own position.

    Raises:
        TypeError: for another dtype.
        ValueError: for another shape, a negative radius or more codes.
        ImportError: with `progress`, if rich is not installed.

    Example:
        >>> import torch
        >>> from orthohash_triton import search
        >>> codes = torch.tensor([[0b0000], [0b1111], [0b0001], [0b0011], [0b1111]], dtype=torch.uint8)
        >>> search.near_duplicates(codes, 1)
        tensor([0, 1, 0, 0, 1])
    """
    codes, limit = join_arguments("near_duplicates", codes, radius, inclusive)
    from ..kernels.cpu.components import unite

    module = implementation("hamming_self_join", choose("near_duplicates", impl, codes))
    with ExitStack() as stack:
        bar: list[Advance] = []

        def report(done: int, total: int) -> None:
            if not bar:
                bar.append(stack.enter_context(progress_bar("comparing", total, enabled=progress)))
            bar[0]()

        groups: Tensor = module.near_components(codes, limit, unite, report)
    return groups
