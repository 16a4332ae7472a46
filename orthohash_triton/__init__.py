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

The import takes milliseconds, because every name is imported from its module when it is first used; torch is imported then. The
import needs neither Triton nor a GPU. An implementation is imported when its op is first called.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._base import moved

if TYPE_CHECKING:
    from . import methods, metrics, nn
    from .codebooks import class_similarity, codebook_min_distance, make_codebook
    from .hierarchy import class_distance
    from .nn import reestimate_batch_norm
    from .ops.central_similarity_loss import central_similarity_loss
    from .ops.cosine_codebook_loss import cosine_codebook_loss
    from .ops.hamming_distance import hamming_distance
    from .ops.hamming_histogram import hamming_histogram
    from .ops.hamming_range import hamming_range
    from .ops.hamming_self_join import hamming_self_join
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
    "hamming_self_join",
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

# The module of each name above, and the modules that are attributes of the package without an import of their own.
_HOMES = {
    "HammingIndex": "search",
    "Rotation": "rotations",
    "ShardedHammingIndex": "search",
    "central_similarity_loss": "ops.central_similarity_loss",
    "class_distance": "hierarchy",
    "class_similarity": "codebooks",
    "codebook_min_distance": "codebooks",
    "cosine_codebook_loss": "ops.cosine_codebook_loss",
    "fit_householder": "rotations",
    "fit_itq": "rotations",
    "fit_lsh": "projections",
    "fit_pca": "projections",
    "from_packbits": "ops.pack_codes",
    "hamming_distance": "ops.hamming_distance",
    "hamming_histogram": "ops.hamming_histogram",
    "hamming_range": "ops.hamming_range",
    "hamming_self_join": "ops.hamming_self_join",
    "hamming_topk": "ops.hamming_topk",
    "householder_apply": "ops.householder",
    "householder_product": "ops.householder",
    "make_codebook": "codebooks",
    "minimum_distance_loss": "ops.minimum_distance_loss",
    "orthohash_loss": "ops.orthohash_loss",
    "pack_codes": "ops.pack_codes",
    "pairwise_likelihood_loss": "ops.pairwise_likelihood_loss",
    "quantization_loss": "ops.quantization_loss",
    "reestimate_batch_norm": "nn",
    "semantic_hierarchy_loss": "ops.semantic_hierarchy_loss",
    "unpack_codes": "ops.pack_codes",
}
_MODULES = ("codebooks", "hierarchy", "methods", "metrics", "nn", "ops", "projections", "rotations", "search")


def __getattr__(name: str) -> Any:
    """Import the public object or module called `name` when it is first used."""
    if name in _HOMES:
        found = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    elif name in _MODULES:
        found = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found  # the next use finds it without this function
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
