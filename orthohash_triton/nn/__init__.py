"""PyTorch modules: the hash layer, and one module for each loss function, with the same options."""

from .batch_norm import reestimate_batch_norm
from .central import CentralSimilarityLoss, MinimumDistanceLoss, QuantizationLoss
from .codebook_losses import CosineCodebookLoss, OrthoHashLoss
from .hash_head import HashHead
from .hierarchy import SemanticHierarchyLoss
from .pairwise import PairwiseLikelihoodLoss

__all__ = [
    "CentralSimilarityLoss",
    "CosineCodebookLoss",
    "HashHead",
    "MinimumDistanceLoss",
    "OrthoHashLoss",
    "PairwiseLikelihoodLoss",
    "QuantizationLoss",
    "SemanticHierarchyLoss",
    "reestimate_batch_norm",
]
