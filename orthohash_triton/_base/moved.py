"""Deprecation shims: public modules and names that have moved are still found in their old place, with a warning.

Each row of `MODULES` and `NAMES` is one shim and is removed one release after the move.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = __name__.partition(".")[0]

MODULES = {
    f"{_PACKAGE}.encoding": f"{_PACKAGE}.runs.encoding",
    f"{_PACKAGE}.train.backbones": f"{_PACKAGE}.models.backbones",
    f"{_PACKAGE}.train.baselines": f"{_PACKAGE}.runs.baselines",
    f"{_PACKAGE}.train.evaluation": f"{_PACKAGE}.runs.evaluation",
    f"{_PACKAGE}.train.model": f"{_PACKAGE}.models.model",
    f"{_PACKAGE}.train.model_zoo": f"{_PACKAGE}.models.model_zoo",
    f"{_PACKAGE}.train.onnx_export": f"{_PACKAGE}.models.onnx_export",
    f"{_PACKAGE}.train.original": f"{_PACKAGE}.models.original",
    f"{_PACKAGE}.train.pretrained": f"{_PACKAGE}.models.pretrained",
    f"{_PACKAGE}.train.runs": f"{_PACKAGE}.runs.run",
}
"""Old module -> new module."""

NAMES = {
    f"{_PACKAGE}.train.Run": f"{_PACKAGE}.runs.Run",
    f"{_PACKAGE}.train.load_run": f"{_PACKAGE}.runs.load_run",
    f"{_PACKAGE}.train.save_run": f"{_PACKAGE}.runs.save_run",
}
"""Old name -> new name, for single names of a module that stays."""


def find_moved(module: str, name: str) -> Any:
    """Return what `module` once called `name`; for the `__getattr__` of a module.

    Raises:
        AttributeError: nothing of that name has moved.
    """
    new = NAMES.get(f"{module}.{name}")
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    owner, _, attribute = new.rpartition(".")
    _warn(f"{module}.{name}", new, stacklevel=4)
    return getattr(importlib.import_module(owner), attribute)


def install() -> None:
    """Let the import system find the modules that have moved."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())


class _MovedModules(MetaPathFinder, Loader):
    """Answers for the old name of a module with a module that looks everything up in the new one."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        new = importlib.import_module(MODULES[module.__name__])
        _warn(module.__name__, new.__name__, stacklevel=2)
        module.__doc__ = f"Moved to `{new.__name__}`."
        module.__getattr__ = lambda name: getattr(new, name)  # type: ignore[method-assign]
        module.__dir__ = lambda: dir(new)  # type: ignore[method-assign]


def _warn(old: str, new: str, *, stacklevel: int) -> None:
    warnings.warn(f"{old} has moved to {new}; change the import", DeprecationWarning, stacklevel=stacklevel)
