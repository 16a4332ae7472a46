"""Hooks that MkDocs calls while it builds the site; `mkdocs.yml` registers them.

Pages link to files by their path in the repository, so that links also work on a code host; the hooks translate them to paths in
the site. They convert formulae to MathML and embed figures as SVG, so that the site needs no script or font of another host. The
page of the command line is generated from the argument parser.
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

# Folders of the repository whose files are copied to the site, and the names of the folders there.
CARRIED = {"bench/results": "results", "examples": "examples"}
SUFFIXES = (".md", ".csv", ".json", ".png", ".py", ".ipynb", ".toml", ".yaml")

_MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_FIGURE = re.compile(r'<p><img alt="([^"]*)" src="[^"]*?(figures/[\w-]+\.svg)"\s*/?></p>')
_COMMANDS = "<!-- commands -->"


def on_files(files: Files, config: Any) -> Files:
    """Add the files of `CARRIED` to the site."""
    for folder, name in CARRIED.items():
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                uri = f"{name}/{path.relative_to(ROOT / folder).as_posix()}"
                files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Translate links to copied files, and insert the description of the command line."""
    if not page.file.src_uri.startswith(tuple(CARRIED.values())):
        markdown = in_the_site(markdown)
    return markdown.replace(_COMMANDS, commands()) if _COMMANDS in markdown else markdown


def in_the_site(markdown: str) -> str:
    """Return the page with links to copied files translated to their paths in the site."""
    for folder, name in CARRIED.items():
        markdown = re.sub(rf"\]\(((?:\.\./)*)\.\./{folder}/", rf"](\1{name}/", markdown)
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """Convert formulae to MathML and embed figures as SVG."""
    return _FIGURE.sub(_inline_figure, _MATH.sub(_mathml, content))


def _mathml(found: re.Match) -> str:
    return convert(html.unescape(found[2]).strip(), display="block" if found[1] == "div" else "inline")


def _inline_figure(found: re.Match) -> str:
    text, path = found.groups()
    drawing = (ROOT / "docs" / path).read_text()
    drawing = drawing[drawing.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{text}"', 1)
    return f'<div class="figure">{drawing}</div>'


def commands() -> str:
    """Return the help text of every command, as Markdown."""
    from orthohash_triton.cli import make_parser

    os.environ["COLUMNS"] = "82"  # argparse wraps lines to the width of a page
    (listed,) = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for command in listed.choices.values():
        command.declare()
    return "\n\n".join(f"## orthohash {name}\n\n```text\n{p.format_help()}```" for name, p in listed.choices.items())
