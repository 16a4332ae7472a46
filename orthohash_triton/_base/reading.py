"""A decorator for functions that read a file, which turns every error of a parser into one that names the file.

Parsers document few of the exceptions that a damaged file makes them raise: besides their own classes there are RecursionError,
OverflowError, struct.error, KeyError and many more. A function that reads a file is therefore decorated, and does not list them:

    @reader("manifest")
    def read_table(path: Path) -> Table: ...

`tests/base/test_readers.py` fails for a function that reads a file without the decorator, and `tests/fuzz` damages the files of
every reader.
"""

import errno
import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

READERS: dict[str, str] = {}
"""What each decorated function reads, by "module.qualified_name"."""

_LENGTH = 400  # characters of a parser's message that are shown
_UNSAFE_ADVICE = ". This file can still be loaded"  # torch.load goes on to recommend weights_only=False
_NAMED = "_orthohash_names_file"  # attribute of exceptions whose message names the file that is at fault
# Sizes and offsets of a damaged header lead to these errors of the operating system.
_ABSURD = (errno.EINVAL, errno.ENOMEM, errno.EOVERFLOW)
# The package itself raises these without a number, and names the path.
_ABOUT_PATH = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


def reader(kind: str, *, argument: str | None = None, advice: str = "") -> Callable[[F], F]:
    """Decorate a function that reads a file, so that it raises only ValueError, OSError and ImportError, which name the file.

    - A ValueError that names the file, FileNotFoundError and its like, and ImportError (a missing extra) pass unchanged.
    - An error of the operating system passes too. It gets the file's name if it has none, as "No space left on device" has.
    - Everything else that the function raises means a file that cannot be read, and becomes a ValueError: other exceptions
      (parsers', RecursionError, MemoryError of an absurd size in a header), and a ValueError that does not name the file.
    - KeyboardInterrupt and SystemExit pass.

    Decorate the innermost function that parses the file and checks what it holds. Mistakes in other arguments of a decorated
    function would be reported as a damaged file.

    Args:
        kind: what the function reads, as a message says it: "<path> is not a readable <kind> (...)".
        argument: name of the parameter with the path of the file or folder. Default: the first one after `self`.
        advice: a sentence that ends the message, without a full stop.

    Example:
        >>> import json
        >>> from pathlib import Path
        >>> from orthohash_triton._base.reading import reader
        >>> @reader("file of sizes", advice="Write it again")
        ... def read_size(path):
        ...     return json.loads(Path(path).read_bytes())["size"]
        >>> Path("sizes.json").write_text("{}") and None
        >>> read_size("sizes.json")
        Traceback (most recent call last):
        ...
        ValueError: sizes.json is not a readable file of sizes (KeyError: 'size'). Write it again
    """

    def decorate(function: F) -> F:
        if inspect.isgeneratorfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator, which would read the file outside of the decorator")
        signature = inspect.signature(function)
        place = argument or next(name for name in signature.parameters if name not in ("self", "cls"))
        READERS[f"{function.__module__}.{function.__qualname__}"] = kind

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            path = signature.bind(*args, **kwargs).arguments.get(place, signature.parameters[place].default)
            if not isinstance(path, str | os.PathLike):
                return function(*args, **kwargs)  # which raises its own TypeError
            with naming(path, kind, advice=advice):
                return function(*args, **kwargs)

        return cast(F, wrapper)

    return decorate


@contextmanager
def naming(path: str | os.PathLike[str], kind: str, *, advice: str = "") -> Iterator[None]:
    """Treat the exceptions of a block as those of a function that is decorated with `reader`. The block reads the file `path`.

    Example:
        >>> from orthohash_triton._base.reading import naming
        >>> with naming("sizes.bin", "file of sizes"):
        ...     int.from_bytes(b"", "big") / 0
        Traceback (most recent call last):
        ...
        ValueError: sizes.bin is not a readable file of sizes (ZeroDivisionError: division by zero)
    """
    try:
        yield
    except BaseException as error:
        if _passes(error, os.fsdecode(path)):
            raise
        ending = f". {advice}" if advice else ""
        raise _mark(ValueError(f"{path} is not a readable {kind} ({_reason(error)}){ending}")) from error


@contextmanager
def naming_in_system_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the name of the file `path` to errors of the operating system that name none, such as "No space left on device".

    Example:
        >>> from orthohash_triton._base.reading import naming_in_system_errors
        >>> with naming_in_system_errors("codes.npy"):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        ...
        OSError: [Errno 28] No space left on device: 'codes.npy'
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


def _passes(error: BaseException, path: str) -> bool:
    """Return whether `error` leaves a reader of `path` unchanged. The name of the file is added to an error of the system."""
    if not isinstance(error, Exception):
        return type(error).__module__ != "pyo3_runtime"  # a parser in Rust that panics, which is no Exception
    if hasattr(error, _NAMED) or isinstance(error, ImportError):
        return True
    if isinstance(error, OSError) and error.errno is not None and error.errno not in _ABSURD:
        if error.filename is None:
            error.filename = path
        return True
    if isinstance(error, _ABOUT_PATH):
        return True
    if type(error) is ValueError:
        named = _names(str(error), path)
        if named:
            _mark(error)
        return named
    return False


def _names(message: str, path: str) -> bool:
    """Return whether `message` contains `path` as a word. A short `path` could be any word, and must be the first one."""
    for name in {path, os.path.normpath(path), os.path.abspath(path)}:
        before = r"(?<!\w)" if os.sep in name or "." in name else "^"
        if re.search(rf"{before}{re.escape(name)}(?!\w)", message):
            return True
    return False


def _mark(error: Any) -> Any:
    """Return `error`, marked as one that names its file, so that a reader that calls another reader adds no second name."""
    setattr(error, _NAMED, True)
    return error


def _reason(error: BaseException) -> str:
    """Return the message of a parser in one line."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not text in {error.encoding.upper()}: byte 0x{error.object[error.start]:02x} at position {error.start:,}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).split()).partition(_UNSAFE_ADVICE)[0]
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is" + (f": {text}" if text else "")
    if len(text) > _LENGTH:
        text = f"{text[:_LENGTH]} ..."
    if type(error) is ValueError or isinstance(error, OSError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
