"""Tests of `make compile-matrix`: it covers every kernel and plan, compiles each once, and survives crashes of the compiler."""

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiling needs a process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from orthohash_triton.kernels import launch

from tests.compiled import collect_launches
from tests.kernels import configurations
from tools import compile_matrix, sanitize

SOURCES = Path(launch.__file__).parent


@pytest.fixture(scope="module")
def launches():
    return configurations.launches("sm_80")


def test_every_kernel_is_there(launches):
    """Every name after `launch(` in the sources is the name of a kernel."""
    written = {
        (path.stem, name) for path in SOURCES.glob("*.py") for name in re.findall(r"\blaunch\(\s*(_\w+)", path.read_text())
    }
    found = {(seen.module.rpartition(".")[2], seen.kernel) for seen in launches}
    assert written
    assert {name for name in written if name not in found} == set()


def test_pairs_leave_out_no_choice(launches):
    few = configurations.pairs(launches)
    assert len(few) < len(launches) / 2

    def choices(some):
        return {(seen.kernel, name, str(value)) for seen in some for name, value in seen.constexprs.items()
                if name not in configurations._RANGED}  # fmt: skip

    assert choices(few) == choices(launches)


def test_parts_make_up_the_whole(launches):
    parts = [{seen.kernel for seen in configurations.launches("sm_80", part)} for part in ("training", "search")]
    assert "_sweep_kernel" in parts[0] - parts[1]
    assert "_sum_precisions" in parts[1] - parts[0]
    assert set.union(*parts) == {seen.kernel for seen in launches}


def test_the_largest_sizes_are_there(launches):
    """Without galleries and codebooks that 32 bits cannot address, the check of offsets would find nothing."""
    for kernel, argument, least in (("_nearest_by_popcount", "gallery_count", 2**31), ("_sweep_kernel", "n_classes", 10**9)):
        counts = [dict(arguments).get(argument, 0) for seen in launches if seen.kernel == kernel for _, arguments in seen.sizes]
        assert max(counts) >= least


@dataclass
class Planted:
    """A fake launch that the compiler refuses, or that crashes it."""

    kernel: str
    way: str

    def compile(self, target):
        if self.way == "dies":
            os.abort()
        raise RuntimeError("no such layout")

    constants, signature, constexprs, options = {}, {}, {}, {"num_warps": 4, "num_stages": 2}


def test_a_compiler_that_dies_fails_one_configuration(tmp_path, capsys):
    good = collect_launches("sm_80", configurations.distances)[0]
    jobs = [
        compile_matrix.Job(key, "sm_80", planted)
        for key, planted in [("a", Planted("dies", "dies")), ("b", good), ("c", Planted("raises", "raises"))]
    ]
    found = compile_matrix.run(jobs, compile_matrix.Cache(tmp_path), 1)
    assert "ended its process with exit code -6" in found["a"]["error"]
    assert compile_matrix.problems(found["b"]) == []
    assert found["b"]["registers"] > 0
    assert found["c"]["error"] == "RuntimeError: no such layout"
    assert re.search(r"sm_80 +3 +1 +0 +2\n", compile_matrix.summary(jobs, found, "3.9.0"))
    (sums,) = compile_matrix.sums_by_target(jobs, found).values()
    assert (sums["configurations"], sums["passed"], sums["slower"]) == (3, 1, 0)
    # A second run finds all results in the cache, starts no process, and prints the failures again.
    said = capsys.readouterr().out
    known = compile_matrix.Cache(tmp_path)
    assert compile_matrix.run(jobs, known, 0) == found
    assert [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line] == sorted(re.findall("FAILED.*", said))


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        ({"defects": []}, "PASSED"),
        ({"defects": ["spills 8 bytes", "lacks tcgen05"]}, "SLOWER"),
        ({"defects": ["spills 8 bytes", "has atomics"]}, "FAILED"),
        ({"error": "spills 8 bytes"}, "FAILED"),
    ],
)
def test_what_is_slower_is_told_from_what_is_wrong(result, verdict):
    assert compile_matrix.judged(result).name == verdict


def test_slower_code_fails_unless_it_is_allowed(tmp_path, monkeypatch, capsys):
    spilling = {"registers": 168, "spilled": 8, "shared": 0, "threads": 128, "defects": ["spills 8 bytes"]}
    job = compile_matrix.Job("a", "sm_80", Planted("spills", "spills"))
    monkeypatch.setattr(compile_matrix, "all_jobs", lambda options, targets: [job])
    compile_matrix.Cache(tmp_path).add("a", spilling)
    report = tmp_path / "report.json"
    selection = ["--targets", "sm_80", "--cache", str(tmp_path), "--report", str(report)]
    assert compile_matrix.main(selection) == 1
    assert compile_matrix.main([*selection, "--allow-slower"]) == 0
    assert capsys.readouterr().out.count("SLOWER sm_80 spills: spills 8 bytes") == 2
    (sums,) = json.loads(report.read_text())["targets"].values()
    assert (sums["passed"], sums["slower"]) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "sm_80,sm_81"], r"compile_matrix: --targets must be of sm_80, .*; got sm_81\n"),
        (["--part", "other"], r"compile_matrix: --part must be one of training, search, losses, .*; got other\n"),
        (["--jobs", "0"], r"compile_matrix: --jobs must be at least 1; got 0\n"),
        (["--kernels", "("], r"compile_matrix: --kernels must be a regular expression; got '\(': missing \).*\n"),
        (["--cache", "/dev/null/cache"], r"compile_matrix: cannot write to the cache /dev/null/cache: .*\$XDG_CACHE_HOME\n"),
    ],
)
def test_bad_input_takes_one_line(arguments, message, capsys):
    assert compile_matrix.main(arguments) == 2
    assert re.fullmatch(message, capsys.readouterr().err)


def test_a_report_keeps_other_targets_of_the_same_subject(tmp_path, capsys):
    def run(*arguments):
        selection = ["--targets", "sm_80", "--part", "packing", "--kernels", "_unpack", "--cache", str(tmp_path), *arguments]
        return compile_matrix.main([*selection, "--report", str(path)])

    path = tmp_path / "report.json"
    assert run() == 0
    written = json.loads(path.read_text())
    assert (written["part"], written["kernels"], written["pairs"]) == ("packing", "_unpack", False)
    sums = written["targets"]["sm_80"]
    assert sums["configurations"] == sums["passed"] > 0
    other = {"date": "2026-01-01", "configurations": 5, "passed": 4}
    path.write_text(json.dumps(written | {"targets": {"gfx90a": other, "sm_80": other}}))
    assert run() == 0
    assert json.loads(path.read_text())["targets"] == {"gfx90a": other, "sm_80": sums}
    capsys.readouterr()
    before = path.read_text()
    assert run("--pairs") == 2
    assert re.fullmatch(r'compile_matrix: \S+ is a report of {.*"pairs": true}\. Name another file\n', capsys.readouterr().err)
    assert path.read_text() == before
    path.write_text("[]")
    assert run() == 2
    assert "--report must be a new file or a report of this tool" in capsys.readouterr().err


@pytest.mark.slow
def test_several_targets_are_listed_in_the_order_asked_for(tmp_path):
    targets = ["gfx942", "sm_80"]
    path = tmp_path / "report.json"
    selection = ["--part", "packing", "--kernels", "_unpack", "--cache", str(tmp_path), "--jobs", "2"]
    assert compile_matrix.main([*selection, "--targets", ",".join(targets), "--report", str(path)]) == 0
    assert list(json.loads(path.read_text())["targets"]) == targets


@pytest.mark.parametrize(("version", "message"), [("3.2.0", "Triton 3.2.0 is too old"), (None, "Triton is missing")])
def test_triton_that_is_too_old_or_missing(version, message, capsys, monkeypatch):
    def found(name):
        if version is None:
            raise compile_matrix.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(compile_matrix.importlib.metadata, "version", found)
    assert compile_matrix.main([]) == 2
    assert re.fullmatch(rf"compile_matrix: {message}\. Install .*: pip install 'triton>=[\d.]+'\n", capsys.readouterr().err)


def test_the_sanitizer_names_what_it_lacks(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton_viz", None)
    assert sanitize.main([]) == 2
    assert re.fullmatch(r"sanitize: triton-viz does not work here \(.*\)\. Do: make sanitize\n", capsys.readouterr().err)
