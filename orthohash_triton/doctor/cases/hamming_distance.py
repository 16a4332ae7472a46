"""Cases of `hamming_distance`."""

from ...ops.hamming_distance import hamming_distance
from ._case import on_cpu
from ._search_case import search_case

CASES = [
    search_case(hamming_distance, 37, 1009, 64),
    search_case(hamming_distance, 5, 333, 2048),
    *on_cpu(search_case(hamming_distance, 1, 1, 8)),
]
