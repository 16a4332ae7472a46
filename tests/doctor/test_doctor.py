"""Tests of `orthohash doctor`: its checks, the defects that it detects, its report, and its errors."""

import inspect
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from orthohash_triton.kernels._device import Device

import orthohash_triton
from orthohash_triton import cli
from orthohash_triton._base import environment
from orthohash_triton.doctor import _check, _devices, _timings, as_markdown, cases, examine
from orthohash_triton.ops import dispatch
from tests.launches import Call, instead_of_launches

ROOT = Path(__file__).parents[2]
GPU = _devices.Device("cuda:0", "NVIDIA H100", "sm_90", "triton", "why", None, "CUDA 13.0", "580.1", 79.1, 132)


def small_headline(device: str, impl: str) -> _timings.Headline:
    return _timings.Headline("a sum", lambda: torch.ones(3).sum(), {"another sum": lambda: torch.tensor(3.0)}, 0.0)


@pytest.fixture
def quick_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timings, "HEADLINES", (small_headline,))
    monkeypatch.setattr(_timings, "COPIED_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(_timings, "SECONDS", 0.001)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Return the report of all cases on the CPU, with small cases in place of the headline cases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_timings, "HEADLINES", (small_headline,))
        patch.setattr(_timings, "COPIED_BYTES", {"cpu": 2**20})
        return examine("cpu", selftest=True)


def test_selftest_passes_on_the_cpu(report: dict[str, Any]) -> None:
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert report["ok"]
    assert all(check["repeatable"] for check in report["checks"])
    assert {check["device"] for check in report["checks"]} == {"cpu"}
    impls = {check["op"]: check["impl"] for check in report["checks"]}
    assert impls["pack_codes"] == impls["hamming_topk"] == impls["orthohash_loss"] == "cpu"
    assert impls["quantization_loss"] == "torch"


def test_selftest_has_every_op_that_has_implementations(report: dict[str, Any]) -> None:
    public = (getattr(orthohash_triton, name) for name in orthohash_triton.__all__)
    ops = {each.__name__ for each in public if inspect.isfunction(each) and "impl" in inspect.signature(each).parameters}
    assert len(ops) >= 11
    assert ops <= {check["op"] for check in report["checks"]}
    assert {impl["cpu"] for op, impl in report["implementations"].items() if op in ops} == {"cpu"}


def test_the_cases_of_the_grid_differ() -> None:
    names = [(case.op, case.label) for case in cases.all_cases()]
    assert len(set(names)) == len(names)


def test_inputs_are_the_same_every_time_and_differ_between_cases() -> None:
    first, second, *_ = (case for case in cases.all_cases() if case.op == "hamming_topk")
    assert torch.equal(first.inputs()["gallery"], first.inputs()["gallery"])
    assert not torch.equal(first.inputs()["gallery"][:5003], second.inputs()["gallery"][:5003])


def test_report_is_plain_and_names_neither_machine_nor_person(report: dict[str, Any]) -> None:
    text = json.dumps(report) + as_markdown(report)
    assert json.loads(json.dumps(report)) == report
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)


def test_markdown_is_one_table_after_another(report: dict[str, Any]) -> None:
    text = as_markdown(report)
    title, *tables = text.split("\n\n")
    assert "all checks passed" in title
    assert len(tables) == 3  # the machine, the ops, the times
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    assert all(f"| {check['op']} | " in text for check in report["checks"])
    assert "| a sum | cpu |" in text


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case", [case for case in cases.all_cases() if case.runs_on("cuda")], ids=lambda case: f"{case.op}, {case.label}"
)
def test_selftest_passes_on_a_gpu(case: cases.Case, device: torch.device) -> None:
    done = _check.check(case, str(device), "triton")
    assert done.cause is None
    assert done.ok, done


# ---------------------------------------------------------------- the defects that it detects


def check_of(run: Callable[[dict[str, torch.Tensor], str], tuple[torch.Tensor, ...]], tolerance: float | None) -> _check.Check:
    case = cases.Case("op", "case", lambda generator: {"x": torch.arange(4.0)}, run, tolerance)
    return _check.check(case, "cpu", "cpu")


def test_a_difference_beyond_the_tolerance_is_seen() -> None:
    def run(given, impl, error=0.0):
        return (given["x"] + error * (impl == "cpu"),)

    assert check_of(run, 1e-6).ok
    assert check_of(lambda given, impl: run(given, impl, 2e-6), 1e-6).ok  # relative to 3, the largest number
    wrong = check_of(lambda given, impl: run(given, impl, 6e-6), 1e-6)
    assert not wrong.ok
    assert wrong.error == pytest.approx(2e-6, rel=0.1)
    assert wrong.allowed == pytest.approx(1e-6)
    assert not check_of(lambda given, impl: run(given, impl, 1.0), None).ok


def test_what_the_reference_loses_in_its_dtype_is_allowed() -> None:
    def run(given, impl):
        exact = given["x"].dtype == torch.float64
        return (given["x"] + (0.0 if exact else 0.003 if impl == "cpu" else 0.0031),)

    assert check_of(run, 1e-6).ok
    assert check_of(run, 1e-6).allowed == pytest.approx(0.0031 / 3 + 1e-6, rel=0.01)


@pytest.mark.parametrize(
    "harm",
    [
        lambda x: x[:3],
        lambda x: torch.where(x > 2, torch.nan, x),
        lambda x: torch.where(x > 2, torch.inf, x),
    ],
    ids=["shape", "nan", "infinity"],
)
@pytest.mark.parametrize("tolerance", [None, 1e-6])
def test_another_shape_and_numbers_that_are_none_are_seen(harm: Callable, tolerance: float | None) -> None:
    done = check_of(lambda given, impl: (harm(given["x"]) if impl == "cpu" else given["x"],), tolerance)
    assert not done.ok
    assert done.cause == _check.INCOMPARABLE


def test_the_same_nan_in_the_same_place_is_right() -> None:
    assert check_of(lambda given, impl: (given["x"] / given["x"],), 1e-6).ok


def test_two_runs_that_differ_are_seen() -> None:
    calls = iter(range(9))
    done = check_of(lambda given, impl: (given["x"] + 1e-7 * next(calls) * (impl == "cpu"),), 1e-3)
    assert done.error <= done.allowed
    assert done.repeatable is False
    assert not done.ok


def test_equal_numbers_of_another_dtype_differ() -> None:
    assert not _check.same_bits((torch.zeros(2),), (torch.zeros(2, dtype=torch.int32),))
    assert not _check.same_bits((torch.tensor([0.0]),), (torch.tensor([-0.0]),))
    assert _check.same_bits((torch.tensor([torch.nan]),), (torch.tensor([torch.nan]),))


def test_a_reference_that_is_wrong_altogether_allows_nothing() -> None:
    def run(given, impl):
        return (given["x"] if given["x"].dtype == torch.float64 else -given["x"],)

    done = check_of(run, 1e-6)
    assert not done.ok
    assert done.allowed == pytest.approx(1e-6)


def test_the_output_nearest_to_its_limit_decides() -> None:
    def run(given, impl):
        exact = given["x"]
        off = impl == "cpu"
        return (exact + 3e-4 * off).to(torch.float16 if exact.dtype == torch.float32 else torch.float64), exact + 1e-4 * off

    done = check_of(run, 1e-6)  # the first output has the larger error, but float16 allows it
    assert not done.ok
    assert done.error == pytest.approx(1e-4 / 3, rel=0.1)


@pytest.mark.parametrize("path", ["/home/me/secret/x.py", r"C:\Users\me\secret\x.py", "D:/me/secret/x.py"])
def test_folders_are_not_published(path: str) -> None:
    assert _check.without_folders(f"cannot open {path}: no such file") == "cannot open x.py: no such file"


@pytest.mark.parametrize("before", [None, "reference"])
def test_cases_leave_the_environment_as_it_was(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORTHOHASH_IMPL", raising=False)
    if before is not None:
        monkeypatch.setenv("ORTHOHASH_IMPL", before)
    case = next(case for case in cases.all_cases() if case.op == "ndcg")
    case.run(case.inputs(), "cpu")
    assert os.environ.get("ORTHOHASH_IMPL") == before


@pytest.mark.usefixtures("quick_timings")
def test_a_headline_that_disagrees_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    from orthohash_triton.doctor import _examination

    def disagreeing(device: str, impl: str) -> _timings.Headline:
        return _timings.Headline("x", lambda: torch.ones(2), {"peer": lambda: torch.zeros(2)}, 1e-3)

    monkeypatch.setattr(_examination, "all_cases", lambda: cases.first_cases()[:1])
    assert examine("cpu", selftest=True)["ok"]
    monkeypatch.setattr(_timings, "HEADLINES", (small_headline, disagreeing))
    report = examine("cpu", selftest=True)
    assert not report["ok"]
    assert "| x | cpu | does not agree with peer |" in as_markdown(report)


def test_an_op_is_reported_with_the_error_nearest_to_its_limit(report: dict[str, Any]) -> None:
    checks = [
        {"op": "op", "device": "cpu", "impl": "cpu", "ok": True, "error": error, "allowed": allowed}
        for error, allowed in ((1e-3, 1e-1), (1e-6, 2e-6), (0.0, 0.0))
    ]
    changed = report | {"implementations": {"op": {"cpu": "cpu"}, "other": {"cpu": "cpu"}}, "checks": checks}
    text = as_markdown(changed)
    assert "| op | cpu: 3 of 3, error 1.0e-06 of 2.0e-06 |" in text
    assert "| other | cpu: not checked |" in text


def test_cuda_is_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_devices, "_gpu", lambda index: replace(GPU, device=f"cuda:{index}"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device.device for device in _devices.devices()] == ["cpu", "cuda:0", "cuda:1"]
    assert [device.device for device in _devices.devices("cuda")] == ["cuda:0"]
    assert [device.device for device in _devices.devices("cuda:1")] == ["cuda:1"]


def test_wrong_ops_fail_the_command(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from orthohash_triton.doctor.cases import hamming_distance, pack_codes

    right = hamming_distance.CASES[0]

    def off_by_one(given: cases.Inputs, impl: str) -> cases.Outputs:
        return tuple(x + (impl == "cpu") for x in right.run(given, impl))

    monkeypatch.setattr(hamming_distance, "CASES", [replace(right, run=off_by_one)])
    folder = f"{Path.home()}/secret/kernel.py"
    monkeypatch.setattr(pack_codes, "pack_codes", lambda x, threshold, impl: (_ for _ in ()).throw(RuntimeError(f"no {folder}")))
    assert cli.main(["doctor", "--device", "cpu"]) == 1
    text = capsys.readouterr().out
    assert "SOME CHECKS FAILED" in text
    assert re.search(r"\| hamming_distance, .* \| cpu \| error .*, allowed 0", text)
    assert "RuntimeError: no kernel.py" in text
    assert "secret" not in text


@pytest.mark.usefixtures("quick_timings")
def test_a_headline_that_disagrees_or_breaks_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def disagreeing(device: str, impl: str) -> _timings.Headline:
        return _timings.Headline("x", lambda: torch.ones(2), {"peer": lambda: torch.tensor([1.0, 1.1])}, 1e-3)

    def breaking(device: str, impl: str) -> _timings.Headline:
        raise torch.OutOfMemoryError("out of memory")

    first, second, third = _timings.timings("cpu", "cpu", (disagreeing, breaking, small_headline))
    assert (first.agrees, first.ok) == (False, False)
    assert (second.ok, second.cause) == (False, "OutOfMemoryError: out of memory")
    assert third.ok
    assert third.ratio > 0


def test_headlines_agree_with_their_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_timings, "GALLERY", 2000)
    for make in _timings.HEADLINES:
        headline = make("cpu", "cpu")
        assert headline.peers
        for peer in headline.peers.values():
            assert _check.difference(headline.ours(), peer()) <= headline.tolerance


# ---------------------------------------------------------------- devices


@pytest.mark.parametrize("name", ["tpu", "cuda", "cuda:7", "CPU"])
def test_a_device_that_is_not_there(name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cli.main(["doctor", "--device", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"device must be cpu, or all; got {name!r}. torch can use no GPU on this machine" in err


@pytest.mark.parametrize("version", ["2.3.1", "3.2.0", "3.2.0+git1234"])
def test_a_triton_too_old(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", version)
    assert f"Triton {version} is older than 3.6" in (_devices.triton_obstacle() or "")
    monkeypatch.setattr(triton, "__version__", "3.10.0")
    assert _devices.triton_obstacle() is None


def test_the_oldest_triton_is_that_of_the_package() -> None:
    wanted = re.search(r'"triton>=(\d+)\.(\d+)', (ROOT / "pyproject.toml").read_text())
    assert wanted is not None
    assert tuple(map(int, wanted.groups())) == _devices.OLDEST_TRITON


def test_a_gpu_whose_kernels_cannot_run(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_devices, "triton_import_error", lambda: "ModuleNotFoundError: No module named 'triton'")
    obstacle = _devices.triton_obstacle()
    assert obstacle is not None
    broken = _devices.Device(**(vars(GPU) | {"obstacle": obstacle}))
    monkeypatch.setattr(_devices, "_gpu", lambda index: broken)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert cli.main(["doctor", "--device", "cuda"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the kernels cannot run on cuda:0: Triton cannot be imported" in err
    assert 'pip install "triton>=3.6"' in err


def test_a_gpu_beside_the_cpu(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from orthohash_triton.doctor import _examination

    broken = _devices.Device(**(vars(GPU) | {"obstacle": "Triton 3.2.0 is older than 3.6"}))
    monkeypatch.setattr(_examination, "devices", lambda wanted: [_devices._cpu(), broken])
    monkeypatch.setattr(_examination, "_chosen", lambda case, device: device.impl)
    report = examine()
    assert not report["ok"]
    assert {check["device"] for check in report["checks"]} == {"cpu"}
    text = as_markdown(report)
    assert "| every op | cuda:0 | Triton 3.2.0 is older than 3.6 |" in text
    assert "NVIDIA H100 (sm_90), 132 multiprocessors, 79.1 GB, CUDA 13.0, driver 580.1" in text


def test_the_driver_is_found_in_either_wording(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (root@builder)",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024",
    ):
        monkeypatch.setattr(environment, "_first_line", lambda path, line=line: line)
        assert environment.gpu_driver() in ("580.95.05", "535.183.01")
    monkeypatch.setattr(environment, "_first_line", lambda path: None)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    assert environment.gpu_driver() is None


@pytest.mark.parametrize(
    ("machine", "flags", "target"),
    [
        ("x86_64", "sse avx2 popcnt", "x86-64, AVX2"),
        ("AMD64", "avx2 avx512_vpopcntdq", "x86-64, AVX-512 VPOPCNTDQ"),
        ("aarch64", "", "Arm, 64 bits"),
        ("riscv64", "", "riscv64"),
    ],
)
def test_the_processor_is_named_by_what_counts_bits(
    machine: str, flags: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.platform, "machine", lambda: machine)
    monkeypatch.setattr(environment, "_cpu_flags", lambda: set(flags.split()))
    assert environment.cpu_target() == target


def test_memory_that_is_not_free_is_told(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from orthohash_triton.doctor import _examination

    def full(device: str) -> float:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(_examination, "bandwidth", full)
    told = _examination._bandwidth("cpu")
    assert told == "OutOfMemoryError: no memory"
    assert "copy bandwidth not measured (OutOfMemoryError: no memory)" in as_markdown(report | {"bandwidth": {"cpu": told}})


def test_the_environment_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORTHOHASH_IMPL", "reference")
    (device,) = _devices.devices("cpu")
    assert "ORTHOHASH_IMPL=reference is set" in device.why
    monkeypatch.setenv("ORTHOHASH_IMPL", "gpu")
    (device,) = _devices.devices("cpu")
    assert "ORTHOHASH_IMPL=gpu is not one of auto" in device.why


def test_works_without_triton_and_the_extras(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('triton', 'faiss', 'rich', 'PIL', 'sklearn', 'safetensors', 'matplotlib', 'efficientnet_lite_pytorch'):\n"
        "    sys.modules[name] = None\n"
        "import orthohash_triton as oht, torch\n"
        "codes = oht.pack_codes(torch.eye(8))\n"
        "assert oht.hamming_topk(codes, codes, 1)[1].flatten().tolist() == list(range(8))\n"
        "from orthohash_triton.cli import main\n"
        "sys.exit(main(['doctor', '--device', 'cpu']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "all checks passed" in done.stdout
    assert "Triton cannot be imported" in done.stdout


@pytest.mark.usefixtures("quick_timings")
def test_json_on_standard_output_and_progress_on_standard_error(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orthohash_triton.doctor import _examination

    monkeypatch.setattr(_examination, "all_cases", cases.first_cases)
    assert cli.main(["doctor", "--selftest", "--device", "cpu", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["selftest"]
    assert report["bandwidth"]["cpu"] > 0
    assert [timing["peer"] for timing in report["timings"]] == ["another sum"]
    assert "cpu: hamming_topk\n" in err
    assert "cpu: timings" in err


# ---------------------------------------------------------------- the cases on a GPU


def test_the_grid_takes_every_way_on_a_gpu_and_compiles_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is run: the plans, and the launches that an H100 would compile, are compared."""
    pytest.importorskip("triton")
    from orthohash_triton.kernels import _pairwise_sweep, cosine_codebook_loss, hamming_topk

    plans: dict[str, list[Any]] = {}
    for module in (cosine_codebook_loss, hamming_topk, _pairwise_sweep):
        monkeypatch.setattr(module, "plan", _noting(module.plan, plans.setdefault(module.__name__.rpartition(".")[2], [])))
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, _zeroed(getattr(owner, name)))

    compiled = set()

    def note(call: Call) -> None:
        if "counts" in call.named:
            call.named["counts"].fill_(2000)  # more than any search requests
        options = call.warps, call.stages, call.most_registers, *sorted(call.constexprs.items())
        compiled.add((call.kernel, *map(_known_to_the_compiler, call.args), *options))

    with instead_of_launches(note, Device("sm_90", multiprocessors=132)):
        for case in cases.all_cases():
            if case.runs_on("cuda") and not case.is_plain:
                case.run(case.inputs(), "triton")
    assert {plan.path for plan in plans["hamming_topk"]} == {"dot", "bandwidth", "popcount", "count"}
    losses = plans["cosine_codebook_loss"]
    assert {(plan.chunked, plan.fuse_epilogue) for plan in losses} == {(False, True), (False, False), (True, False)}
    assert {plan.splits > 1 for plan in losses if not plan.chunked} == {False, True}
    assert {plan.one_tile for plan in plans["_pairwise_sweep"]} == {False, True}
    assert 40 < len(compiled) <= 80


def _noting(function: Callable[..., Any], found: list[Any]) -> Callable[..., Any]:
    def noting(*args: Any, **keywords: Any) -> Any:
        found.append(function(*args, **keywords))
        return found[-1]

    return noting


def _zeroed(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *args, **keywords: allocate(*args, **keywords).detach().zero_()


def _known_to_the_compiler(value: Any) -> Any:
    """Return the properties of arguments that need separate compilation: dtypes, None, the number 1, multiples of 16."""
    if isinstance(value, torch.Tensor):
        return value.dtype
    if isinstance(value, bool) or value is None or value == 1:
        return value
    return type(value), isinstance(value, int) and value % 16 == 0


def test_implementations_say_none_where_a_choice_is_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "triton_import_error", lambda: "ImportError: broken")
    monkeypatch.setenv("ORTHOHASH_IMPL", "triton")
    report = examine("cpu")
    assert report["implementations"]["hamming_topk"]["cpu"].startswith("none: RuntimeError: hamming_topk")
    assert "checked: cpu" in as_markdown(report)
    assert report["ok"]  # the CPU implementations themselves are right
