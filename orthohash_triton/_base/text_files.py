"""The reader of text that people and spreadsheets write: lists, tables and configuration files."""

import codecs
from pathlib import Path

from .reading import reader

_MARKS = (  # the mark of UTF-32 begins with that of UTF-16, and comes first
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
_ADVICE = "Save it as text in UTF-8, or in UTF-16 with a byte order mark"


@reader("text file", advice=_ADVICE)
def read_text(path: Path, *, any_names: bool = False) -> str:
    """Return the text of a file in UTF-8, or in the encoding of its byte order mark (UTF-8, UTF-16, UTF-32). Lines end in "\\n".

    Args:
        path: the file.
        any_names: whether bytes that are not UTF-8 are kept, as `os.fsdecode` keeps them, because names of files may hold any
            bytes.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not text.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from orthohash_triton._base.text_files import read_text
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "notes.txt").write_bytes("ü".encode("utf-16"))
        ...     read_text(Path(folder) / "notes.txt")
        'ü'
    """
    content = path.read_bytes()
    mark, encoding = next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", "utf-8"))
    kept = "surrogateescape" if any_names and encoding == "utf-8" else "strict"
    text = content[len(mark) :].decode(encoding, kept)
    if "\0" in text:
        raise ValueError("it holds zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")
