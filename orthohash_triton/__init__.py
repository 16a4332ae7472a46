"""Learning to hash: fused losses, binary codes, exact Hamming search, on a GPU through Triton and on a CPU behind the same API.

    import orthohash_triton as oht

    codebook = oht.make_codebook(num_classes, bits)
    loss = oht.orthohash_loss(latent, target, codebook, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    codes = oht.pack_codes(bn(latent))
    index = oht.HammingIndex(bits)
    index.add(codes)
    distances, ids = index.search(queries, k=100)

Importing the package needs neither Triton nor a GPU.
"""

from . import metrics, nn
from .codebooks import codebook_min_distance, make_codebook
from .nn import reestimate_batch_norm
from .ops.cosine_codebook_loss import cosine_codebook_loss
from .ops.hamming_distance import hamming_distance
from .ops.hamming_histogram import hamming_histogram
from .ops.hamming_range import hamming_range
from .ops.hamming_topk import hamming_topk
from .ops.orthohash_loss import orthohash_loss
from .ops.pack_codes import from_packbits, pack_codes, unpack_codes
from .search import HammingIndex, ShardedHammingIndex

__version__ = "0.1.0"

__all__ = [
    "HammingIndex",
    "ShardedHammingIndex",
    "codebook_min_distance",
    "cosine_codebook_loss",
    "from_packbits",
    "hamming_distance",
    "hamming_histogram",
    "hamming_range",
    "hamming_topk",
    "make_codebook",
    "metrics",
    "nn",
    "orthohash_loss",
    "pack_codes",
    "reestimate_batch_norm",
    "unpack_codes",
]
