"""Functions that find the pages of the documentation and their blocks of code."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md"))]

_FENCED = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:(?:^ {4}.*|^)\n)+", re.MULTILINE)
_COMMAND = re.compile(r"^(?:\$ )?(?:orthohash|torchrun .*? -m orthohash_triton(?:\.cli)?)\s")


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    options: str
    code: str
    line: int  # first line of the code in the page


def name(path: Path) -> str:
    """Return the path of a page relative to the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[Block]:
    """Return the fenced blocks of a page in one language."""
    text = path.read_text()
    found = [Block(m[1], m[2], m[3], text[: m.start()].count("\n") + 2) for m in _FENCED.finditer(text)]
    return [block for block in found if block.language == language]


def commands(path: Path) -> list[str]:
    """Return the command lines of this package on a page, from indented blocks and fenced shell blocks."""
    text = path.read_text()
    shown = [textwrap.dedent(block.code) for kind in ("sh", "bash", "console") for block in blocks(path, kind)]
    shown += [textwrap.dedent(found[0]) for found in _INDENTED.finditer(_FENCED.sub("", text))]
    lines = "\n".join(shown).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").strip() for line in lines if _COMMAND.match(line)]
