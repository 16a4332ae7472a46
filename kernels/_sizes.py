"""Arithmetic for sizes of tiles and grids. Triton's functions of the same names take microseconds per call."""


def cdiv(dividend: int, divisor: int) -> int:
    """Return dividend / divisor, rounded up."""
    return -(-dividend // divisor)


def next_power_of_2(number: int) -> int:
    """Return the smallest power of two that is at least `number`; 1 for 0."""
    return 1 << max(number - 1, 0).bit_length()
