"""Choosing the best epoch on samples held out of the training set."""

import copy
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..metrics import mean_average_precision
from ..models.model import HashModel

GALLERY = 10_000  # training samples that the held-out ones are searched in: enough to rank epochs, quick to encode


def sample_of(data: Dataset, most: int) -> Dataset:
    """`most` samples drawn at random, the same ones every time, in their order: sets often stand in the order of classes."""
    if len(data) <= most:
        return data
    drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:most]
    return data.subset(drawn.sort().values)


class Validation:
    """mAP@all of `held_out` as queries in (GALLERY samples of) `gallery`; remembers the weights of the best epoch."""

    def __init__(self, gallery: Dataset, held_out: Dataset) -> None:
        self.gallery = sample_of(gallery, GALLERY)
        self.held_out = held_out
        self.score = -1.0
        self.best: dict[str, Tensor] = {}
        self.epochs_since_best = 0

    def judge(self, model: HashModel) -> float:
        """The mAP of `model`."""
        return mean_average_precision(
            model.encode(self.held_out.inputs), model.encode(self.gallery.inputs), self.held_out.labels, self.gallery.labels
        )

    def keep(self, score: float, model: HashModel) -> None:
        """Remember the weights of `model`, where no `score` before was better: the later of two equal epochs is the better."""
        if score >= self.score:
            # Waiting for a better one ends after epochs that are no better, whichever of them is kept.
            self.epochs_since_best = 0 if score > self.score else self.epochs_since_best + 1
            self.score, self.best = score, copy.deepcopy(model.state_dict())
        else:
            self.epochs_since_best += 1

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "best": self.best, "epochs_since_best": self.epochs_since_best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.score, self.best, self.epochs_since_best = state["score"], state["best"], state["epochs_since_best"]
