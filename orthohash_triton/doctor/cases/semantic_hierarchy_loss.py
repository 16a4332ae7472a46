"""Cases of `semantic_hierarchy_loss`."""

import torch
from torch import Generator

from ...ops.dispatch import Impl
from ...ops.semantic_hierarchy_loss import semantic_hierarchy_loss
from ...reference.semantic_hierarchy_loss import semantic_hierarchy_loss as semantic_hierarchy_reference
from ._case import FLOAT32, Case, Inputs, Outputs, leaf, loss_and_gradients, normal, random_signs


def _make_inputs(generator: Generator) -> Inputs:
    distance = torch.rand(13, 13, generator=generator)
    return {
        "z": torch.tanh(normal(generator, 37, 24)),
        "target": torch.randint(0, 13, (37,), generator=generator),
        "distance": (distance + distance.T).fill_diagonal_(0) / 2,
        "draws": random_signs(generator, 41, 24).float(),
    }


def _run(given: Inputs, impl: Impl) -> Outputs:
    z, target, distance, draws = leaf(given["z"]), given["target"], given["distance"], given["draws"]
    if impl != "reference":
        return loss_and_gradients(semantic_hierarchy_loss(z, target, distance, binary_target=draws, scale=0.02), z)
    z, distance, draws = (x.cpu() for x in (z, distance[target[:, None], target[None]], draws))
    z = leaf(z)
    return loss_and_gradients(semantic_hierarchy_reference(z, distance, draws, scale=0.02), z)


CASES = [Case("semantic_hierarchy_loss", "37 x 24, 13 classes", _make_inputs, _run, FLOAT32, is_plain=True)]
