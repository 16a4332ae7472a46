"""The naive truth of every op, straight from its formula. Tests and benchmarks compare with these."""

from .cosine_codebook_loss import cosine_codebook_loss
from .orthohash_loss import orthohash_loss

__all__ = ["cosine_codebook_loss", "orthohash_loss"]
