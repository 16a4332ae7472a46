"""The public names of the package, found by reading the package."""

import importlib
import inspect
import pkgutil
from types import ModuleType

import orthohash_triton

# `reference` holds the formulas that tests and benchmarks compare with; users call `impl="reference"` instead.
NOT_PUBLIC = ("orthohash_triton.reference",)


def public_modules() -> list[ModuleType]:
    """Return the package and the public modules directly below it that declare `__all__`."""
    found = [orthohash_triton]
    for child in pkgutil.iter_modules(orthohash_triton.__path__, "orthohash_triton."):
        if not child.name.rpartition(".")[2].startswith("_") and child.name not in NOT_PUBLIC:
            module = importlib.import_module(child.name)
            if hasattr(module, "__all__"):
                found.append(module)
    return found


def public_objects() -> dict[str, object]:
    """Return every public function and class once, under the name `module.name` of its deepest public module."""
    found: dict[int, tuple[str, object]] = {}
    for module in public_modules():
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                found[id(value)] = (f"{module.__name__}.{name}", value)
    return dict(sorted(found.values(), key=lambda pair: pair[0]))
