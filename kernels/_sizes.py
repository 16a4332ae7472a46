"""Sizes of tiles and grids. Triton's own functions of these names also serve compiled code, and take microseconds a call."""


def cdiv(number: int, part: int) -> int:
    """number / part, rounded up."""
    return -(-number // part)


def next_power_of_2(number: int) -> int:
    """The least power of two that is at least `number`; 1 for 0."""
    return 1 << max(number - 1, 0).bit_length()
