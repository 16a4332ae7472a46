"""The cases of the self-test: one file per op, which defines CASES.

A file of this folder that defines CASES is part of the self-test, and its first case of each op is part of the quick check. Cases
cover the shapes, dtypes, labels and options for which implementations take different paths. Sizes are deliberately not round,
because kernels most often fail at the ends of tiles, and small enough for the references on a CPU. A GPU spends most of the time
on compilation, for every dtype, option and divisibility of a size by 16: GPU cases combine several options, and the remaining
combinations are checked on the CPU only.
"""

import importlib
import pkgutil

from ._case import Case, Inputs, Outputs

__all__ = ["Case", "Inputs", "Outputs", "all_cases", "first_cases"]


def all_cases() -> list[Case]:
    """Return all cases, op by op."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return [case for name in names for case in importlib.import_module(f"{__name__}.{name}").CASES]


def first_cases() -> list[Case]:
    """Return the first case of every op, for a quick check."""
    first: dict[str, Case] = {}
    for case in all_cases():
        first.setdefault(case.op, case)
    return list(first.values())
