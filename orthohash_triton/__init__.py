"""Learning to hash: fused losses, binary codes and exact Hamming search, with Triton on GPUs and with Numba on CPUs.

Example:
    >>> import torch
    >>> import orthohash_triton as oht
    >>> codebook = oht.make_codebook(10, 64)  # 10 classes, 64 bits
    >>> bn = torch.nn.BatchNorm1d(64).eval()
    >>> latent, target = torch.randn(32, 64, requires_grad=True), torch.arange(32) % 10
    >>> loss = oht.orthohash_loss(latent, target, codebook, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    >>> loss.backward()
    >>> codes = oht.pack_codes(bn(latent))
    >>> codes.shape
    torch.Size([32, 8])
    >>> index = oht.HammingIndex(64)
    >>> index.add(codes)
    >>> distances, ids = index.search(codes[:2], k=3)
    >>> ids.shape
    torch.Size([2, 3])

The import needs neither Triton nor a GPU. An implementation is imported when its op is first called.
"""

from . import methods, metrics, nn
from ._base import moved
from .codebooks import class_similarity, codebook_min_distance, make_codebook
from .hierarchy import class_distance
from .nn import reestimate_batch_norm
from .ops.central_similarity_loss import central_similarity_loss
from .ops.cosine_codebook_loss import cosine_codebook_loss
from .ops.hamming_distance import hamming_distance
from .ops.hamming_histogram import hamming_histogram
from .ops.hamming_range import hamming_range
from .ops.hamming_topk import hamming_topk
from .ops.householder import householder_apply, householder_product
from .ops.minimum_distance_loss import minimum_distance_loss
from .ops.orthohash_loss import orthohash_loss
from .ops.pack_codes import from_packbits, pack_codes, unpack_codes
from .ops.pairwise_likelihood_loss import pairwise_likelihood_loss
from .ops.quantization_loss import quantization_loss
from .ops.semantic_hierarchy_loss import semantic_hierarchy_loss
from .projections import fit_lsh, fit_pca
from .rotations import Rotation, fit_householder, fit_itq
from .search import HammingIndex, ShardedHammingIndex

__version__ = "0.1.0"

moved.install()

__all__ = [
    "HammingIndex",
    "Rotation",
    "ShardedHammingIndex",
    "central_similarity_loss",
    "class_distance",
    "class_similarity",
    "codebook_min_distance",
    "cosine_codebook_loss",
    "fit_householder",
    "fit_itq",
    "fit_lsh",
    "fit_pca",
    "from_packbits",
    "hamming_distance",
    "hamming_histogram",
    "hamming_range",
    "hamming_topk",
    "householder_apply",
    "householder_product",
    "make_codebook",
    "methods",
    "metrics",
    "minimum_distance_loss",
    "nn",
    "orthohash_loss",
    "pack_codes",
    "pairwise_likelihood_loss",
    "quantization_loss",
    "reestimate_batch_norm",
    "semantic_hierarchy_loss",
    "unpack_codes",
]
