"""Tests of the registry of methods, and of the declaration of each method."""

import dataclasses
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orthohash_triton import methods
from orthohash_triton.methods import Method, Objective, option

TABLE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
NAMES = sorted(path.stem for path in Path(methods.__file__).parent.glob("[a-z]*.py"))  # a file declares the method of its name


def test_every_file_declares_a_method_and_learned_ones_come_first() -> None:
    assert sorted(methods.names()) == NAMES
    learned = [methods.get(name).learned for name in methods.names()]
    assert learned == sorted(learned, reverse=True)
    assert methods.names()[-2:] == ["pca", "lsh"]


def lacking(method: Method) -> list[str]:
    """Return everything that a method of the package needs and `method` does not have yet."""
    module = inspect.getmodule(method.objective or method.fit)
    checks = {
        "a docstring of its module": bool(module and module.__doc__),
        "a title": bool(method.title),
        "the year in its paper": str(method.year) in re.findall(r"\b(?:19|20)\d\d\b", method.paper),
        "a url that begins with https://": method.url.startswith("https://"),
        "a summary without a full stop": bool(method.summary) and not method.summary.endswith("."),
        "a learning rate above 0": method.lr > 0,
        "a row in the table of docs/methods.md": f"\n| `{method.name}` |" in TABLE,
    }
    for field in dataclasses.fields(method.options):
        checks[f"help for its option {field.name}"] = bool(field.metadata.get("help"))
    return [what for what, is_there in checks.items() if not is_there]


@pytest.mark.parametrize("name", NAMES)
def test_a_declaration_is_complete(name: str) -> None:
    method = methods.get(name)
    assert method.name == name
    assert method.make_options({}) == method.options()
    assert not lacking(method), f"the method {name} still needs: {'; '.join(lacking(method))}"


def test_what_a_method_lacks_is_named() -> None:
    @dataclasses.dataclass(frozen=True)
    class Options:
        weight: float = 1.0

    bare = Method("bare", "", "We", "", 2026, "ends with a stop.", objective=lambda task, o: Objective(), options=Options, lr=0.0)
    assert len(lacking(bare)) == 7  # everything but the docstring of this file
    assert lacking(bare)[-1] == "help for its option weight"


def test_unknown_methods_and_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"method must be one of .*orthohash.*; got 'orthohush'"):
        methods.get("orthohush")
    with pytest.raises(ValueError, match="method 'dhn' has no option margin; it has pairs, quantization_weight"):
        methods.get("dhn").make_options({"margin": 0.2})
    with pytest.raises(ValueError, match="method 'lsh' has no option margin; it has none"):
        methods.get("lsh").make_options({"margin": 0.2})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("orthohash", {"margin": -0.1}, "margin must not be negative; got -0.1"),
        ("dhn", {"quantization_weight": -1.0}, "quantization_weight must not be negative"),
        ("dhn", {"pairs": "half"}, "pairs must be one of 'balanced', 'equal'; got 'half'"),
        ("dpsh", {"pairs": None}, "pairs must be one of 'balanced', 'equal'; got None"),
        (
            "orthohash",
            {"margin_type": "angle"},
            "'orthohash': margin_type must be one of 'cosine', 'angular'; got",
        ),
        ("hashnet", {"similarity": "cosine"}, "similarity must be one of 'jaccard', 'any'; got 'cosine'"),
        ("csq", {"quantization": "l1"}, "quantization must be one of 'log_cosh', 'l2'; got 'l1'"),
        ("hashnet", {"stages": 0}, "stages must be at least 1; got 0"),
        ("hashnet", {"growth": float("nan")}, "growth must not be negative; got nan"),
        ("mds", {"pairs_from": -1.0}, "pairs_from must not be negative"),
        ("mds", {"bank": 0}, "bank must be at least 1; got 0"),
        ("shrewd", {"kl_weight": -1.0}, "kl_weight must not be negative"),
    ],
)
def test_bad_options(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.get(name).make_options(options)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "_registry", methods._registry.copy())


@dataclasses.dataclass(frozen=True)
class Options:
    weight: float = option(1.0, "weight")


def own(title: str = "Own") -> Method:
    return Method(
        "own", title, "Me, 2026", "https://example.org", 2026, "mine", objective=lambda task, o: Objective(), options=Options
    )


def test_a_method_of_ones_own(registry: None) -> None:
    method = own()
    assert methods.register(method) is method
    assert methods.get("own").make_options({"weight": 2.0}).weight == 2
    assert methods.names()[0] == "own"
    first = Path(__file__).read_text().splitlines().index("    assert methods.register(method) is method") + 1
    with pytest.raises(ValueError, match="there is a method 'own' already") as raised:
        methods.register(method)
    places = re.findall(r"\S+\.py:\d+", str(raised.value))
    assert places == [f"{__file__}:{line}" for line in (first, first + 5)]
    with pytest.raises(ValueError, match=r"there is a method 'csq' already, declared in \S+csq\.py"):
        methods.register(dataclasses.replace(method, name="csq"))
    assert methods.get("csq").title == "CSQ"


def test_a_file_that_is_executed_again_replaces_its_own_method(registry: None) -> None:
    for title in ("First", "Second"):
        methods.register(own(title))
        assert methods.get("own").title == title


def test_replacing_the_method_of_another_place(registry: None) -> None:
    methods.register(own("First"))
    methods.register(own("Second"), replace=True)
    assert methods.get("own").title == "Second"
    with pytest.raises(ValueError, match="pass replace=True"):
        methods.register(own("Third"))


# ---- files in the folder, in a copy of the package ---------------------------------------------------------------------------

RELATIVE = """
from ..nn import HashHead
from ..ops.cosine_codebook_loss import cosine_codebook_loss
"""
ABSOLUTE = """
from orthohash_triton import cosine_codebook_loss, methods
from orthohash_triton.nn import HashHead
"""
DECLARATION = """
def fit(features, bits, seed):
    return HashHead(features.shape[1], bits, batch_norm=False)

METHOD = Method("mine", "Mine", "We, 2026", "https://example.org", 2026, "what it does", fit=fit)
"""


SELF_REGISTERING = DECLARATION.replace("Method(", "methods.register(methods.Method(").replace("fit=fit)", "fit=fit))")
INSIDE = RELATIVE + "from ._method import Method\n" + DECLARATION
WITHOUT = INSIDE.replace("METHOD", "METHODS")
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "own-method.md").read_text()
SHOWN = r'```py title="orthohash_triton/methods/mine.py"\n(.*?)```'
CASES = {  # files of the folder
    "without METHOD": {"other.py": WITHOUT},
    "relative imports": {"mine.py": INSIDE},
    "absolute imports, registers itself": {"mine.py": ABSOLUTE + SELF_REGISTERING},
    "one name twice": {"mine.py": INSIDE, "other.py": INSIDE},
    "private": {"mine.py": INSIDE, "_other.py": WITHOUT},
    "the page on own methods": {"mine.py": re.findall(SHOWN, PAGE, re.DOTALL)[0]},
}
PROGRAM = """
import json, sys
from pathlib import Path
from typing import Any
import orthohash_triton as oht

print(oht.__file__)
folder, said = Path(oht.methods.__file__).parent, {}
for case, files in json.loads(sys.argv[1]).items():
    names = {"kind": "method", "attribute": "METHOD", "required": True, "sort_key": oht.methods._registry._sort_key}
    oht.methods._registry = oht.methods.Registry("orthohash_triton.methods", **names)
    for name in ("mine", "other", "_other"):
        (folder / f"{name}.py").unlink(missing_ok=True)
        sys.modules.pop(f"orthohash_triton.methods.{name}", None)
    for name, text in files.items():
        (folder / name).write_text(text)
    try:
        said[case] = [oht.methods.get("mine").title, *oht.methods.names()[-3:]]
    except ValueError as error:
        said[case] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what looking up "mine" gives in a copy of the package, for each of CASES in its folder of methods.

    The package is imported while the first of them, a file that declares no method, is in the folder.
    """
    copy = tmp_path_factory.mktemp("copy")
    here = Path(methods.__file__).parent.parent
    for source, place in ((here, copy / "orthohash_triton"), (here.parent / "kernels", copy / "orthohash_triton" / "kernels")):
        shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True, dirs_exist_ok=True)
    (copy / "orthohash_triton" / "methods" / "other.py").write_text(WITHOUT)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(CASES)], cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    imported, outcomes = done.stdout.splitlines()
    assert imported == str(copy / "orthohash_triton" / "__init__.py")
    return json.loads(outcomes)


@pytest.mark.parametrize("case", ["relative imports", "absolute imports, registers itself", "private"])
def test_a_file_in_the_folder_is_a_method(case: str, said: dict[str, Any]) -> None:
    assert said[case] == ["Mine", "mine", "pca", "lsh"]


def test_the_page_shows_a_file_for_the_folder(said: dict[str, Any]) -> None:
    title, *names = said["the page on own methods"]
    assert title == "Mine"
    assert names == ["dpsh", "pca", "lsh"]  # learned methods precede fitted ones


def test_a_wrong_file_in_the_folder_is_named(said: dict[str, Any]) -> None:
    folder = r"\S+/orthohash_triton/methods"
    assert re.search(rf"^{folder}/other\.py must define METHOD", said["without METHOD"])
    assert re.search(
        rf"'mine' already, declared in {folder}/mine\.py:1; the new one is in {folder}/other\.py:1", said["one name twice"]
    )


def test_a_method_learns_or_is_fitted() -> None:
    for keywords in ({}, {"objective": lambda task, o: Objective(), "fit": lambda x, bits, seed: None}):
        with pytest.raises(ValueError, match="give either objective or fit"):
            Method("none", "None", "Me, 2026", "https://example.org", 2026, "nothing", **keywords)
