"""Name everything that an op, a method or a metric of the package still lacks.

    python -m tools.missing                # everything; the exit code is 1 if something is missing
    python -m tools.missing hamming_topk   # one op, method or metric

An op is a public file of orthohash_triton/ops/, a method is a public file of orthohash_triton/methods/, a metric is a function
in `orthohash_triton.metrics.__all__`. OP, METHOD and METRIC declare what each of them needs: a place, what to do if it is
missing, and a test for it. EXCEPTIONS lists the places that an op lacks on purpose, with the reason.
"""

import argparse
import ast
import functools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "orthohash_triton"


@dataclass(frozen=True)
class Place:
    """One thing that every op (or method, or metric) needs."""

    name: str
    remedy: str  # what to do, with {name} for the op
    is_there: Callable[[str], bool]


@dataclass(frozen=True)
class Lack:
    """One thing that is missing."""

    kind: str
    name: str
    place: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} lacks: {self.place}. {self.remedy}"


# Files of orthohash_triton/ops/ that do not define an op.
NOT_OPS = {
    "dispatch": "chooses the implementation of every op",
    "batch_norm": "the statistics of `orthohash_loss` and of nn.HashHead, which are tested and timed through those",
}

_PLAIN = "plain PyTorch on every device"
_COMPOSED = "runs the kernels of `batch_norm` and `cosine_codebook_loss`"

# (op, place) -> why the op does not need it.
EXCEPTIONS = {
    ("orthohash_loss", "Triton kernel"): _COMPOSED,
    ("orthohash_loss", "CPU twin"): _COMPOSED,
    ("orthohash_loss", "configurations"): _COMPOSED,
    **{
        (op, place): _PLAIN
        for op in ("central_similarity_loss", "minimum_distance_loss", "quantization_loss", "semantic_hierarchy_loss")
        for place in ("Triton kernel", "CPU twin", "configurations")
    },
}


# Facts about the files ---------------------------------------------------------------------------------------------------------


@functools.cache
def text(path: str) -> str:
    """Return the text of a file of the repository, or "" if it does not exist."""
    file = ROOT / path
    return file.read_text(encoding="utf-8") if file.is_file() else ""


@functools.cache
def exported(package: str) -> tuple[str, ...]:
    """Return `__all__` of a package, read from its source."""
    for node in ast.parse(text(f"{package}/__init__.py")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return tuple(ast.literal_eval(node.value))
    return ()


@functools.cache
def homes() -> dict[str, str]:
    """Return `_HOMES` of orthohash_triton/__init__.py, which says from which module each public name is imported."""
    for node in ast.parse(text("orthohash_triton/__init__.py")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_HOMES" for t in node.targets):
            return dict(ast.literal_eval(node.value))
    return {}


@functools.cache
def public_functions(op: str) -> tuple[str, ...]:
    """Return the functions that the file of an op defines and that do not begin with an underscore."""
    body = ast.parse(text(f"orthohash_triton/ops/{op}.py")).body
    defined = [node.name for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return tuple(name for name in defined if name in exported("orthohash_triton")) or (op,)


@functools.cache
def documented() -> frozenset[str]:
    """Return the last parts of the names behind `:::` in docs/reference."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    return frozenset(
        line.rpartition(".")[2] for page in pages for line in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
    )


def names_with_word(path: str) -> Callable[[str], bool]:
    return lambda name: re.search(rf"\b{re.escape(name)}\b", text(path)) is not None


def file_of(pattern: str) -> Callable[[str], bool]:
    return lambda name: (ROOT / pattern.format(name=name)).is_file()


def declares_benchmarks(op: str) -> bool:
    return "\nMICROBENCHMARKS = " in text(f"bench/{op}.py")


def for_each_function(test: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda op: all(map(test, public_functions(op)))


def in_changelog(name: str) -> bool:
    return re.search(rf"`(?:[\w.]+\.)?{re.escape(name)}\b", text("CHANGELOG.md")) is not None


OP = [
    Place("public function", "Write it in orthohash_triton/ops/{name}.py.", file_of("orthohash_triton/ops/{name}.py")),
    Place(
        "reference", "Write the formula in orthohash_triton/reference/{name}.py.", file_of("orthohash_triton/reference/{name}.py")
    ),
    Place("Triton kernel", "Write kernels/{name}.py, or add the op to EXCEPTIONS.", file_of("kernels/{name}.py")),
    Place("CPU twin", "Write kernels/cpu/{name}.py, or add the op to EXCEPTIONS.", file_of("kernels/cpu/{name}.py")),
    Place("tests", "Write tests/ops/test_{name}.py.", file_of("tests/ops/test_{name}.py")),
    Place("benchmark", "Declare MICROBENCHMARKS in bench/{name}.py.", declares_benchmarks),
    Place(
        "export",
        "Import its function in orthohash_triton/__init__.py, and add it to `__all__` and `_HOMES`.",
        for_each_function(lambda function: function in exported("orthohash_triton") and function in homes()),
    ),
    Place(
        "reference page",
        "Add a line `::: orthohash_triton.{name}` to a page of docs/reference.",
        for_each_function(lambda function: function in documented()),
    ),
    Place(
        "configurations",
        "Add a family to tests/kernels/configurations.py; `make compile-matrix`; `python -m tools.support_table --write`.",
        names_with_word("tests/kernels/configurations.py"),
    ),
    Place("doctor case", "Write orthohash_triton/doctor/cases/{name}.py.", file_of("orthohash_triton/doctor/cases/{name}.py")),
    Place("changelog line", "Name it in CHANGELOG.md.", lambda op: any(map(in_changelog, public_functions(op)))),
]

METHOD = [
    Place("declaration", "Define METHOD in orthohash_triton/methods/{name}.py.", file_of("orthohash_triton/methods/{name}.py")),
    Place("row of docs/methods.md", "Add a row to the table of docs/methods.md.", names_with_word("docs/methods.md")),
    Place("changelog line", "Name it in CHANGELOG.md.", lambda name: name in text("CHANGELOG.md").lower()),
]

METRIC = [
    Place(
        "reference page",
        "Add a line `::: orthohash_triton.metrics.{name}` to docs/reference/metrics.md.",
        lambda name: name in documented(),
    ),
    Place("tests", "Write a test in tests/metrics that calls it.", lambda name: is_used_in(name, "tests/metrics")),
]


def is_used_in(name: str, folder: str) -> bool:
    """Return whether a test of `folder` has the word `name`."""
    return any(names_with_word(f"{folder}/{path.name}")(name) for path in (ROOT / folder).glob("test_*.py"))


# The check -------------------------------------------------------------------------------------------------------------------


def files(folder: str) -> list[str]:
    """Return the names of the public files of a folder of the package."""
    return sorted(path.stem for path in (PACKAGE / folder).glob("[a-z]*.py"))


def subjects() -> dict[str, list[str]]:
    """Return the names of all ops, methods and metrics, found by reading the folders."""
    ops = [name for name in files("ops") if name not in NOT_OPS]
    metrics = sorted(name for name in exported("orthohash_triton/metrics") if name.islower())  # others are result types
    return {"op": ops, "method": files("methods"), "metric": metrics}


PLACES = {"op": OP, "method": METHOD, "metric": METRIC}


def lacks(kind: str, name: str) -> list[Lack]:
    """Return what the op, method or metric `name` still lacks."""
    return [
        Lack(kind, name, place.name, place.remedy.format(name=name))
        for place in PLACES[kind]
        if (name, place.name) not in EXCEPTIONS and not place.is_there(name)
    ]


def stale_exceptions() -> list[str]:
    """Return the entries of EXCEPTIONS that are obsolete, because the op no longer exists or now has the place."""
    places = {place.name: place for place in OP}
    return [
        f"EXCEPTIONS of tools/missing.py: {op}, {place} is not needed"
        for op, place in EXCEPTIONS
        if op not in subjects()["op"] or place not in places or places[place].is_there(op)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Print everything that is missing, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help="an op, method or metric; all of them by default")
    options = parser.parse_args(arguments)
    known = subjects()
    chosen = [(kind, name) for kind, names in known.items() for name in names if not options.name or name in options.name]
    unknown = sorted(set(options.name) - {name for _, name in chosen})
    if unknown:
        print(f"missing: there is no op, method or metric {', '.join(unknown)}. Known: {known}", file=sys.stderr)
        return 2
    found = [lack for kind, name in chosen for lack in lacks(kind, name)]
    for line in (*found, *([] if options.name else stale_exceptions())):
        print(line)
    if not found:
        print(f"nothing is missing ({len(chosen)} ops, methods and metrics)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
