"""Choose and run the tests that a change needs. `make check` runs this after lint and types.

    python -m tools.changed_tests                      # print the chosen test files
    python -m tools.changed_tests --run -n 2           # run them in two processes
    python -m tools.changed_tests --base origin/main   # compare with another commit

The change is the difference between the working tree, untracked files included, and the commit where the branch left `main` (or
`--base`). A test file is chosen

- if it changed itself, or if a file of tests/ that it imports changed;
- if its name is that of a changed module: `pack_codes.py` chooses `test_pack_codes.py`, in kernels/, kernels/cpu/ and ops/ alike;
  a file of bench/ chooses `test_bench.py`;
- if it imports a changed module, directly or under a name that a package re-exports;
- always, if it is in CORE.

Tests with the marker `slow` are left out. `make test` runs everything; continuous integration does so for each change of main.
"""

import argparse
import ast
import functools
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tools.modules import ROOT, imports, module_of, path_of

# Options of pytest: the tests of a file run in one process, because they share fixtures.
SPREAD = ("--dist", "loadfile", "--no-loadscope-reorder")
CORE = (
    "tests/test_layers.py",
    "tests/test_missing.py",
    "tests/ops/test_pack_codes.py",
    "tests/ops/test_hamming_distance.py",
    "tests/docs/test_messages.py",
    "tests/docs/test_reference.py",
)


def changed_files(base: str | None) -> set[str]:
    """Return the paths that differ from `base`, or from the commit where the branch left main."""
    if base is None:
        known = subprocess.run(["git", "rev-parse", "--verify", "-q", "main"], cwd=ROOT, capture_output=True, check=False)
        base = "main" if known.returncode == 0 else "origin/main"
    start = _git("merge-base", "HEAD", base)[0]
    return {*_git("diff", "--name-only", start), *_git("ls-files", "--others", "--exclude-standard")}


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"changed_tests: git {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout.splitlines()


@functools.cache
def imported_modules(path: Path) -> frozenset[str]:
    """Return the modules of the repository that a file imports; a re-exported name counts as the module that defines it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {name if base is None else _definer(base, name) for base, name in imports(path, tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "oht":
            found.add(_definer("orthohash_triton", node.attr))
    return frozenset(name for name in found if path_of(name))


def _definer(package: str, name: str) -> str:
    """Return the module that `from package import name` reads."""
    if path_of(f"{package}.{name}"):
        return f"{package}.{name}"
    path = path_of(package)
    if path is None or path.name != "__init__.py":
        return package
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and name in {alias.asname or alias.name for alias in node.names}:
            return _definer(f"{package}.{node.module}" if node.module else package, name)
    return package


def chosen_tests(changed: Iterable[str]) -> list[str]:
    """Return the test files that a change of the files `changed` needs."""
    changed = set(changed)
    modules = {module for path in changed if (module := module_of(path))}
    own = [module for module in modules if not module.startswith(("tests.", "bench."))]
    names = {f"test_{module.rpartition('.')[2].lstrip('_')}.py" for module in own}
    if any(path.startswith("bench/") for path in changed):
        names.add("test_bench.py")
    chosen = set(CORE)
    for path in (ROOT / "tests").rglob("test_*.py"):
        relative = path.relative_to(ROOT).as_posix()
        if relative in changed or path.name in names or modules & imported_modules(path):
            chosen.add(relative)
    return sorted(chosen)


def main() -> int:
    """Print or run the chosen tests, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="the commit or branch to compare with; by default where this branch left main")
    parser.add_argument("--run", action="store_true", help="run the tests instead of printing them")
    parser.add_argument("-n", "--jobs", default="2", help="the number of processes that run them")
    options = parser.parse_args()
    tests = chosen_tests(changed_files(options.base))
    if not options.run:
        print("\n".join(tests))
        return 0
    print(f"{len(tests)} test files: {' '.join(tests)}", flush=True)
    command = [sys.executable, "-m", "pytest", "-m", "not slow", "-n", options.jobs, *SPREAD, *tests]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
