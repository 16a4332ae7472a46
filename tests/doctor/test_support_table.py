"""Tests that the table of hardware agrees with the reports."""

import json
from pathlib import Path

import pytest

from tools import family_sources
from tools import support_table as tool
from tools.family_sources import sources

ROOT = Path(__file__).parents[2]


def run(target: str = "sm_90", *, selftest: bool = True, passed: int = 3) -> dict:
    """Return a report in the format of `orthohash doctor --selftest --json`, of a GPU with three checks."""
    device = {"device": "cuda:0", "name": "NVIDIA H100", "target": target, "impl": "triton", "driver": "580.1"}
    return {
        "date": "2026-01-02",
        "selftest": selftest,
        "environment": {"packages": {"torch": "2.11.0", "triton": "3.6.0", "numba": "0.61"}},
        "devices": [device],
        "checks": [{"device": "cuda:0", "ok": i < passed} for i in range(3)] + [{"device": "cpu", "ok": True}],
    }


def counts(configurations: int, passed: int, *, slower: int = 0, old: tuple[str, ...] = ()) -> dict:
    """Return the sums of a target. The families `old` were compiled from other sources than the current ones."""
    sums = {"configurations": configurations, "passed": passed, "slower": slower}
    families = {name: {"sources": "0123" if name in old else digits} for name, digits in sources().items()}
    return {"date": "2026-01-01", "families": families, **sums}


MATRIX = {"triton": "3.9.0", "part": None, "kernels": "", "pairs": False, "targets": {"sm_80": counts(1200, 1199)}}


def row(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_pages_say_what_the_reports_say() -> None:
    for page in tool.PAGES:
        assert tool.block_of((ROOT / page).read_text()) == tool.current_table(), "run: python -m tools.support_table --write"


def test_committed_reports_are_whole() -> None:
    for report in tool.reports("ran_on/*.json", "run it"):
        assert report["selftest"]
        assert report["ok"]
        assert len(report["checks"]) > 40


def test_rows() -> None:
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


def test_pairs_add_nothing_to_the_whole() -> None:
    other = {"sm_80": counts(12, 12)}
    assert tool.table([MATRIX | {"pairs": True, "targets": other}, MATRIX], [run()]) == tool.table([MATRIX], [run()])


def test_pairs_of_the_present_kernels_say_more_than_all_of_earlier_ones() -> None:
    old = MATRIX | {"targets": {"sm_80": counts(1200, 1199, old=tuple(sources()))}}
    new = MATRIX | {"pairs": True, "targets": {"sm_80": counts(12, 12)}}
    assert row(tool.table([old, new], []), "NVIDIA sm_80")[1] == "Triton 3.9.0: 12 of 12 pairs of choices"


def test_what_is_slower_and_what_is_old_is_said() -> None:
    every = tuple(sources())
    targets = {"sm_86": counts(12, 10, slower=2), "sm_89": counts(12, 11, old=every), "sm_90": counts(12, 12, old=every[:2])}
    targets["sm_100"] = {name: value for name, value in counts(12, 12).items() if name != "families"}  # an older report
    text = tool.table([MATRIX | {"targets": targets}], [])
    assert row(text, "NVIDIA sm_86")[1] == "Triton 3.9.0: 10 of 12 configurations, 2 slower"
    assert row(text, "NVIDIA sm_89")[1] == "Triton 3.9.0: 11 of 12 configurations (earlier kernels)"
    old = ", ".join(sorted(every[:2]))
    assert row(text, "NVIDIA sm_90")[1] == f"Triton 3.9.0: 12 of 12 configurations (earlier kernels: {old})"
    assert row(text, "NVIDIA sm_100")[1] == "Triton 3.9.0: 12 of 12 configurations (earlier kernels)"


def test_sources_change_with_the_code_of_one_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    configurations = """
from orthohash_triton.kernels import a, b
SIZES = [1]
def _ends_of_ranges(): ...
def pairs(): ...
def first(): a.a(SIZES)
def second(): b.b()
FAMILIES = {"training": [first], "search": [second]}
"""
    for name in family_sources.CHECKS:
        write(name, "x = 1\n")
    write(family_sources.CONFIGURATIONS, configurations)
    write("kernels/a.py", "from ._shared import y\nx = 1\n")
    write("kernels/b.py", "x = 1\n")
    write("kernels/_shared.py", "y = 1\n")
    monkeypatch.setattr(family_sources, "ROOT", tmp_path)
    before = sources()
    assert list(before) == ["first", "second"]

    def changed() -> set[str]:
        now = sources()
        return {name for name in now if now[name] != before.get(name)}

    write("kernels/a.py", '"""Words."""\n\nfrom ._shared import y\nx = 1  # one\n')
    assert changed() == set()
    write("kernels/_shared.py", "y = 2\n")
    assert changed() == {"first"}
    write("kernels/_shared.py", "y = 1\n")
    write("kernels/b.py", "x = 2\n")
    assert changed() == {"second"}
    write("kernels/b.py", "x = 1\n")
    write(family_sources.CONFIGURATIONS, configurations.replace("[1]", "[2]"))
    assert changed() == {"first"}
    third = configurations.replace("second]}", "second, third]}") + "from orthohash_triton.kernels import c\ndef third(): c.c()\n"
    write(family_sources.CONFIGURATIONS, third)
    write("kernels/c.py", "x = 1\n")
    assert changed() == {"third"}
    write(family_sources.CONFIGURATIONS, configurations)
    write(family_sources.CHECKS[0], "x = 2\n")
    assert changed() == {"first", "second"}


def test_a_quick_report_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of `orthohash doctor --selftest --json`"):
        tool.table([], [run(selftest=False)])


def test_a_report_of_some_kernels_is_refused() -> None:
    with pytest.raises(ValueError, match="must not leave out kernels; got --kernels _sweep"):
        tool.table([MATRIX | {"kernels": "_sweep"}], [])


def test_reports_that_are_missing_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"compile_matrix\*.json; make it with `make compile-matrix`"):
        tool.current_table(tmp_path)
    (tmp_path / "compile_matrix.json").write_text(json.dumps(MATRIX))
    with pytest.raises(FileNotFoundError, match="orthohash doctor --selftest --json"):
        tool.current_table(tmp_path)
    (tmp_path / "ran_on").mkdir()
    (tmp_path / "ran_on" / "h100.json").write_text(json.dumps(run()))
    assert tool.current_table(tmp_path) == tool.table([MATRIX], [run()])


def test_writing_keeps_the_rest() -> None:
    empty = f"before\n\n{tool.BEGIN}\n{tool.END}\n\nafter\n"
    once = tool.with_block(empty, "| a |\n| b |")
    assert once == f"before\n\n{tool.BEGIN}\n| a |\n| b |\n{tool.END}\n\nafter\n"
    assert tool.block_of(once) == "| a |\n| b |"
    assert tool.with_block(once, "| c |") == f"before\n\n{tool.BEGIN}\n| c |\n{tool.END}\n\nafter\n"


@pytest.mark.parametrize("readme", ["", "<!-- support:begin -->\n", "<!-- support:begin -->\n<!-- support:end -->\n" * 2])
def test_markers_that_are_missing_or_repeated(readme: str) -> None:
    with pytest.raises(ValueError, match=r"the page must have <!-- support:begin -->"):
        tool.block_of(readme)
