"""The systems of the literature, each a declaration in a file of its own.

    from orthohash_triton import methods

    methods.get("dhn").paper
    methods.names()

A file of this folder that defines METHOD is in the registry: `orthohash methods` lists it, `orthohash train --method NAME` trains
it. `register` adds a Method that lives elsewhere.
"""

import importlib
import pkgutil

from ._method import Bank, Method, Objective, Task, not_negative, option

__all__ = ["Bank", "Method", "Objective", "Task", "get", "names", "not_negative", "option", "register"]

_registry: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add `method` under its name, which must be new (else ValueError), and answer it."""
    if method.name in _registry:
        raise ValueError(f"methods.register: there is a method {method.name!r} already ({_registry[method.name].paper})")
    _registry[method.name] = method
    return method


def get(name: str) -> Method:
    """The method called `name`; ValueError, with the names there are, for one that does not exist."""
    if name not in _registry:
        raise ValueError(f"method must be one of {', '.join(names())}; got {name!r}")
    return _registry[name]


def names() -> list[str]:
    """Learned methods first, newest first; then those that are fitted without labels."""
    return sorted(_registry, key=lambda name: (not _registry[name].learned, -_registry[name].year, name))


for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        register(importlib.import_module(f"{__name__}.{_module.name}").METHOD)
