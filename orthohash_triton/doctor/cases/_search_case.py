"""Cases of ops that compare queries with a gallery."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from ...ops.dispatch import Impl
from ._case import Case, Inputs, Outputs, by_size, joined, random_codes


def search_case(
    function: Callable[..., Tensor | Outputs], queries: int, gallery: int, bits: int, *, note: str = "", distinct: int = 256,
    with_mask: bool = False, with_radii: bool = False, **keywords: Any,
) -> Case:  # fmt: skip
    """Return a case of the op `function`.

    Args:
        note: what is special about the problem, for the label.
        distinct: number of byte values in the codes; few make many distances equal.
        with_mask: pass a mask that keeps about 30 % of the gallery.
        with_radii: pass one radius per query.
        keywords: options of the op.
    """

    def make(generator: Generator) -> Inputs:
        codes = random_codes(generator, queries + gallery, bits, distinct)
        return {
            "queries": codes[:queries],
            "gallery": codes[queries:],
            "mask": torch.rand(gallery, generator=generator) < 0.3,
            "radius": torch.randint(0, bits // 2, (queries,), generator=generator),
        }

    def run(given: Inputs, impl: Impl) -> Outputs:
        further = {"mask": given["mask"]} if with_mask else {}
        further |= {"radius": given["radius"]} if with_radii else {}
        found = function(given["queries"], given["gallery"], **keywords, **further, impl=impl)
        return found if isinstance(found, tuple) else (found,)

    options = [f"{name}={value}" for name, value in keywords.items()]
    label = joined([by_size(queries, gallery, bits), *options, *([note] if note else [])])
    return Case(function.__name__, label, make, run)
