"""What MkDocs does to the pages on the way: see `mkdocs.yml`.

Pages link to files of the repository by their paths in it, so that the links hold on a code host as well. Formulae become MathML
and figures SVG in the page: the site needs no script or font of others. The options of the command line are asked of its parser.
"""

import argparse
import html
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

# Folders of the repository whose files the site carries, and what they are called there.
CARRIED = {"bench/results": "results", "examples": "examples"}
SUFFIXES = (".md", ".csv", ".json", ".png", ".py", ".ipynb", ".toml", ".yaml")

_MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_FIGURE = re.compile(r'<p><img alt="([^"]*)" src="[^"]*?(figures/[\w-]+\.svg)"\s*/?></p>')
_COMMANDS = "<!-- commands -->"


def on_files(files: Files, config: Any) -> Files:
    for folder, name in CARRIED.items():
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                uri = f"{name}/{path.relative_to(ROOT / folder).as_posix()}"
                files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if not page.file.src_uri.startswith(tuple(CARRIED.values())):
        markdown = in_the_site(markdown)
    return markdown.replace(_COMMANDS, commands()) if _COMMANDS in markdown else markdown


def in_the_site(markdown: str) -> str:
    """The links of a page to carried files, as they are in the site."""
    for folder, name in CARRIED.items():
        markdown = re.sub(rf"\]\(((?:\.\./)*)\.\./{folder}/", rf"](\1{name}/", markdown)
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    return _FIGURE.sub(_inline_figure, _MATH.sub(_mathml, content))


def _mathml(found: re.Match) -> str:
    return convert(html.unescape(found[2]).strip(), display="block" if found[1] == "div" else "inline")


def _inline_figure(found: re.Match) -> str:
    text, path = found.groups()
    drawing = (ROOT / "docs" / path).read_text()
    drawing = drawing[drawing.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{text}"', 1)
    return f'<div class="figure">{drawing}</div>'


def commands() -> str:
    """Every command with its --help, as Markdown."""
    from orthohash_triton.cli import make_parser

    os.environ["COLUMNS"] = "82"  # argparse wraps to what a page is wide
    (listed,) = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for command in listed.choices.values():
        command.declare()
    return "\n\n".join(f"## orthohash {name}\n\n```text\n{p.format_help()}```" for name, p in listed.choices.items())
