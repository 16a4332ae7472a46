"""Cases of `pack_codes` and `unpack_codes`."""

import torch
from torch import Generator

from ...ops.dispatch import Impl
from ...ops.pack_codes import pack_codes, unpack_codes
from ._case import Case, Inputs, Outputs, dtype_name, normal, on_cpu, random_codes


def _pack(rows: int, bits: int, dtype: torch.dtype, threshold: float = 0.0) -> Case:
    """Return a case of `pack_codes`."""

    def make(generator: Generator) -> Inputs:
        x = normal(generator, rows, bits)
        x[0, 0] = threshold  # a value equal to the threshold gives a 0 bit
        return {"x": x > 0 if dtype == torch.bool else x.to(dtype)}

    def run(given: Inputs, impl: Impl) -> Outputs:
        return (pack_codes(given["x"], threshold=threshold, impl=impl),)

    above = f" above {threshold}" if threshold else ""
    return Case("pack_codes", f"{rows} x {bits}, {dtype_name(dtype)}{above}", make, run)


def _unpack(rows: int, bits: int) -> Case:
    def make(generator: Generator) -> Inputs:
        return {"packed": random_codes(generator, rows, (bits + 7) // 8 * 8)}

    def run(given: Inputs, impl: Impl) -> Outputs:
        return (unpack_codes(given["packed"], bits, impl=impl),)

    return Case("unpack_codes", f"{rows} x {bits}", make, run)


CASES = [
    _pack(37, 100, torch.float32),
    _pack(301, 2048, torch.bfloat16),
    *on_cpu(_pack(1, 8, torch.float32, 0.25), _pack(37, 13, torch.bool), _pack(37, 100, torch.float16)),
    _unpack(37, 100),
    *on_cpu(_unpack(301, 2048)),
]
