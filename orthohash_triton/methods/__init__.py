"""The methods of the literature, each declared in a file of its own.

Every file of this folder whose name does not begin with an underscore defines METHOD and is in the registry: `orthohash methods`
lists it, and `orthohash train --method NAME` trains it. `register` adds a Method that is declared elsewhere.

Example:
    >>> from orthohash_triton import methods
    >>> methods.get("dhn").paper
    'Zhu et al., Deep Hashing Network for Efficient Similarity Retrieval, AAAI 2016'
    >>> "orthohash" in methods.names()
    True
"""

from .._base.registry import Registry, calling_place
from ._method import Bank, Method, Objective, Task, not_negative, option

__all__ = ["Bank", "Method", "Objective", "Task", "get", "names", "not_negative", "option", "register"]

_registry: Registry[Method] = Registry(
    __name__,
    kind="method",
    attribute="METHOD",
    required=True,
    sort_key=lambda method: (not method.learned, -method.year, method.name),
)


def register(method: Method, *, replace: bool = False) -> Method:
    """Add `method` to the registry under its name, and return it.

    Args:
        method: the declaration.
        replace: replace a method of that name that was declared elsewhere. A file or notebook cell that is executed again
            unchanged replaces its own method in any case.

    Raises:
        ValueError: a method of that name was declared elsewhere. The message names both places.

    Example:
        >>> from orthohash_triton import methods
        >>> methods.register(methods.get("lsh"), replace=True).title  # usually a Method of your own
        'LSH'
    """
    return _registry.register(method, place=calling_place(), replace=replace)


def get(name: str) -> Method:
    """Return the method called `name`.

    Raises:
        ValueError: there is no such method. The message lists the names that exist.

    Example:
        >>> from orthohash_triton import methods
        >>> methods.get("csq").year
        2020
    """
    return _registry.get(name)


def names() -> list[str]:
    """Return the names of all methods: those that train a network, newest first, then those that are fitted without labels.

    Example:
        >>> from orthohash_triton import methods
        >>> methods.names()[-2:]
        ['pca', 'lsh']
    """
    return _registry.names()
