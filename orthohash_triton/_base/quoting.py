"""Values of files and arguments in error messages: short, and without the contents of tables and lists.

A value may be of any size, and a file that was named by mistake may hold passwords. Messages therefore use `quoted` in place of
`repr`; `tests/base/test_quoting.py` fails for a message that does not.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

_LENGTH = 60  # characters of a text that is shown whole
_DIGITS = 20  # digits of an integer that is shown whole
_MESSAGE = 2_000  # characters of a message that is shown whole


class _Short(reprlib.Repr):
    """Shortened representations of values, also of integers that are too long for Python's `repr`."""

    def repr_int(self, value: int, level: int) -> str:
        return quoted(value)


_short = _Short()
_short.maxlevel, _short.maxstring, _short.maxother = 3, 80, 80


def quoted(value: Any) -> str:
    """Return `value` as Python writes it if it is short, else its beginning or a description.

    Of a list or mapping only the number of its values is told.

    Example:
        >>> from orthohash_triton._base.quoting import quoted
        >>> quoted("cat"), quoted(8.5), quoted({"password": "hunter2"})
        ("'cat'", '8.5', 'a mapping of 1 value')
        >>> quoted("x" * 1000)
        "'xxxxxxxxxxxxxxxxxxxx'... (1,000 characters)"
        >>> quoted(10**5000)
        'an integer of 5,001 digits'
    """
    if isinstance(value, str | bytes | bytearray):
        unit = "characters" if isinstance(value, str) else "bytes"
        return repr(value) if len(value) <= _LENGTH else f"{value[: _LENGTH // 3]!r}... ({len(value):,} {unit})"
    if isinstance(value, int) and abs(value) >= 10**_DIGITS:  # Python refuses to write integers of thousands of digits
        return f"an integer of {_count_digits(value):,} digits"
    if isinstance(value, Mapping | Sequence | Set) and len(value):
        kind = "mapping" if isinstance(value, Mapping) else "set" if isinstance(value, Set) else type(value).__name__
        return f"a {kind} of {len(value):,} value{'s' * (len(value) != 1)}"
    return repr(value) if isinstance(value, int) else short_repr(value)


def short_repr(value: Any) -> str:
    """Return the repr of `value`, shortened with dots where it is long, for values that a program passes as arguments.

    Example:
        >>> from orthohash_triton._base.quoting import short_repr
        >>> short_repr(list(range(1000)))
        '[0, 1, 2, 3, 4, 5, ...]'
    """
    return _short.repr(value)


def shortened(message: str) -> str:
    """Return `message` in one line. The middle of a line of thousands of characters is left out.

    Example:
        >>> from orthohash_triton._base.quoting import shortened
        >>> shortened("two\\n  lines")
        'two lines'
        >>> len(shortened("x" * 1_000_000)) < 2_100
        True
    """
    line = " ".join(message.split())
    if len(line) <= _MESSAGE:
        return line
    kept = _MESSAGE // 2
    return f"{line[:kept]} [... {len(line) - 2 * kept:,} characters ...] {line[-kept:]}"


def _count_digits(value: int) -> int:
    """Return the number of decimal digits of a large integer, without writing it."""
    digits = math.floor((abs(value).bit_length() - 1) * math.log10(2)) + 1  # exact, or one too few
    return digits + (abs(value) >= 10**digits)
