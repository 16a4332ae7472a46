"""Exact search in Hamming space."""

from .index import HammingIndex
from .rerank import Rerank
from .sharded import ShardedHammingIndex

__all__ = ["HammingIndex", "Rerank", "ShardedHammingIndex"]
