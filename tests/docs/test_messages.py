"""Tests that every message that docs/faq.md quotes occurs in the code."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs import pages

FIELD = "\0"  # replaces a value in an f-string
LEAST = 15  # least number of letters of a quoted message, without its fields


def messages() -> list[str]:
    """Return every string of the code, with FIELD in place of each formatted value."""
    found = []
    for folder in ("orthohash_triton", "kernels"):
        for path in (pages.ROOT / folder).rglob("*.py"):
            found += map(_text, ast.walk(ast.parse(path.read_text())))
    return [text for text in found if len(text) >= LEAST]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else FIELD for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def quotes(path: Path) -> list[str]:
    """Return the messages in the `####` headings of a page."""
    text = path.read_text()
    headings = re.findall(r"^#### (.*`.*)$", text, re.MULTILINE)
    return [quote for heading in headings for quote in re.findall(r"`(.+?)`(?:, and |$)", heading)]


def pattern(quote: str) -> re.Pattern:
    """Return a pattern for messages that contain the text of `quote`, in which "..." matches anything."""
    return re.compile(".*".join(map(re.escape, re.split(r"\s*\.\.\.[,;.]?\s*", quote))), re.DOTALL)


ALL_MESSAGES = messages()
QUOTES = quotes(pages.DOCS / "faq.md")


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_is_in_the_code(quote):
    assert len(quote.replace("...", "")) >= LEAST
    assert any(pattern(quote).search(message.replace(FIELD, "…")) for message in ALL_MESSAGES), quote


def test_a_message_that_is_not_in_the_code_is_noticed():
    assert not any(pattern("queries have ... bits, galaxy ...").search(message) for message in ALL_MESSAGES)


def test_all_quotes_are_found():
    assert len(QUOTES) >= 30
