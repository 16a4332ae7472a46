"""Cases of `hamming_histogram`."""

from ...ops.hamming_histogram import hamming_histogram
from ._case import on_cpu
from ._search_case import search_case

CASES = [
    search_case(hamming_histogram, 37, 5003, 64),
    search_case(hamming_histogram, 37, 5003, 64, distinct=2, note="ties"),
    *on_cpu(search_case(hamming_histogram, 3, 333, 2048)),
]
