"""The Python files of the repository as modules: their names, their paths and their imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def module_of(path: str) -> str | None:
    """Return the name under which a Python file of the repository is imported, None for another file."""
    if not path.endswith(".py"):
        return None
    parts = Path(path).with_suffix("").parts
    parts = ("orthohash_triton", *parts) if parts[0] == "kernels" else parts
    return ".".join(part for part in parts if part != "__init__")


def path_of(module: str) -> Path | None:
    """Return the file of a module of the repository, or None if it has none."""
    parts = module.split(".")
    if parts[:2] == ["orthohash_triton", "kernels"]:
        parts = parts[1:]
    found = (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py"))
    return next((path for path in found if path.is_file()), None)


def imports(path: Path, tree: ast.Module) -> Iterator[tuple[str | None, str]]:
    """Iterate over the imports anywhere in a file of the repository, also inside functions, with relative ones resolved.

    Yields (None, module) for `import module`, and (module, name) for `from module import name`.
    """
    module = module_of(path.relative_to(ROOT).as_posix()) or ""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((None, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((base, alias.name) for alias in node.names)
