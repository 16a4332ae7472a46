"""Cases of `hamming_range`."""

from ...ops.hamming_range import hamming_range
from ._case import on_cpu
from ._search_case import search_case

CASES = [
    search_case(hamming_range, 37, 1009, 8, radius=2),
    search_case(hamming_range, 37, 1009, 8, inclusive=True, with_radii=True, note="one radius per query"),
    *on_cpu(
        search_case(hamming_range, 37, 1009, 64, radius=26),
        search_case(hamming_range, 37, 1009, 64, inclusive=True, with_radii=True, with_mask=True, note="mask"),
    ),
]
