"""`orthohash methods`: list the training methods and rotations."""

import argparse
from dataclasses import fields
from typing import Any

from ._command import Command, CommandParser
from ._output import print_json, print_table


def _add_options(parser: CommandParser) -> None:
    """Add nothing: the command has no options of its own."""


def _run(options: argparse.Namespace) -> None:
    """Print the list of methods and rotations."""
    from .. import methods

    known = [methods.get(name) for name in methods.names()]
    listed: list[dict[str, Any]] = [{
        "name": method.name, "title": method.title, "learned": method.learned, "summary": method.summary, "paper": method.paper,
        "url": method.url, "lr": method.lr if method.learned else None,
        "options": {field.name: {"default": field.default, "help": field.metadata["help"]} for field in fields(method.options)},
    } for method in known]  # fmt: skip
    rotations = [{"name": name, "summary": summary, "paper": paper} for name, (summary, paper) in _ROTATIONS.items()]
    if options.json:
        print_json({"methods": listed, "rotations": rotations})
        return
    rows = [[m["name"], m["summary"], m["paper"]] for m in [*listed, *rotations]]
    print_table("Methods (--method) and rotations (--rotate)", ["name", "what it does", "paper"], rows, justify="left")


_ROTATIONS = {
    "itq": (
        "orthogonal rotation that brings the codes near to +-1, by alternating closed-form steps",
        "Gong and Lazebnik, Iterative Quantization: A Procrustean Approach to Learning Binary Codes, CVPR 2011",
    ),
    "householder": (
        "rotation as a product of Householder reflections, by gradient descent (H2Q)",
        "Schwengber et al., Deep Hashing via Householder Quantization, 2023, arXiv 2311.04207",
    ),
}


COMMAND = Command(
    name="methods",
    summary="list the methods and rotations, with their papers",
    examples="""
        orthohash methods
        orthohash methods --json""",
    add_options=_add_options,
    run=_run,
    help_order=20,
)
