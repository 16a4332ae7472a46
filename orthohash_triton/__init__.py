"""Learning to hash on a GPU: fused losses, binary codes, exact Hamming search. See README.md for a tour."""

__version__ = "0.1.0"
