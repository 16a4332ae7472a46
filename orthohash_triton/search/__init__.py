"""Exact nearest-neighbour search in Hamming space: indexes of packed codes, and a second ranking of their answers."""

from ._explanation import Explanation
from .index import HammingIndex
from .rerank import Rerank
from .sharded import ShardedHammingIndex

__all__ = ["Explanation", "HammingIndex", "Rerank", "ShardedHammingIndex"]
