"""Split float32 matrices into two float16 halves, so that tensor cores multiply them with float32's precision."""

import triton
import triton.language as tl


@triton.jit
def high_half(x):
    """Round float32 `x` to float16."""
    return x.to(tl.float16)


@triton.jit
def low_half(x, high):
    """Return in float16 what rounding `x` to `high` left out."""
    return (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def halves(x):
    """Return float32 `x` as float16 (high, low): high + low is x, up to 2^-22 of x where `low` is a normal number."""
    high = high_half(x)
    return high, low_half(x, high)


@triton.jit
def product(a_high, a_low, b_high, b_low, acc=None):
    """Return acc + a @ b, without low @ low, which is below 2^-22 of the product. The smaller products are added first."""
    acc = tl.dot(a_low, b_high, acc)
    acc = tl.dot(a_high, b_low, acc)
    return tl.dot(a_high, b_high, acc)
