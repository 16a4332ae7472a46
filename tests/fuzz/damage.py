"""Random damage to files: flipped bits, missing and repeated parts, absurd numbers and strange words, in containers too."""

import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from random import Random

NUMBERS = (0, 1, -1, 2, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
"""Numbers at the limits of integer types, and lengths that no file has."""

WORDS = (
    b"", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"[]", b"{}", b'""', b"'", b'"', b"\\", b"\\ud800", b"\n", b"\r\n",
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\xed\xa0\x80", b"..", b"../../x", b"/dev/zero", b"-0", b"1.5", b",", b";",
    b"[" * 3000, b"(" * 300, b"{'a':" * 300, b"9" * 5000, b"A" * 5000, b"&a [*a]", b"!!python/object:os.system", b"%s%n",
    b"\x1f\x8b\x08", b"PK\x03\x04",
)  # fmt: skip
"""Words that parsers treat in special ways."""

Parts = list[bytes]


def damaged(data: bytes, rng: Random, words: Sequence[bytes] = ()) -> bytes:
    """Return `data` after one to four random changes. A change is made to the whole file, or to a part of a container.

    Args:
        words: words of the format, which are inserted as WORDS are.
    """
    for _ in range(min(4, 1 + int(rng.expovariate(1)))):
        container = next((container for container in CONTAINERS if container.holds(data)), None)
        if container is None or rng.random() < 0.3:
            data = _changed(data, rng, words)
        else:
            data = container.changed(data, rng, words)
    return data


def _changed(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """Return `data` after one random change."""
    return rng.choice(_CHANGES)(data, rng, words)


def _place(data: bytes, rng: Random) -> int:
    """Return a random position. Headers are at the beginning, and directories at the end, so that these are more likely."""
    near = rng.choice((16, 64, 256, len(data)))
    place = rng.randrange(min(near, len(data)) + 1)
    return place if rng.random() < 0.7 else len(data) - place


def _flip(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[min(_place(data, rng), len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    return data[: _place(data, rng)]


def _delete(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice((1, 4, 8, 100)) :]


def _repeat(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """Insert a piece of the data at another position."""
    start, place = _place(data, rng), _place(data, rng)
    return data[:place] + data[start : start + rng.choice((1, 8, 64, 1000))] * rng.choice((1, 1, 3)) + data[place:]


def _insert(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    place = _place(data, rng)
    return data[:place] + rng.choice((*WORDS, *words)) + data[place + rng.choice((0, 0, 1, 8)) :]


def _binary_number(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """Overwrite bytes by a number, little-endian or big-endian, as headers have sizes."""
    size, place = rng.choice((1, 2, 4, 8)), _place(data, rng)
    number = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, rng.choice(("little", "big")))
    return data[:place] + number + data[place + size :]


def _decimal_number(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """Replace a number that is written in decimal digits."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:100_000]))
    if not found:
        return _flip(data, rng, words)
    old = rng.choice(found)
    new = rng.choice((str(rng.choice(NUMBERS)).encode(), b"-1.5", b"1e999", b"true", b'"7"', b"9" * 5000, b"07"))
    return data[: old.start()] + new + data[old.end() :]


def _text(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """Replace a word or a quoted text by another one, perhaps by one from elsewhere in the data."""
    found = list(re.finditer(rb"\"[^\"]*\"|'[^']*'|\w+|\[[^\]]*\]", data[:100_000]))
    if not found:
        return _insert(data, rng, words)
    old, other = rng.choice(found), rng.choice(found)
    new = rng.choice((*WORDS, *words, other[0], other[0], other[0]))
    return data[: old.start()] + new + data[old.end() :]


def _lines(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    """Exchange, repeat or remove lines."""
    lines = data.splitlines(keepends=True)
    if len(lines) < 2:
        return _repeat(data, rng, words)
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first : first + rng.randrange(2)] = rng.choice(([lines[second]], [lines[second]] * 3, []))
    return b"".join(lines)


def _replace(data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
    return rng.choice((b"", rng.choice((*WORDS, *words)), rng.randbytes(rng.choice((1, 16, 300)))))


_CHANGES = (
    _flip, _flip, _flip, _truncate, _delete, _repeat, _insert, _binary_number, _binary_number, _decimal_number, _decimal_number,
    _text, _text, _lines, _replace,
)  # fmt: skip


class Container:
    """A file format that contains other data with lengths and checksums, which stay right while the data are damaged.

    Args:
        start: the first bytes of such a file.
        unpack: return the parts of a file, and a function that packs parts.
    """

    def __init__(self, start: bytes, unpack: Callable[[bytes], tuple[Parts, Callable[[Parts], bytes]]]) -> None:
        self.start, self.unpack = start, unpack

    def holds(self, data: bytes) -> bool:
        """Return whether `data` are undamaged so far."""
        if not data.startswith(self.start):
            return False
        try:
            return bool(self.unpack(data)[0])
        except Exception:
            return False

    def changed(self, data: bytes, rng: Random, words: Sequence[bytes]) -> bytes:
        """Return the container with one of its parts damaged, removed or repeated."""
        parts, pack = self.unpack(data)
        place = rng.randrange(len(parts))
        parts[place] = damaged(parts[place], rng, words) if rng.random() < 0.5 else _changed(parts[place], rng, words)
        try:
            return pack(parts)
        except (ValueError, struct.error, OverflowError):  # a part that this format cannot have
            return _changed(data, rng, words)


def _unpack_zip(data: bytes) -> tuple[Parts, Callable[[Parts], bytes]]:
    """The parts of a zip archive are its members, and the list of their names."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        parts = [archive.read(member) for member in members]
    names = "\n".join(member.filename for member in members).encode()

    def pack(parts: Parts) -> bytes:
        file = io.BytesIO()
        new_names = parts[-1].decode("utf-8", "replace").replace("\0", "").split("\n")
        with zipfile.ZipFile(file, "w") as archive:
            for member, name, content in zip(members, new_names, parts, strict=False):
                archive.writestr(name or "x", content, compress_type=member.compress_type)
        return file.getvalue()

    return [*parts, names], pack


def _unpack_gzip(data: bytes) -> tuple[Parts, Callable[[Parts], bytes]]:
    return [gzip.decompress(data)], lambda parts: gzip.compress(parts[0], 1)


def _unpack_npy(data: bytes) -> tuple[Parts, Callable[[Parts], bytes]]:
    """The parts of a .npy file are its header and its values."""
    length = struct.unpack("<H", data[8:10])[0]
    return [data[10 : 10 + length], data[10 + length :]], lambda parts: b"".join(
        (data[:8], struct.pack("<H", len(parts[0])), *parts)
    )


SAFETENSORS = b"\0\0\0\0\0{"  # the upper bytes of the length of the header, and the header


def _unpack_safetensors(data: bytes) -> tuple[Parts, Callable[[Parts], bytes]]:
    length = struct.unpack("<Q", data[:8])[0]
    json.loads(data[8 : 8 + length])
    return [data[8 : 8 + length], data[8 + length :]], lambda parts: struct.pack("<Q", len(parts[0])) + b"".join(parts)


class _Safetensors(Container):
    def holds(self, data: bytes) -> bool:
        return data[3:9] == SAFETENSORS and super().holds(data)


CONTAINERS = (
    Container(b"PK\x03\x04", _unpack_zip),
    Container(b"\x1f\x8b", _unpack_gzip),
    Container(b"\x93NUMPY\x01", _unpack_npy),
    _Safetensors(b"", _unpack_safetensors),
)
