"""File names that are not plain Unicode, or are in different Unicode normal forms.

macOS writes "é" as "e" and a combining accent (NFD), other systems as one character (NFC). Linux treats the two as different
names, so that a list made on one system does not name the files that were copied from the other.
"""

import os
import re
import unicodedata
from pathlib import Path


def normalized(name: str) -> str:
    """Return `name` in the normal form NFC, in which names that look the same are equal.

    Example:
        >>> from orthohash_triton._base.file_names import normalized
        >>> len("e\\u0301"), len(normalized("e\\u0301"))
        (2, 1)
    """
    return unicodedata.normalize("NFC", name)


def printable(text: str) -> str:
    """Return `text` with a backslash escape in place of every byte of a file name that is not UTF-8.

    Python keeps such bytes as lone surrogates. JSON stores these as escapes and loses nothing; pages and tables cannot show them.

    Example:
        >>> import os
        >>> from orthohash_triton._base.file_names import printable
        >>> print(printable(os.fsdecode(b"caf\\xe9.jpg")))  # in Latin-1
        caf\\xe9.jpg
    """
    return re.sub("[\ud800-\udfff]", _escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


class FileFinder:
    """A search for files by names that may be in another Unicode normal form. It reads each folder at most once.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton._base.file_names import FileFinder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "caf\\u00e9.jpg").touch()
        ...     FileFinder().find(Path(folder) / "cafe\\u0301.jpg").exists()
        True
    """

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, str]] = {}

    def find(self, path: Path) -> Path:
        """Return `path` if it exists or has no counterpart in another normal form, else the existing counterpart."""
        if str(path).isascii() or os.path.lexists(path):
            return path
        place = Path(path.anchor)
        for part in path.parts[1:] if path.anchor else path.parts:
            name = part if os.path.lexists(place / part) else self._listed(place).get(normalized(part))
            if name is None:
                return path
            place /= name
        return place

    def _listed(self, folder: Path) -> dict[str, str]:
        """Return the names in `folder` by their normal form; none if it cannot be read."""
        if folder not in self._names:
            try:
                self._names[folder] = {normalized(name): name for name in sorted(os.listdir(folder), reverse=True)}
            except OSError:
                self._names[folder] = {}
        return self._names[folder]
