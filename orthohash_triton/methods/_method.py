"""The declaration of a method, and the parts that methods are made of.

The trainer, the command line and the comparison read the same declaration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from .._base import checks
from .._base.choices import check_choices
from .._base.quoting import quoted
from ..nn import HashHead


@dataclass(frozen=True)
class Task:
    """The facts about a training run that a method may build its objective from.

    Attributes:
        labels: labels of the training set in its order, int64 class ids [N] or bool multi-hot rows [N, C].
        num_classes: number of classes C.
        bits: length of the codes K.
        seed: seed of the run.
        class_distance: distances between the classes in a hierarchy, float32 [C, C] in [0, 1], or None without a hierarchy.
        class_logits: a function that trains a classifier on the backbone, the data and the number of epochs of the run, and
            returns its logits for the training set, float32 [N, C] in host memory. Only methods that call it pay for it.

    Example:
        >>> import torch
        >>> from orthohash_triton import methods
        >>> task = methods.Task(
        ...     labels=torch.tensor([0, 1, 1]), num_classes=2, bits=16, seed=0, class_distance=None, class_logits=lambda: None
        ... )
        >>> methods.get("csq").objective(task, methods.get("csq").make_options({})).class_codes().shape
        torch.Size([2, 16])
    """

    labels: Tensor
    num_classes: int
    bits: int
    seed: int
    class_distance: Tensor | None
    class_logits: Callable[[], Tensor]


class Objective(nn.Module):
    """The loss that a training run minimises, with its state.

    Parameters (`torch.nn.Parameter`) that a subclass registers are optimised together with the network, at the learning rate of
    the head. Buffers hold all other state (class codes, banks, schedules). Both are saved in checkpoints and restored.

    Attributes:
        per_sample: True if the loss is a mean over samples which depend on each other only through the batch norm of the head.
            Processes that share a batch then compute the loss of their own samples. If False, each of them computes the loss of
            the whole batch.

    Example:
        >>> import torch
        >>> from orthohash_triton import methods
        >>> class Norm(methods.Objective):
        ...     per_sample = True
        ...     def forward(self, latent, target, rows, head):
        ...         return latent.square().mean()
        >>> float(Norm()(torch.ones(4, 8), None, None, None))
        1.0
    """

    per_sample = False

    def class_codes(self) -> Tensor | None:
        """Return the code of every class, int8 [C, K] of -1 and 1, or None if the method has no such codes."""
        return None

    def begin_step(self, step: int, steps: int) -> None:
        """Update schedules. The trainer calls this before batch `step` (counted from 0) of `steps`."""

    def forward(self, latent: Tensor, target: Tensor, rows: Tensor, head: HashHead) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            latent: output of the linear hash layer, float32 [B, K], before the batch norm if the head has one.
            target: labels of the batch, int64 [B] or bool [B, C].
            rows: positions of the samples in the training set, int64 [B].
            head: the hash head, whose `batch_norm` some methods use.
        """
        raise TypeError(f"{type(self).__name__} must define forward(latent, target, rows, head)")


@dataclass(frozen=True)
class NoOptions:
    """The options of a method without options."""


@dataclass(frozen=True)
class Method:
    """The declaration of a way to learn binary codes.

    A method has exactly one of `objective` (a network is trained by the gradient of a loss) and `fit` (a head is computed from
    features, without labels).

    Attributes:
        name: name on the command line.
        title: name in tables.
        paper: authors, title, venue and year of the source.
        url: address of the source.
        year: year of the source.
        summary: one line without a full stop.
        objective: function (task, options) -> Objective.
        fit: function (features [N, D], bits, seed) -> HashHead.
        options: frozen dataclass of the method's own settings, each made with `option`.
        batch_norm: whether a batch normalisation follows the hash layer.
        lr: learning rate of the head if a run sets none.

    Raises:
        ValueError: both or none of `objective` and `fit` are given.

    Example:
        >>> from orthohash_triton import methods
        >>> dhn = methods.get("dhn")
        >>> dhn.title, dhn.year, dhn.learned
        ('DHN', 2016, True)
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
        """True if a network is trained with labels, False if a head is fitted to features."""
        return self.objective is not None

    def make_options(self, values: Mapping[str, Any]) -> Any:
        """Return the options of the method, with `values` in place of their defaults; scalars of NumPy and PyTorch are numbers.

        Raises:
            ValueError: an unknown option or an invalid value.

        Example:
            >>> from orthohash_triton import methods
            >>> methods.get("dhn").make_options({"pairs": "equal"})
            Options(quantization_weight=0.3, pairs='equal')
        """
        known = {item.name for item in fields(self.options)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"method {quoted(self.name)} has no option {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}"
            )
        options = self.options(**{name: checks.plain(value) for name, value in values.items()})
        check_choices(f"method {quoted(self.name)}", options)
        return options


def option(default: Any, help: str) -> Any:
    """Return a field of an options dataclass with a default value and the `help` text that the command line shows.

    Example:
        >>> from dataclasses import dataclass
        >>> from orthohash_triton import methods
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     weight: float = methods.option(0.1, "weight of the penalty")
        >>> Options(weight=0.5)
        Options(weight=0.5)
    """
    return field(default=default, metadata={"help": help})


def not_negative(method: str, options: Any, *names: str) -> None:
    """Check that the options called `names` are at least 0; to be called in `__post_init__` of an options dataclass.

    Raises:
        ValueError: one of them is negative or NaN.

    Example:
        >>> from types import SimpleNamespace
        >>> from orthohash_triton import methods
        >>> methods.not_negative("mine", SimpleNamespace(weight=-1), "weight")
        Traceback (most recent call last):
        ...
        ValueError: method 'mine': weight must not be negative; got -1
    """
    for name in names:
        if not getattr(options, name) >= 0:
            raise ValueError(f"method {quoted(method)}: {name} must not be negative; got {getattr(options, name)}")


class Bank(nn.Module):
    """A buffer of the most recent code of every training sample. No gradient flows into it.

    Args:
        labels: labels of the training set in its order, [N] or [N, C].
        bits: length of the codes.

    Example:
        >>> import torch
        >>> from orthohash_triton import methods
        >>> bank = methods.Bank(torch.tensor([3, 4, 5]), bits=2)
        >>> bank.update(torch.tensor([1]), torch.tensor([[0.5, -0.5]]))
        >>> bank.entries()
        (tensor([[ 0.5000, -0.5000]]), tensor([4]))
    """

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
        """Store `codes` [B, K] as those of the training samples at `rows`, int64 [B]."""
        rows = rows.to(self.codes.device)
        self.codes[rows] = codes.detach().to(self.codes.dtype)
        self.seen[rows] = True

    def entries(self, at_most: int | None = None) -> tuple[Tensor, Tensor]:
        """Return (codes [M, K], labels) of the samples stored so far, or of a random choice of `at_most` of them."""
        if self.seen.all() and (at_most is None or at_most >= len(self.seen)):
            return self.codes, self.labels
        rows = self.seen.nonzero().flatten()
        if at_most is not None:
            rows = rows[torch.randperm(len(rows), device=rows.device)[:at_most]]
        return self.codes[rows], self.labels[rows]
