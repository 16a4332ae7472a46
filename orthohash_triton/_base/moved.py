"""Deprecation shims: public modules and names that have moved can still be imported from their old place, with a warning.

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
    f"{_PACKAGE}.models.pretrained.export_run": f"{_PACKAGE}.runs.export.export_run",
    f"{_PACKAGE}.runs.encoding.CodeFile": f"{_PACKAGE}.runs.code_files.CodeFile",
    f"{_PACKAGE}.runs.encoding.holds_codes": f"{_PACKAGE}.runs.code_files.holds_codes",
    f"{_PACKAGE}.runs.encoding.paths_file": f"{_PACKAGE}.runs.code_files.paths_file",
    f"{_PACKAGE}.runs.encoding.read_codes": f"{_PACKAGE}.runs.code_files.read_codes",
    f"{_PACKAGE}.runs.encoding.save_index": f"{_PACKAGE}.runs.code_files.save_index",
    f"{_PACKAGE}.runs.encoding.skipped_file": f"{_PACKAGE}.runs.code_files.skipped_file",
    f"{_PACKAGE}.train.Run": f"{_PACKAGE}.runs.Run",
    f"{_PACKAGE}.train.load_run": f"{_PACKAGE}.runs.load_run",
    f"{_PACKAGE}.train.save_run": f"{_PACKAGE}.runs.save_run",
    **{old: new for old, new in MODULES.items() if old.count(".") > 1},  # `import a.train` made `a.train.model` available
}
"""Old name -> new name, for single names of a module that still exists under the old name's module."""


def find_moved(module: str, name: str) -> Any:
    """Return the object that was called `name` in `module`. A module calls this from its `__getattr__`.

    Warns with DeprecationWarning the first time that a name is looked up.

    Raises:
        AttributeError: no object of that name has moved.
    """
    old = f"{module}.{name}"
    new = NAMES.get(old)
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    owner, _, attribute = new.rpartition(".")
    found = importlib.import_module(new) if old in MODULES else getattr(importlib.import_module(owner), attribute)
    _warn(old, new, stacklevel=4)  # the caller of _warn, find_moved and __getattr__
    setattr(sys.modules[module], name, found)  # `from module import name` looks twice and should warn once
    if old in MODULES:
        sys.modules[old] = found
    return found


def install() -> None:
    """Let the import system find the modules that have moved."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())


class _MovedModules(MetaPathFinder, Loader):
    """A finder and loader that imports the new module in place of the old one; both names then refer to one module object."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        new = importlib.import_module(MODULES[module.__name__])
        _warn(module.__name__, new.__name__, stacklevel=3)  # the importer; Python leaves out the frames of importlib
        sys.modules[module.__name__] = new


def _warn(old: str, new: str, *, stacklevel: int) -> None:
    warnings.warn(f"{old} has moved to {new}; change the import", DeprecationWarning, stacklevel=stacklevel)
