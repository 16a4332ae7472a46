"""Triton's `cdiv` and `next_power_of_2` for the host. Triton's own serve kernels too, and take microseconds of every call."""


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n > 0."""
    return 1 << (n - 1).bit_length()
