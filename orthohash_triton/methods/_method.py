"""What a method is: a declaration that the trainer, the command line and the comparison all read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import HashHead


@dataclass(frozen=True)
class Task:
    """What a method may know of the data that it learns from.

    labels          int64 class ids [N], or bool multi-hot [N, C], of the training set in its order
    num_classes     C
    bits, seed      of the run
    class_distance  float32 [C, C] in [0, 1] where the classes stand in a hierarchy, else None
    class_logits    trains a classifier on the run's backbone, data and number of epochs when called: logits float32 [N, C] of the
                    training set, in host memory
    """

    labels: Tensor
    num_classes: int
    bits: int
    seed: int
    class_distance: Tensor | None
    class_logits: Callable[[], Tensor]


class Objective(nn.Module):
    """What the training minimises. State (centres, banks, schedules) lives in buffers, and so in the state_dict.

    per_sample  whether the loss is a mean over samples that know of each other through the head's batch norm alone: processes
                that share a batch then each compute their part. Where not, each computes the loss of the whole batch.
    """

    per_sample = False

    def class_codes(self) -> Tensor | None:
        """The +-1 code of every class, int8 [C, K], where the method has one."""
        return None

    def begin_step(self, step: int, steps: int) -> None:
        """Called before step `step` of `steps`, for schedules."""

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: HashHead) -> Tensor:
        """The loss of a batch: latents [N, K] (before the batch norm, if the head has one), labels, and the positions [N] of its
        samples in the training set."""
        raise TypeError(f"{type(self).__name__} must define forward(latent, target, rows, head)")


@dataclass(frozen=True)
class NoOptions:
    """Of a method that has none."""


@dataclass(frozen=True)
class Method:
    """One way to learn binary codes. Either `objective` (a network trained by its gradient) or `fit` (features [N, D], bits,
    seed -> head, without labels) says how.

    name, title   for the command line and for tables
    paper, url    the source
    summary       one line
    options       a frozen dataclass: the method's own settings, each made with `option`
    batch_norm    whether batch normalisation stands between the hash layer and the codes
    lr            learning rate of the head when a run names none
    """

    name: str
    title: str
    paper: str
    url: str
    year: int
    summary: str
    objective: Callable[[Task, Any], Objective] | None = None
    fit: Callable[[Tensor, int, int], HashHead] | None = None
    options: type = NoOptions
    batch_norm: bool = False
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if (self.objective is None) == (self.fit is None):
            raise ValueError(f"Method {self.name}: give either objective or fit, not both and not neither")

    @property
    def learned(self) -> bool:
        """Whether a network is trained, with labels."""
        return self.objective is not None

    def make_options(self, values: Mapping[str, Any]) -> Any:
        """The method's options with `values` in place of their defaults; ValueError for a name or a value that is none."""
        known = {item.name for item in fields(self.options)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"method {self.name!r} has no option {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}"
            )
        return self.options(**values)


def option(default: Any, help: str) -> Any:
    """A field of an options class; the command line shows `help`."""
    return field(default=default, metadata={"help": help})


def not_negative(method: str, options: Any, *names: str) -> None:
    """For an options class's __post_init__."""
    for name in names:
        if not getattr(options, name) >= 0:
            raise ValueError(f"method {method!r}: {name} must not be negative; got {getattr(options, name)}")


class Bank(nn.Module):
    """The last code of every training sample; no gradient flows into it."""

    codes: Tensor
    labels: Tensor
    seen: Tensor

    def __init__(self, labels: Tensor, bits: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(len(labels), bits))
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("seen", torch.zeros(len(labels), dtype=torch.bool))

    @torch.no_grad()
    def update(self, rows: Tensor, codes: Tensor) -> None:
        """Remember `codes` [B, K] of the training samples `rows` [B]."""
        rows = rows.to(self.codes.device)
        self.codes[rows] = codes.detach().to(self.codes.dtype)
        self.seen[rows] = True

    def entries(self, at_most: int | None = None) -> tuple[Tensor, Tensor]:
        """Codes [M, K] and labels of the samples seen so far, or of a random `at_most` of them."""
        if self.seen.all() and (at_most is None or at_most >= len(self.seen)):
            return self.codes, self.labels
        rows = self.seen.nonzero().flatten()
        if at_most is not None:
            rows = rows[torch.randperm(len(rows), device=rows.device)[:at_most]]
        return self.codes[rows], self.labels[rows]
