"""A griffe extension that prepares docstrings for the API reference.

It turns paragraphs of two columns, `name  meaning`, into Markdown lists. For dataclass fields that are declared with
`option(default, help)`, it shows the default in the signature and lists the help text.
"""

import dataclasses
import importlib
import re
from typing import Any

from griffe import Class, Docstring, Extension, Object

_ENTRY = re.compile(r"(\S.*?) {2,}(\S.*)")
_DECLARED = ("option(", "methods.option(")


class Docstrings(Extension):
    """Rewrite the docstring of every object, and describe the declared options of every class."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_lists(as_examples(obj.docstring.value))

    def on_class(self, *, cls: Class, **_: Any) -> None:
        settings = {name: member for name, member in cls.attributes.items() if str(member.value).startswith(_DECLARED)}
        if settings:
            declared = getattr(importlib.import_module(cls.module.path), cls.name)
            describe(cls, [field for field in dataclasses.fields(declared) if field.name in settings])


def describe(cls: Class, settings: list[dataclasses.Field]) -> None:
    """Append the help of each option to the docstring of `cls`, and show the default of each option in its signature."""
    entries = "\n".join(f"- `{field.name}`: {field.metadata['help']}" for field in settings)
    text = cls.docstring.value if cls.docstring else ""
    cls.docstring = Docstring(f"{text}\n\n{entries}", parent=cls)
    for field in settings:
        cls.attributes[field.name].value = repr(field.default)
        if "__init__" in cls.members:
            cls.members["__init__"].parameters[field.name].default = repr(field.default)


def as_examples(docstring: str) -> str:
    """Rename sections `Example:`, which griffe renders as Markdown, to `Examples:`, whose `>>>` lines it renders as code."""
    return re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)


def as_lists(docstring: str) -> str:
    """Return the docstring with every paragraph of two columns as a Markdown list."""
    text = "\n\n".join(map(_as_list, docstring.split("\n\n")))
    return re.sub(r"(\n(?:- |  ).*)\n\n- ", r"\1\n\n<!-- -->\n\n- ", text)  # otherwise Markdown joins adjacent lists


def _as_list(paragraph: str) -> str:
    """Return a Markdown list if every line of the paragraph is an entry or continues one; otherwise return the paragraph."""
    entries: list[str] = []
    for line in paragraph.splitlines():
        entry = _ENTRY.fullmatch(line)
        if entry:
            names = ", ".join(f"`{name}`" for name in entry[1].replace("`", "").split(", "))
            entries.append(f"- {names}: {entry[2]}")
        elif entries and line.startswith("    "):
            entries.append(f"  {line.strip()}")
        else:
            return paragraph
    return "\n".join(entries)
