"""Exact search in Hamming space."""

from .index import HammingIndex

__all__ = ["HammingIndex"]
