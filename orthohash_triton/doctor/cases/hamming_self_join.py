"""Cases of `hamming_self_join`."""

from torch import Generator

from ...ops.dispatch import Impl
from ...ops.hamming_self_join import hamming_self_join
from ._case import Case, Inputs, Outputs, on_cpu, random_codes


def _case(rows: int, bits: int, radius: int, *, distinct: int = 256, note: str = "") -> Case:
    """Return a case; few distinct byte values (`distinct`) make many codes near or equal."""

    def make(generator: Generator) -> Inputs:
        return {"codes": random_codes(generator, rows, bits, distinct)}

    def run(given: Inputs, impl: Impl) -> Outputs:
        return hamming_self_join(given["codes"], radius, impl=impl)

    return Case("hamming_self_join", f"{rows} x {bits}, radius {radius}{note}", make, run)


CASES = [
    _case(1009, 64, 2, distinct=3, note=", few byte values"),
    _case(1009, 64, 20, note=", every pair"),
    _case(1009, 8, 0, note=", equal codes"),
    *on_cpu(_case(3001, 200, 4, distinct=2, note=", no whole word")),
]
