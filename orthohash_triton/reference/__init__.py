"""A direct implementation of the formula of every op, with which tests and benchmarks compare."""

from .cosine_codebook_loss import cosine_codebook_loss
from .orthohash_loss import orthohash_loss

__all__ = ["cosine_codebook_loss", "orthohash_loss"]
