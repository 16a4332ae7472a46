"""Selection of the best epoch by its mAP on samples that are held out of the training set."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Dataset
from ..metrics import mean_average_precision
from ..models.model import HashModel

GALLERY = 10_000
"""Largest number of training samples that the held-out ones are searched in: enough to compare epochs, and quick to encode."""


def sample_of(data: Dataset, most: int) -> Dataset:
    """Return at most `most` random samples of `data` in their order. Every call returns the same ones.

    They are random because data sets are often sorted by class.
    """
    if len(data) <= most:
        return data
    drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:most]
    return data.subset(drawn.sort().values)


class Validation:
    """The mAP@all of `held_out` as queries in at most GALLERY samples of `gallery`, and the weights of the best epoch."""

    def __init__(self, gallery: Dataset, held_out: Dataset) -> None:
        self.gallery = sample_of(gallery, GALLERY)
        self.held_out = held_out
        self.score = -1.0
        self.best: dict[str, Tensor] = {}
        self.best_parameters: dict[str, Tensor] = {}  # parameters of the objective
        self.epochs_since_best = 0

    def judge(self, model: HashModel) -> float:
        """Return the mAP@all of `model`."""
        return mean_average_precision(
            model.encode(self.held_out.inputs), model.encode(self.gallery.inputs), self.held_out.labels, self.gallery.labels
        )

    def keep(self, score: float, model: HashModel, objective: nn.Module) -> None:
        """Store the weights of `model` and the parameters of `objective`, unless an earlier `score` was higher.

        Of two equal scores the later one is kept.
        """
        if score >= self.score:
            # An equal score is no improvement: patience counts such an epoch, although its weights are kept.
            self.epochs_since_best = 0 if score > self.score else self.epochs_since_best + 1
            self.score, self.best = score, copy.deepcopy(model.state_dict())
            self.best_parameters = {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}
        else:
            self.epochs_since_best += 1

    def restore(self, model: HashModel, objective: nn.Module) -> None:
        """Give `model` and `objective` the weights and parameters that `keep` stored."""
        model.load_state_dict(self.best)
        with torch.no_grad():
            for name, parameter in objective.named_parameters():
                parameter.copy_(self.best_parameters[name])

    def state_dict(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "best": self.best,
            "best_parameters": self.best_parameters,
            "epochs_since_best": self.epochs_since_best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.score, self.best, self.epochs_since_best = state["score"], state["best"], state["epochs_since_best"]
        self.best_parameters = state.get("best_parameters", {})  # checkpoints of earlier versions lack them
