"""The table of hardware is what the reports say."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("support_table", ROOT / "tools" / "support_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(target: str = "sm_90", *, selftest: bool = True, passed: int = 3) -> dict:
    """A report as `orthohash doctor --selftest --json` prints it, of a GPU with three checks."""
    device = {"device": "cuda:0", "name": "NVIDIA H100", "target": target, "impl": "triton", "driver": "580.1"}
    return {
        "date": "2026-01-02",
        "selftest": selftest,
        "environment": {"packages": {"torch": "2.11.0", "triton": "3.6.0", "numba": "0.61"}},
        "devices": [device],
        "checks": [{"device": "cuda:0", "ok": i < passed} for i in range(3)] + [{"device": "cpu", "ok": True}],
    }


MATRIX = {
    "triton": "3.9.0", "part": None, "kernels": "", "pairs": False,
    "targets": {"sm_80": {"date": "2026-01-01", "configurations": 1200, "passed": 1199}},
}  # fmt: skip


def row(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_pages_say_what_the_reports_say(tool: ModuleType) -> None:
    for page in tool.PAGES:
        assert tool.block_of((ROOT / page).read_text()) == tool.current_table()


def test_committed_reports_are_whole(tool: ModuleType) -> None:
    for report in tool.reports("ran_on/*.json", "run it"):
        assert report["selftest"]
        assert report["ok"]
        assert len(report["checks"]) > 40


def test_rows(tool: ModuleType) -> None:
    some = MATRIX | {"triton": "3.6.0", "part": "search", "pairs": True}
    text = tool.table([MATRIX, some], [run(), run("gfx1200", passed=2)])
    assert row(text, "NVIDIA sm_80")[1:] == [
        "Triton 3.9.0: 1,199 of 1,200 configurations; Triton 3.6.0: search, 1,199 of 1,200 pairs of choices", "not yet",
    ]  # fmt: skip
    assert row(text, "NVIDIA sm_90")[1:] == [
        "not yet", "NVIDIA H100, torch 2.11.0, Triton 3.6.0, driver 580.1, 2026-01-02: 3 of 3 checks",
    ]  # fmt: skip
    assert row(text, "gfx1200")[2].endswith("2 of 3 checks")
    assert row(text, "CPU, Arm")[1:] == ["on the machine itself (Numba)", "not yet"]
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_pairs_add_nothing_to_the_whole(tool: ModuleType) -> None:
    other = {"sm_80": {"date": "2026-01-01", "configurations": 12, "passed": 12}}
    assert tool.table([MATRIX | {"pairs": True, "targets": other}, MATRIX], [run()]) == tool.table([MATRIX], [run()])


def test_a_quick_report_is_refused(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match="must be one of `orthohash doctor --selftest --json`"):
        tool.table([], [run(selftest=False)])


def test_a_report_of_some_kernels_is_refused(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match="must not leave out kernels; got --kernels _sweep"):
        tool.table([MATRIX | {"kernels": "_sweep"}], [])


def test_reports_that_are_missing_are_told(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"compile_matrix\*.json; make it with `make compile-matrix`"):
        tool.current_table(tmp_path)
    (tmp_path / "compile_matrix.json").write_text(json.dumps(MATRIX))
    with pytest.raises(FileNotFoundError, match="orthohash doctor --selftest --json"):
        tool.current_table(tmp_path)
    (tmp_path / "ran_on").mkdir()
    (tmp_path / "ran_on" / "h100.json").write_text(json.dumps(run()))
    assert tool.current_table(tmp_path) == tool.table([MATRIX], [run()])


def test_writing_keeps_the_rest(tool: ModuleType) -> None:
    empty = f"before\n\n{tool.BEGIN}\n{tool.END}\n\nafter\n"
    once = tool.with_block(empty, "| a |\n| b |")
    assert once == f"before\n\n{tool.BEGIN}\n| a |\n| b |\n{tool.END}\n\nafter\n"
    assert tool.block_of(once) == "| a |\n| b |"
    assert tool.with_block(once, "| c |") == f"before\n\n{tool.BEGIN}\n| c |\n{tool.END}\n\nafter\n"


@pytest.mark.parametrize("readme", ["", "<!-- support:begin -->\n", "<!-- support:begin -->\n<!-- support:end -->\n" * 2])
def test_markers_that_are_missing_or_repeated(tool: ModuleType, readme: str) -> None:
    with pytest.raises(ValueError, match=r"the page must have <!-- support:begin -->"):
        tool.block_of(readme)
