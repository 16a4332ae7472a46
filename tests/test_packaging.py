"""The wheel holds everything, works away from the checkout, and importing it is light."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "kernels", "orthohash_triton")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as a build leaves its traces beside the sources; with the setuptools installed here, so offline."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (folder / "source").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(folder / "source")], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_every_module_is_in_the_wheel(wheel: Path) -> None:
    members = set(zipfile.ZipFile(wheel).namelist())
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "orthohash_triton").rglob("*.py")}
    kernels = {"orthohash_triton/" + str(path.relative_to(ROOT)) for path in (ROOT / "kernels").rglob("*.py")}
    assert package | kernels <= members
    assert "orthohash_triton/py.typed" in members
    assert not {name for name in members if name.startswith(("kernels/", "tests/", "bench/"))}
    assert any(name.endswith("licenses/LICENSE") for name in members)


def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import orthohash_triton as oht\n"
        "from orthohash_triton.kernels import launch\n"
        "assert launch.__file__.startswith(sys.argv[1]), launch.__file__\n"
        "import torch\n"
        "codes = oht.pack_codes(torch.eye(8))\n"
        "assert codes.flatten().tolist() == [1, 2, 4, 8, 16, 32, 64, 128]\n"
        "assert oht.hamming_topk(codes, codes, 1)[1].flatten().tolist() == list(range(8))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "site")], check=True, cwd=tmp_path)


def test_import_needs_neither_triton_nor_numba_nor_the_extras(tmp_path: Path) -> None:
    heavy = {"triton", "numba", "faiss", "rich", "PIL", "sklearn", "safetensors", "matplotlib"}
    code = "import sys, torch; before = {*sys.modules}; import orthohash_triton; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "orthohash_triton" in done.stdout.split()
    assert not heavy & set(done.stdout.split())
