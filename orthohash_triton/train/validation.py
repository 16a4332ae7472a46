"""Choosing the best epoch on samples held out of the training set."""

import copy

import torch
from torch import Tensor

from ..data import Dataset
from ..metrics import mean_average_precision
from .model import HashModel

GALLERY = 10_000  # training samples that the held-out ones are searched in: enough to rank epochs, quick to encode


class Validation:
    """mAP@all of `held_out` as queries in (the first GALLERY of) `gallery`; remembers the weights of the best epoch."""

    def __init__(self, gallery: Dataset, held_out: Dataset) -> None:
        self.gallery = gallery.subset(torch.arange(min(len(gallery), GALLERY)))
        self.held_out = held_out
        self.score = -1.0
        self.best: dict[str, Tensor] = {}

    def judge(self, model: HashModel) -> float:
        """The mAP of `model`; the later of two equal epochs is the better."""
        score = mean_average_precision(
            model.encode(self.held_out.inputs), model.encode(self.gallery.inputs), self.held_out.labels, self.gallery.labels
        )
        if score >= self.score:
            self.score, self.best = score, copy.deepcopy(model.state_dict())
        return score
