"""The registry of the data sets that have a name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .._base.registry import Registry, calling_place
from .dataset import Dataset, Splits
from .options import LoadOptions


@dataclass(frozen=True)
class NamedDataset:
    """The declaration of a data set that is loaded by its name.

    Attributes:
        name: name for `load_splits`, `orthohash train --dataset` and `orthohash encode`.
        summary: one line without a full stop, for the command line.
        splits: function (options) -> Splits that loads the training set, the gallery and the queries.
        samples: functions () -> Dataset that load all samples for `open_source`, by part: {"train": ..., "test": ...} are opened
            as NAME:train and NAME:test, and {"": ...} as NAME.
        options: names of the source options of `LoadOptions` that `splits` reads, for example ("root",). Others are refused.

    Example:
        >>> import torch
        >>> from orthohash_triton import data
        >>> def load():
        ...     return data.Dataset(torch.randn(20, 4), torch.arange(20) % 2, ("even", "odd"), "parity")
        >>> parity = data.NamedDataset(
        ...     name="parity", summary="20 random vectors of two classes", samples={"": load},
        ...     splits=lambda options: data.split_stratified(load(), options.query_fraction, options.seed),
        ... )
        >>> len(parity.splits(data.LoadOptions(query_fraction=0.2)).query)
        4
    """

    name: str
    summary: str
    splits: Callable[[LoadOptions], Splits]
    samples: Mapping[str, Callable[[], Dataset]] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    @property
    def sample_names(self) -> list[str]:
        """Names that `open_source` accepts, one for each entry of `samples`."""
        return [f"{self.name}:{part}" if part else self.name for part in self.samples]


_registry: Registry[NamedDataset] = Registry(__package__, kind="data set", attribute="DATASET", required=False)


def register(dataset: NamedDataset, *, replace: bool = False) -> NamedDataset:
    """Add `dataset` to the registry under its name, and return it.

    Args:
        dataset: the declaration.
        replace: replace a data set of that name that was declared elsewhere. A file or notebook cell that is executed again
            unchanged replaces its own data set in any case.

    Raises:
        ValueError: a data set of that name was declared elsewhere. The message names both places.

    Example:
        >>> from orthohash_triton import data
        >>> data.register(data.get("digits"), replace=True).name  # usually a NamedDataset of your own
        'digits'
    """
    return _registry.register(dataset, place=calling_place(), replace=replace)


def get(name: str) -> NamedDataset:
    """Return the declaration of the data set called `name`.

    Raises:
        ValueError: there is no such data set. The message lists the names that exist.

    Example:
        >>> from orthohash_triton import data
        >>> data.get("digits").summary
        '1,797 grey images of ten classes; a fifth are queries'
    """
    return _registry.get(name)


def names() -> list[str]:
    """Return the names of all data sets that `load_splits` loads by name, in alphabetical order.

    Example:
        >>> from orthohash_triton import data
        >>> "fashion-mnist" in data.names()
        True
    """
    return _registry.names()


def sample_names() -> list[str]:
    """Return the names of all data sets that `open_source` and `orthohash encode` understand, in alphabetical order.

    Example:
        >>> from orthohash_triton import data
        >>> [name for name in data.sample_names() if name.startswith("fashion")]
        ['fashion-mnist:test', 'fashion-mnist:train']
    """
    return sorted(name for dataset in _registry for name in dataset.sample_names)


def find(name: object) -> NamedDataset | None:
    """Return the declaration of the data set called `name`, or None if there is none."""
    return _registry.find(name)


def find_samples(name: str) -> Callable[[], Dataset] | None:
    """Return the function that loads the samples called `name`, one of `sample_names()`, or None for another name.

    Raises:
        ValueError: `name` is a data set of several parts, followed by no part or by an unknown part.
    """
    stem, _, part = name.partition(":")
    dataset = find(stem)
    if dataset is None or not dataset.samples:
        return None
    if part not in dataset.samples:
        raise ValueError(f"{name} names no part of the data set {stem}; use one of {', '.join(dataset.sample_names)}")
    return dataset.samples[part]
