"""A module for the loss that follows a class hierarchy."""

from typing import Any

from torch import Tensor, nn

from ..ops.semantic_hierarchy_loss import semantic_hierarchy_loss
from . import _keywords


class SemanticHierarchyLoss(nn.Module):
    """`semantic_hierarchy_loss` with its class distances [C, C] and keywords: `criterion(z, target)`.

    The distances are a buffer: they move with the module and are saved with it. Without them (None) the samples' own distances
    [N, N] come with every batch: `criterion(z, pair_distance=distances)`. z are codes [N, K] in (-1, 1), target class ids [N] or
    multi-hot [N, C]. Errors are the function's.
    """

    class_distance: Tensor | None

    def __init__(self, class_distance: Tensor | None = None, **keywords: Any) -> None:
        super().__init__()
        self.register_buffer("class_distance", class_distance)
        self.keywords = _keywords.checked(self, semantic_hierarchy_loss, keywords, filled=("pair_distance",))

    def forward(self, z: Tensor, target: Tensor | None = None, *, pair_distance: Tensor | None = None) -> Tensor:
        return semantic_hierarchy_loss(z, target, self.class_distance, pair_distance=pair_distance, **self.keywords)

    def extra_repr(self) -> str:
        classes = [] if self.class_distance is None else [f"classes={len(self.class_distance)}"]
        return ", ".join([*classes, *(f"{name}={value!r}" for name, value in self.keywords.items())])
