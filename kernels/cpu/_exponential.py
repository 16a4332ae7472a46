"""An exponential for the loops of the losses: LLVM vectorises it, unlike a call of the C library."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ._compiler import compiler


@intrinsic
def _float_of_bits(typing_context, bits):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@compiler(fastmath={"reassoc", "contract", "nsz"})
def exponential(x):
    """Return e^x of a float32 x below about 80, to 3e-7, and e^-87 for x below -87, by the polynomial of Cephes' expf."""
    real = np.float32
    x = max(x, real(-87.0))
    power = np.floor(x * real(1.4426950408889634) + real(0.5))
    r = x - power * real(0.693359375) + power * real(2.12194440e-4)  # x - power ln 2, with ln 2 in two parts for precision
    series = real(1.9875691500e-4)
    series = series * r + real(1.3981999507e-3)
    series = series * r + real(8.3334519073e-3)
    series = series * r + real(4.1665795894e-2)
    series = series * r + real(1.6666665459e-1)
    series = series * r + real(5.0000001201e-1)
    series = series * r * r + r + real(1.0)
    return series * _float_of_bits((np.int32(power) + np.int32(127)) << np.int32(23))
