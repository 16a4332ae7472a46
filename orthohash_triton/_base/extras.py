"""Commands that install optional packages, for messages.

orthohash-triton is not in a package index, so that `pip install "orthohash-triton[train]"` fails. The commands therefore name the
packages of others, and the extra for whoever installs from a checkout.
"""

import re
from functools import lru_cache


def install(*packages: str, extra: str) -> str:
    """Return the command that installs `packages` in the versions that `extra`, an extra of orthohash-triton, asks for.

    Example:
        >>> from orthohash_triton._base.extras import install
        >>> install("rich", extra="train")
        'pip install "rich>=13" (or, in a checkout of orthohash-triton, pip install ".[train]")'
    """
    requirements = " ".join(f'"{_requirements().get(_canonical(name), name)}"' for name in packages)
    return f'pip install {requirements} (or, in a checkout of orthohash-triton, pip install ".[{extra}]")'


@lru_cache(maxsize=1)
def _requirements() -> dict[str, str]:
    """Return the requirement of each package, such as "rich>=13", by name; none if orthohash-triton is not installed itself."""
    from importlib import metadata  # takes a tenth of a second, and only messages need it

    try:
        lines = metadata.requires("orthohash-triton") or []
    except metadata.PackageNotFoundError:  # a checkout on the path
        return {}
    requirements = [line.partition(";")[0].strip() for line in lines]
    names = [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements]
    return dict(zip(map(_canonical, names), requirements, strict=True))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
