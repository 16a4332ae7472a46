"""Cases of `hamming_topk`."""

from ...ops.hamming_topk import hamming_topk
from ._case import on_cpu
from ._search_case import search_case

CASES = [
    search_case(hamming_topk, 33, 20_011, 64, k=7),  # many queries, many codes: tensor cores on NVIDIA GPUs
    search_case(hamming_topk, 33, 5003, 64, k=7, distinct=2, note="ties"),
    search_case(hamming_topk, 1, 5003, 64, k=7),  # one query: limited by memory bandwidth
    search_case(hamming_topk, 9, 5003, 64, k=7, distinct=2, note="ties"),  # some queries: limited by population counts
    # k is larger than the gallery: the path that counts distances first.
    search_case(hamming_topk, 37, 1009, 64, k=1100, distinct=2, with_mask=True, note="ties, mask, k larger than the gallery"),
    *on_cpu(
        search_case(hamming_topk, 33, 5003, 64, k=7, with_mask=True, note="mask"),
        search_case(hamming_topk, 9, 5003, 2048, k=5),
        search_case(hamming_topk, 37, 1009, 64, k=100),
    ),
]
