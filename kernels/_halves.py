"""Float32 matrices split into two float16 halves, which tensor cores multiply with the precision of float32."""

import triton
import triton.language as tl


@triton.jit
def high_half(x):
    """Round float32 `x` to float16."""
    return x.to(tl.float16)


@triton.jit
def low_half(x, high):
    """Return the difference of float32 `x` and its rounded value `high` as float16."""
    return (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def halves(x):
    """Split float32 `x` into float16 (high, low): high + low equals x up to 2^-22 of x where `low` is a normal number."""
    high = high_half(x)
    return high, low_half(x, high)


@triton.jit
def product(a_high, a_low, b_high, b_low, acc=None):
    """Return acc + a @ b for matrices that are split into halves.

    The product low @ low is omitted: it is below 2^-22 of the result. The smaller products are added first.
    """
    acc = tl.dot(a_low, b_high, acc)
    acc = tl.dot(a_high, b_low, acc)
    return tl.dot(a_high, b_high, acc)
