"""A registry of named declarations, each in a Python file of its own."""

import importlib
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from .quoting import quoted


class Declaration(Protocol):
    """The protocol of a declaration: an object with a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Declaration)


class Registry(Generic[T]):
    """The declarations of one package folder, and those that `register` adds.

    The folder is searched when the registry is first read, not when its package is imported. A file of the folder may therefore
    import the whole package, and a file that fails does not break `import` of the package.

    Args:
        package: the package whose folder is searched. Files whose names begin with an underscore are left out.
        kind: what an entry is called in messages, for example "method".
        attribute: the module variable that holds the declaration of a file, for example "METHOD".
        required: whether a file of the folder without that variable is an error.
        sort_key: function from an entry to what `names` sorts by; the default is the name.
    """

    def __init__(
        self, package: str, *, kind: str, attribute: str, required: bool, sort_key: Callable[[T], Any] = lambda entry: entry.name
    ) -> None:
        self.package, self.kind, self.attribute, self.required = package, kind, attribute, required
        self._sort_key = sort_key
        self._entries: dict[str, T] = {}
        self._places: dict[str, str] = {}
        self._searched = False
        self._lock = threading.RLock()

    def register(self, entry: T, *, place: str, replace: bool = False) -> T:
        """Add `entry`, declared at `place` ("file:line"), under its name and return it.

        An entry of the same name and place is replaced without an error, because its file was executed again.

        Raises:
            ValueError: the name is taken by an entry of another place, and `replace` is False.
        """
        if Path(place.rpartition(":")[0]).parent != self._folder:
            self._search()
        with self._lock:
            earlier = self._places.get(entry.name)
            if earlier not in (None, place) and not replace:
                raise ValueError(
                    f"{self.package.rpartition('.')[2]}.register: there is a {self.kind} {quoted(entry.name)} already, "
                    f"declared in {earlier}; the new one is in {place}. Give one of them another name, or pass replace=True"
                )
            self._entries[entry.name], self._places[entry.name] = entry, place
        return entry

    def get(self, name: str) -> T:
        """Return the entry called `name`.

        Raises:
            ValueError: there is no such entry. The message lists the names that exist.
        """
        found = self.find(name)
        if found is None:
            raise ValueError(f"{self.kind} must be one of {', '.join(self.names())}; got {quoted(name)}")
        return found

    def find(self, name: object) -> T | None:
        """Return the entry called `name`, or None if there is none; a name may be any object, such as a path."""
        self._search()
        return self._entries.get(name) if isinstance(name, str) else None

    def names(self) -> list[str]:
        """Return the names of all entries in the order in which messages and pages list them."""
        return [entry.name for entry in sorted(self, key=self._sort_key)]

    def __iter__(self) -> Iterator[T]:
        """Iterate over the entries in the order in which they were added."""
        self._search()
        return iter(list(self._entries.values()))

    def copy(self) -> "Registry[T]":
        """Return a registry with the same entries; what is registered in it does not reach this one."""
        self._search()
        other: Registry[T] = Registry(
            self.package, kind=self.kind, attribute=self.attribute, required=self.required, sort_key=self._sort_key
        )
        other._entries, other._places, other._searched = dict(self._entries), dict(self._places), True
        return other

    @property
    def _folder(self) -> Path:
        return Path(str(sys.modules[self.package].__file__)).parent

    def _search(self) -> None:
        """Import every file of the folder, once, and add what it declares."""
        with self._lock:
            if self._searched:
                return
            self._searched = True  # set first, because a file of the folder may read the registry
            try:
                for module in pkgutil.iter_modules([str(self._folder)]):
                    if not module.name.startswith("_"):
                        self._add_module(f"{self.package}.{module.name}")
            except BaseException:
                self._searched = False  # the next reader sees the same error, not an incomplete registry
                raise

    def _add_module(self, name: str) -> None:
        """Import one module of the folder, and add what it declares unless the module has registered it itself."""
        module = importlib.import_module(name)
        entry: T | None = getattr(module, self.attribute, None)
        if entry is None:
            if self.required:
                raise ValueError(
                    f"{module.__file__} must define {self.attribute}, as every file of its folder declares a {self.kind}. "
                    "Define it, or begin the name of the file with an underscore"
                )
        elif self._entries.get(entry.name) is not entry:  # unless the file has registered it itself
            self.register(entry, place=f"{module.__file__}:1")


def calling_place(depth: int = 1) -> str:
    """Return "file:line" of the statement that called the function in which this is called, for `Registry.register`."""
    frame = sys._getframe(depth + 1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
