"""Modules for the functions of the package, with the same keywords."""

from .batch_norm import reestimate_batch_norm
from .codebook_losses import CosineCodebookLoss, OrthoHashLoss
from .hash_head import HashHead

__all__ = ["CosineCodebookLoss", "HashHead", "OrthoHashLoss", "reestimate_batch_norm"]
