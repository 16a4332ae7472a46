"""Configuration files: the settings of a command in TOML, YAML or JSON, under the names of its options.

    dataset = "photos/"
    method = "dhn"
    bits = 32

    [options]                  # options of the method
    quantization_weight = 0.1

A run folder, or its config.json, is a configuration file too, which repeats the run. Options on the command line take precedence
over the file.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .._base import run_folder
from .._base.extras import install
from .._base.quoting import quoted
from .._base.reading import naming, reader
from .._base.text_files import read_text
from ._suggest import did_you_mean

_LARGEST = 2**16  # bytes of a file of settings, and values in it

# These options apply to one call only and cannot be set in a file.
NOT_IN_FILES = ("help", "config", "print_config", "json", "quiet", "progress", "resume", "overwrite")


@reader("configuration file")
def read(path: Path) -> dict[str, Any]:
    """Return the settings in the file at `path` by option name (with underscores), including the options of the method."""
    if path.is_dir():
        path = path / run_folder.CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"--config: {path} does not exist; give a .toml, .yaml or .json file, or a run folder")
    if path.suffix not in _PARSERS:
        raise ValueError(f"--config: {path} must end in {', '.join(_PARSERS)}, or be a run folder")
    found = _parsed(path)
    if isinstance(found, dict) and "config" in found and "format" in found:  # the config.json of a run folder
        found = _settings_of_run(found, path.parent)
    if not isinstance(found, dict) or not isinstance(found.get("options", {}), dict):
        raise ValueError(f"--config: {path} must hold settings by name, and the options of the method in a table [options]")
    own = found.pop("options", {})
    settings = [*found.items(), *own.items()]
    names = [str(name).replace("-", "_") for name, _ in settings]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--config: {path} sets {', '.join(twice)} twice")
    return dict(zip(names, (value for _, value in settings), strict=True))


def _parsed(path: Path) -> Any:
    """Return the contents of a file of settings."""
    is_bounded = path.suffix == ".json"  # JSON has no references; the file of a run names all classes, which can be many
    if not is_bounded and (size := path.stat().st_size) > _LARGEST:
        raise ValueError(f"--config: {path} has {size:,} bytes; expected a file of settings, of at most {_LARGEST:,}")
    with naming(path, f"{path.suffix[1:].upper()} file"):
        found = _PARSERS[path.suffix](read_text(path))
        if not is_bounded and _count(found, {}) > _LARGEST:
            raise ValueError("its references repeat each other too often")
    return found


def _count(value: Any, known: dict[int, int]) -> int:
    """Return the number of values in `value`. A YAML file can refer to one value many times, so that few bytes mean billions."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _LARGEST + 1  # until it is known: a value that contains itself has no end
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]


def _settings_of_run(description: dict[str, Any], folder: Path) -> Any:
    """Return the settings in the config.json of a run folder, with the paths of the data set that are valid now."""
    from ..data import places

    settings, data = description["config"], description.get("data", {})
    return places.locate(settings, data.get("places", {}), folder).settings if isinstance(settings, dict) else settings


def apply(settings: dict[str, Any], parser: argparse.ArgumentParser, path: Path) -> None:
    """Make `settings`, read from `path`, the defaults of the options of `parser`."""
    actions = options_of(parser)
    for name, value in settings.items():
        if name not in actions:
            near = did_you_mean(name, actions)
            raise ValueError(f"--config: {path} sets {quoted(name)}, which {parser.prog} does not take{near or _hint(parser)}")
        try:
            converted = _converted(actions[name], value)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"--config: {path}: {name} cannot be {quoted(value)}: {error}") from error
        parser.set_defaults(**{name: converted})
        actions[name].required = False


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the options of `parser` that a file can set, by name."""
    return {action.dest: action for action in parser._actions if action.option_strings and action.dest not in NOT_IN_FILES}


def as_toml(values: argparse.Namespace, parser: argparse.ArgumentParser, own: Iterable[str]) -> str:
    """Return `values` as a TOML file with the help of each option as a comment. `own` names the options of the method."""
    actions = options_of(parser)
    lines = [_toml_line(action, getattr(values, name)) for name, action in actions.items() if name not in own]
    table = [_toml_line(actions[name], getattr(values, name)) for name in own]
    return "\n".join([*lines, *(["", "[options]"] if table else []), *table])


def _toml_line(action: argparse.Action, value: Any) -> str:
    help = (action.help or "").replace(" (%(default)s)", "").replace("%%", "%")
    setting = f"# {action.dest} =" if value is None else f"{action.dest} = {_toml_value(value)}"
    return f"{setting}  # {help}" if help else setting


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, float):
        return repr(value)  # writes inf and nan as TOML does
    return json.dumps(value if isinstance(value, int) else str(value), ensure_ascii=False)


def _hint(parser: argparse.ArgumentParser) -> str:
    return f"; `{parser.prog} --help` lists its options"


def _converted(action: argparse.Action, value: Any) -> Any:
    """Convert `value` as the option converts its text on the command line."""
    if action.nargs in ("+", "*"):
        return [_one(action, each) for each in (value if isinstance(value, list) else [value])]
    return _one(action, value)


def _one(action: argparse.Action, value: Any) -> Any:
    """Convert a single value to the type of the option."""
    if value is None and action.default is None:
        return None
    if action.nargs == 0:  # a flag
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    kind: Any = action.type or str
    fitting = {int: (int, str), float: (int, float, str)}.get(kind, (str,))
    if not isinstance(value, fitting) or isinstance(value, bool):
        raise ValueError(f"expected {_in_words(kind)}")
    try:
        converted = kind(value)  # accepts text as the command line does, because YAML reads 5e-4 as text
    except (ValueError, OverflowError):
        raise ValueError(f"expected {_in_words(kind)}") from None  # Python's message would repeat the value
    if action.choices is not None and converted not in action.choices:
        raise ValueError(f"expected one of {', '.join(map(str, action.choices))}")
    return converted


def _without_contents(error: Exception) -> str:
    """Return the message of YAML's parser without the lines of the file that it quotes, which may hold a password."""
    mark = getattr(error, "problem_mark", None)
    return str(error) if mark is None else f"{getattr(error, 'problem', None) or 'it is not valid'}, line {mark.line + 1}"


def _in_words(kind: Any) -> str:
    return {int: "an integer", float: "a number"}.get(kind, "text")


def _toml(text: str) -> Any:
    return importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(text)


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"YAML configuration files need pyyaml: {install('pyyaml', extra='config')}, or use TOML") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(_without_contents(error)) from error


_PARSERS: dict[str, Callable[[str], Any]] = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml, ".json": json.loads}
