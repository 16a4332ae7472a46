"""Recognition of names that are nearly those that a reader looks for, such as "Label" or "class" for "label"."""

import difflib
from collections.abc import Iterable

_SIMILAR = 0.8  # ratio of difflib: one wrong letter or two exchanged ones in a word of five


def find_similar(names: Iterable[str], wanted: tuple[str, ...], synonyms: tuple[str, ...] = ()) -> str | None:
    """Return the first of `names` that is one of `wanted` or `synonyms` but for case, punctuation and a letter, or None.

    Example:
        >>> from orthohash_triton.data._spelling import find_similar
        >>> find_similar(["path", "Class"], ("label", "labels"), ("class",))
        'Class'
        >>> find_similar(["path", "lable"], ("label", "labels"))
        'lable'
    """
    known = {_letters(word) for word in (*wanted, *synonyms)}
    targets = [_letters(word) for word in wanted]
    for name in names:
        letters = _letters(name)
        if letters in known or (letters and difflib.get_close_matches(letters, targets, 1, _SIMILAR)):
            return name
    return None


def _letters(name: str) -> str:
    """Return the letters and digits of a name in lower case."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
