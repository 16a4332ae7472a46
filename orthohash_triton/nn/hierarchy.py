"""Module for the loss that makes distances of codes follow a class hierarchy."""

import torch
from torch import Tensor

from ..ops.semantic_hierarchy_loss import check_class_distance, check_draws, check_options, semantic_hierarchy_loss
from ._options import LossModule


class SemanticHierarchyLoss(LossModule):
    """Module of `orthohash_triton.semantic_hierarchy_loss`: `criterion(z, target)`.

    Args:
        class_distance: distances of the classes [C, C], a buffer of the module. None if every call brings the distances of the
            samples [N, N]: `criterion(z, pair_distance=distances)`.
        relational_weight, kl_weight, scale, pair_decay, binary_target, draws, distance_floor, generator, ignore_index: options of
            the function.

    The call takes codes z [N, K] in (-1, 1), and a target of class ids [N] or multi-hot labels [N, C]. It returns and raises what
    the function does.

    Example:
        >>> import torch
        >>> import orthohash_triton as oht
        >>> distance = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> criterion = oht.nn.SemanticHierarchyLoss(distance, kl_weight=0.0, scale=0.25)
        >>> z = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # their Manhattan distance is 4
        >>> criterion(z, torch.tensor([0, 1]))
        tensor(0.)
    """

    check = staticmethod(check_options)
    class_distance: Tensor | None

    def __init__(
        self,
        class_distance: Tensor | None = None,
        *,
        relational_weight: float = 1.0,
        kl_weight: float = 0.01,
        scale: float | None = None,
        pair_decay: float = 2.0,
        binary_target: Tensor | None = None,
        draws: int | None = None,
        distance_floor: float = 1e-3,
        generator: torch.Generator | None = None,
        ignore_index: int = -100,
    ) -> None:
        super().__init__(
            relational_weight=relational_weight, kl_weight=kl_weight, scale=scale, pair_decay=pair_decay, draws=draws,
            distance_floor=distance_floor, ignore_index=ignore_index,
        )  # fmt: skip
        name = type(self).__name__
        self.keywords |= dict(binary_target=check_draws(name, binary_target), generator=generator)
        self.register_buffer("class_distance", None if class_distance is None else check_class_distance(name, class_distance))

    def forward(self, z: Tensor, target: Tensor | None = None, *, pair_distance: Tensor | None = None) -> Tensor:
        """Return the loss of z [N, K]."""
        return semantic_hierarchy_loss(z, target, self.class_distance, pair_distance=pair_distance, **self.keywords)

    def extra_repr(self) -> str:
        classes = None if self.class_distance is None else f"classes={len(self.class_distance)}"
        return ", ".join(filter(None, (classes, super().extra_repr())))
