"""The table of supported hardware, made from reports: targets that the kernels compile for, and devices on which they ran.

    python -m tools.support_table            # print the table
    python -m tools.support_table --write    # put it between the two marker comments of README.md and docs/hardware.md

"Compiles for" comes from bench/results/compile_matrix*.json (`make compile-matrix`), "ran on" from bench/results/ran_on/*.json,
the output of `orthohash doctor --selftest --json`. A target that was compiled before the kernels changed is marked.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.family_sources import sources

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
PAGES = ("README.md", "docs/hardware.md")
BEGIN, END = "<!-- support:begin -->", "<!-- support:end -->"

# Targets that the kernels are compiled for, with GPUs that have them.
TARGETS = {
    "sm_80": "NVIDIA sm_80 (A100)",
    "sm_86": "NVIDIA sm_86 (A10, RTX 30)",
    "sm_89": "NVIDIA sm_89 (L4, L40, RTX 40)",
    "sm_90": "NVIDIA sm_90 (H100, H200)",
    "sm_100": "NVIDIA sm_100 (B200)",
    "sm_120": "NVIDIA sm_120 (RTX 50)",
    "gfx90a": "AMD gfx90a (MI200)",
    "gfx942": "AMD gfx942 (MI300)",
    "gfx950": "AMD gfx950 (MI350)",
    "gfx1100": "AMD gfx1100 (RX 7900)",
}
PROCESSORS = ("x86-64, AVX2", "x86-64, AVX-512 VPOPCNTDQ", "Arm, 64 bits")
NOT_YET = "not yet"


def table(matrices: Iterable[dict[str, Any]], runs: Iterable[dict[str, Any]]) -> str:
    """Return the table as Markdown, with one row for each target in the reports, in TARGETS and in PROCESSORS."""
    compiled, ran = _compiled(matrices), _ran(runs)
    processors = [target for target in ran if not target.startswith(("sm_", "gfx"))]
    gpus = [target for target in (*compiled, *ran) if target.startswith(("sm_", "gfx"))]
    lines = ["| hardware | compiles for | ran on |", "| --- | --- | --- |"]
    for target in dict.fromkeys((*PROCESSORS, *processors)):
        lines.append(f"| CPU, {target} | on the machine itself (Numba) | {_cell(ran, target)} |")
    for target in dict.fromkeys((*TARGETS, *gpus)):
        lines.append(f"| {TARGETS.get(target, target)} | {_cell(compiled, target)} | {_cell(ran, target)} |")
    return "\n".join(lines)


def _cell(found: dict[str, list[str]], target: str) -> str:
    return "; ".join(found.get(target, [])) or NOT_YET


def _compiled(matrices: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """Return, by target, the results of the best report of the compile matrix."""
    found: dict[str, list[str]] = {}
    now = sources()
    best: dict[tuple[str, str, str], tuple[dict[str, Any], dict[str, Any], str]] = {}
    for matrix in sorted(matrices, key=lambda matrix: (matrix["pairs"], matrix["triton"], matrix["part"] or "")):
        if matrix["kernels"]:
            raise ValueError(f"a report of the compile matrix must not leave out kernels; got --kernels {matrix['kernels']}")
        for target, counts in matrix["targets"].items():
            subject, age = (target, matrix["triton"], matrix["part"]), _age(counts.get("families", {}), now)
            # A report on all configurations replaces one on pairs, unless only the latter was made from the current kernels.
            if subject not in best or (best[subject][2] and not age):
                best[subject] = matrix, counts, age
    for (target, *_), (matrix, counts, age) in best.items():
        passed = f"{counts['passed']:,} of {counts['configurations']:,}"
        of = "pairs of choices" if matrix["pairs"] else "configurations"
        what = f"{matrix['part']}, " if matrix["part"] else ""
        slower = f", {counts['slower']} slower" if counts["slower"] else ""
        found.setdefault(target, []).append(f"Triton {matrix['triton']}: {what}{passed} {of}{slower}{age}")
    return found


def _age(families: dict[str, dict[str, Any]], now: dict[str, str]) -> str:
    """Return a note in brackets that names the families of kernels that changed after they were compiled; "" if none did."""
    old = sorted(name for name, counts in families.items() if counts["sources"] != now.get(name))
    if families and not old:
        return ""
    return f" (earlier kernels: {', '.join(old)})" if len(old) < len(families) else " (earlier kernels)"


def _ran(runs: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """Return, by target, the devices on which the self-test ran, with the numbers of passed checks."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if not run["selftest"]:
            raise ValueError("a report in ran_on must be one of `orthohash doctor --selftest --json`; got one without --selftest")
        versions = run["environment"]["packages"]
        for device in run["devices"]:
            checks = [check["ok"] for check in run["checks"] if check["device"] == device["device"]]
            facts = [device["name"], f"torch {versions['torch']}"]
            facts += [f"Triton {versions['triton']}" if device["impl"] == "triton" else f"Numba {versions['numba']}"]
            facts += [f"driver {device['driver']}"] if device["driver"] else []
            said = f"{', '.join((*facts, run['date']))}: {sum(checks)} of {len(checks)} checks"
            found.setdefault(device["target"], []).append(said)
    return found


def reports(pattern: str, what: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the reports that match `pattern`, by file name. Raises FileNotFoundError, with the advice `what`, without any."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"there is no {folder / pattern}; {what}")
    return [json.loads(path.read_text()) for path in files]


def current_table(folder: Path = RESULTS) -> str:
    """Return the table made from the committed reports. Raises FileNotFoundError if the reports of one kind are missing."""
    matrices = reports("compile_matrix*.json", "make it with `make compile-matrix`", folder)
    return table(matrices, reports("ran_on/*.json", "`orthohash doctor --selftest --json` prints one", folder))


def block_of(page: str) -> str:
    """Return the text between the markers. Raises ValueError unless each marker occurs exactly once."""
    found = re.findall(f"{re.escape(BEGIN)}\n(.*?)\n?{re.escape(END)}", page, flags=re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"the page must have {BEGIN} and {END} once each, on lines of their own; found {len(found)} pairs")
    return found[0]


def with_block(page: str, new: str) -> str:
    old = block_of(page)
    return page.replace(f"{BEGIN}\n{old}", f"{BEGIN}\n{new}" + ("" if old else "\n"))


def main(arguments: list[str] | None = None) -> int:
    """Print the table or write it into the pages, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write it into {' and '.join(PAGES)} instead of printing it")
    options = parser.parse_args(arguments)
    try:
        new = current_table()
        if options.write:
            for page in (ROOT / name for name in PAGES):
                page.write_text(with_block(page.read_text(), new))
        else:
            print("\n".join((BEGIN, new, END)))
    except (OSError, ValueError) as error:
        print(f"support_table: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
