"""Exact search in Hamming space: indexes of packed codes, a second ranking of their answers, and groups of near-duplicates."""

from ._explanation import Explanation
from .duplicates import near_duplicates
from .index import HammingIndex
from .rerank import Rerank
from .sharded import ShardedHammingIndex

__all__ = ["Explanation", "HammingIndex", "Rerank", "ShardedHammingIndex", "near_duplicates"]
