"""Tests that the wheel contains every file, is built from the source distribution, and needs only its declared dependencies."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.distributions import BROUGHT_BY_THE_USER, DISTRIBUTIONS, IMPORTED_INDIRECTLY

ROOT = Path(__file__).parent.parent
NOT_DISTRIBUTED = {".git", ".ci", ".gitignore", ".data", "build", "dist", "runs", "site"}
CACHES = shutil.ignore_patterns("__pycache__", "*.py[cod]", "*.egg-info", ".*_cache")
NOT_FOR_USERS = ("dev", "docs", "all")


def project() -> dict[str, Any]:
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(extra: str | None = None) -> list[Requirement]:
    """Return the requirements of the project or of an extra; references to other extras are replaced by their requirements."""
    lines = project()["dependencies"] if extra is None else project()["optional-dependencies"][extra]
    found = []
    for requirement in map(Requirement, lines):
        if requirement.name == project()["name"]:
            found += [each for other in sorted(requirement.extras) for each in requirements(other)]
        else:
            found.append(requirement)
    return found


# Built -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, offline and from a copy, because a build writes next to the sources."""
    folder = tmp_path_factory.mktemp("sdist")
    source = folder / "source"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.name in NOT_DISTRIBUTED or path.name.startswith(".") or path.name.endswith(".egg-info"):
            continue
        (shutil.copytree if path.is_dir() else shutil.copy)(
            path, source / path.name, **({"ignore": CACHES} if path.is_dir() else {})
        )
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the source distribution, as installers do where no wheel fits."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(sdist)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def files_of(folder: str) -> set[str]:
    """Return every file of a folder of the repository except caches."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_everything_is_in_the_source_distribution(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("orthohash_triton", "kernels", "tests", "bench", "tools", "examples"):
        assert sorted(files_of(folder) - members) == []
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "constraints.txt", "Makefile", "mkdocs.yml"} <= members
    assert sorted(name for name in members if "__pycache__" in name or name.endswith(".pyc")) == []
    assert sorted(members & NOT_DISTRIBUTED) == []


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    members = set(zipfile.ZipFile(wheel).namelist())
    assert sorted(files_of("orthohash_triton") - members) == []  # modules, templates, py.typed
    assert sorted({f"orthohash_triton/{name}" for name in files_of("kernels")} - members) == []
    assert sorted(name for name in members if not name.startswith(("orthohash_triton/", "orthohash_triton-"))) == []
    assert any(name.endswith("licenses/LICENSE") for name in members)


def test_the_wheel_is_for_every_platform(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    found = zipfile.ZipFile(wheel)
    (name,) = (name for name in found.namelist() if name.endswith(".dist-info/METADATA"))
    declared = found.read(name).decode()
    assert "\nLicense-Expression: Apache-2.0\n" in declared
    assert f"\nRequires-Python: {project()['requires-python']}\n" in declared
    assert len(declared.partition("\n\n")[2]) > 500  # the README


# Installed -------------------------------------------------------------------------------------------------------------------


def closure(wanted: list[Requirement]) -> set[str]:
    """Return the installed distributions that `wanted` require, directly or through others."""
    found: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(each.name), extra) for each in wanted if applies(each, "") for extra in ("", *each.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for each in map(Requirement, metadata.requires(name) or ()):
            if applies(each, extra):
                waiting += [(canonicalize_name(each.name), own) for own in ("", *each.extras)]
    return {name for name, _ in found}


def applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def bare_environment(folder: Path, wheel: Path, extra: str | None) -> Path:
    """Make a virtual environment with the wheel and its declared dependencies for `extra`, and return its folder of scripts.

    The dependencies are links to the distributions that are installed here, so that nothing is downloaded.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in sorted(closure([*requirements(), *(requirements(extra) if extra else ())])):
        distribution = metadata.distribution(name)
        assert distribution.files is not None, f"{name} was installed without a list of its files"
        for top in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            target = Path(str(distribution.locate_file(top)))
            if target.exists() and target.suffix != ".pth" and not (site / top).exists():
                (site / top).symlink_to(target)
    options = ["--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", *options, wheel], check=True)
    copy_machine_code(site / "orthohash_triton" / "kernels" / "cpu")
    return folder / "bin"


def copy_machine_code(installed: Path) -> None:
    """Copy what Numba has compiled for this checkout, because the same functions would otherwise be compiled anew for a minute.

    Numba uses it if name, time of change, and size of the source are the same; the contents are compared here.
    """
    source = ROOT / "kernels" / "cpu"
    for path in source.glob("*.py"):
        assert path.read_bytes() == (installed / path.name).read_bytes()
        shutil.copystat(path, installed / path.name)
    cache = installed / "__pycache__"
    cache.mkdir(exist_ok=True)
    for path in (source / "__pycache__").glob("*.nb[ic]"):
        with suppress(FileNotFoundError):  # another test process has replaced it
            shutil.copy(path, cache / path.name)


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scripts of an environment with the wheel and no extra."""
    return bare_environment(tmp_path_factory.mktemp("bare"), wheel, None)


@pytest.fixture(scope="module")
def with_train(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare_environment(tmp_path_factory.mktemp("train"), wheel, "train")


def output(*command: object, folder: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_links = pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")


@needs_links
def test_the_wheel_works_with_its_dependencies_alone(bare: Path, tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util, torch\n"
        "import orthohash_triton as oht\n"
        "from orthohash_triton.kernels import launch\n"
        "assert all(module.__file__.startswith(sys.prefix) for module in (oht, launch)), launch.__file__\n"
        "assert importlib.util.find_spec('rich') is None\n"  # no extra is installed
        "codes = oht.pack_codes(torch.eye(8))\n"
        "assert codes.flatten().tolist() == [1, 2, 4, 8, 16, 32, 64, 128]\n"
        "assert oht.hamming_topk(codes, codes, 1)[1].flatten().tolist() == list(range(8))\n"
    )
    output(bare / "python", "-c", code, folder=tmp_path)
    assert output(bare / "orthohash", "--version", folder=tmp_path) == f"orthohash-triton {project()['version']}\n"


@needs_links
@pytest.mark.slow
def test_from_a_folder_of_jpegs_to_neighbours(with_train: Path, tmp_path: Path) -> None:
    """Train and search with two commands after an installation with the extra `train`."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = tmp_path / "photos" / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 - 15 * image).astype("uint8")).resize((24, 24)).save(folder / f"{i}.jpg")
    query = tmp_path / "photos" / "digit 0" / "0.jpg"
    shutil.move(query, tmp_path / "holiday.jpg")
    output(with_train / "orthohash", "train", "--dataset", "photos", "--image-size", "16", "--bits", "32", "--epochs", "3",
           "--batch-size", "64", "--no-flip", "--threads", "1", "--out", "run", folder=tmp_path)  # fmt: skip
    found = output(with_train / "orthohash", "search", "run", "holiday.jpg", "-k", "5", "--json", folder=tmp_path)
    (answer,) = json.loads(found)["results"]
    assert [neighbour["class"] for neighbour in answer["neighbours"]].count("digit 0") >= 4
    assert all((tmp_path / neighbour["path"]).is_file() for neighbour in answer["neighbours"])


# Declared --------------------------------------------------------------------------------------------------------------------

MACHINES = {
    "Windows": {"platform_system": "Windows", "platform_machine": "AMD64", "sys_platform": "win32", "os_name": "nt"},
    "macOS": {"platform_system": "Darwin", "platform_machine": "arm64", "sys_platform": "darwin", "os_name": "posix"},
    "Linux on x86": {"platform_system": "Linux", "platform_machine": "x86_64", "sys_platform": "linux", "os_name": "posix"},
    "Linux on Arm": {"platform_system": "Linux", "platform_machine": "aarch64", "sys_platform": "linux", "os_name": "posix"},
}


@pytest.mark.parametrize("machine", MACHINES)
def test_triton_is_asked_for_where_there_is_one(machine: str) -> None:
    names = {each.name for each in requirements() if each.marker is None or each.marker.evaluate(MACHINES[machine])}
    assert {"torch", "numpy", "numba"} <= names
    assert ("triton" in names) == machine.startswith("Linux")


def imported() -> dict[str, str]:
    """Return the modules that the package imports from other distributions, with one place of each import."""
    found = {}
    for path in [*(ROOT / "orthohash_triton").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            found |= {name.partition(".")[0]: f"{path.relative_to(ROOT)}:{node.lineno}" for name in names}  # type: ignore[attr-defined]
    own = {*sys.stdlib_module_names, "torch", "numpy", "orthohash_triton"}
    return {name: place for name, place in found.items() if name not in own}


def test_every_import_is_declared() -> None:
    unknown = {name: place for name, place in imported().items() if name not in (*DISTRIBUTIONS, *BROUGHT_BY_THE_USER)}
    assert unknown == {}, "add them to tests/distributions.py, and to an extra"
    declared = {each.name for each in requirements()}
    declared |= {
        each.name for extra in project()["optional-dependencies"] if extra not in NOT_FOR_USERS for each in requirements(extra)
    }
    missing = {name: place for name, place in imported().items() if name in DISTRIBUTIONS and DISTRIBUTIONS[name] not in declared}
    assert missing == {}


def test_every_declared_distribution_is_imported() -> None:
    used = {DISTRIBUTIONS[name] for name in imported() if name in DISTRIBUTIONS} | {"torch", "numpy", *IMPORTED_INDIRECTLY}
    for extra in (None, *project()["optional-dependencies"]):
        if extra not in NOT_FOR_USERS:
            assert [each.name for each in requirements(extra) if each.name not in used] == []


def test_every_requirement_has_a_lower_bound() -> None:
    for extra in (None, *project()["optional-dependencies"]):
        for each in requirements(extra):
            assert any(bound.operator in (">=", "==") for bound in each.specifier), f"{extra}: {each}"


def test_the_oldest_triton_is_compiled_with() -> None:
    versions = re.search(r"^TRITONS := ([\d.]+) ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    (triton,) = (requirement for requirement in requirements() if requirement.name == "triton")
    assert versions
    assert str(triton.specifier) == f">={versions[1].removesuffix('.0')}"


def test_all_takes_every_extra_of_users() -> None:
    extras = project()["optional-dependencies"]
    wanted = {each.name for extra in extras if extra not in NOT_FOR_USERS for each in requirements(extra)}
    assert {each.name for each in requirements("all")} == wanted
    assert wanted <= {each.name for each in requirements("dev")}


def test_pages_name_extras_that_exist() -> None:
    """The package is in no index: pages say `pip install ".[extra]"`, and `tests/base/test_extras.py` checks the messages."""
    named = {}
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "examples" / "README.md"]:
        assert "orthohash-triton[" not in path.read_text(encoding="utf-8") or path.name == "changelog.md", path
        for extras in re.findall(r'pip install "\.\[([\w, -]+)\]"', path.read_text(encoding="utf-8")):
            named |= {extra.strip(): path.name for extra in extras.split(",")}
    assert {"train", "all", "export"} <= set(named)
    assert {name: place for name, place in named.items() if name not in project()["optional-dependencies"]} == {}


@pytest.mark.parametrize("module", ["orthohash_triton", "orthohash_triton.cli"])
def test_import_needs_neither_triton_nor_numba_nor_the_extras(module: str, tmp_path: Path) -> None:
    heavy = {*DISTRIBUTIONS, *BROUGHT_BY_THE_USER}
    code = f"import sys, torch; before = {{*sys.modules}}; import {module}; print(*{{*sys.modules}} - before)"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "orthohash_triton" in done.stdout.split()
    assert not heavy & set(done.stdout.split())
