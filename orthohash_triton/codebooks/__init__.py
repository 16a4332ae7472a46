"""Codebooks: one code of +-1 per class, the fixed targets of the losses."""

from ._codebook import make_codebook
from ._distance import codebook_min_distance
from ._similarity import class_similarity

__all__ = ["class_similarity", "codebook_min_distance", "make_codebook"]
