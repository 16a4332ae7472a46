"""The self-test as Markdown, to paste into an issue."""

from collections.abc import Iterable, Sequence
from typing import Any

Report = dict[str, Any]


def as_markdown(report: Report) -> str:
    """Return the result of `examine` as Markdown tables.

    Example:
        >>> from orthohash_triton.doctor import as_markdown, examine
        >>> print(as_markdown(examine("cpu")).splitlines()[0])  # doctest: +ELLIPSIS
        **orthohash-triton ..., quick check of ...: all checks passed** (... of ..., ... s)
    """
    verdict = "all checks passed" if report["ok"] else "SOME CHECKS FAILED"
    name = "self-test" if report["selftest"] else "quick check"
    version = report["environment"]["packages"]["orthohash-triton"]
    parts = [
        f"**orthohash-triton {version}, {name} of {report['date']}: {verdict}** "
        f"({sum(check['ok'] for check in report['checks'])} of {len(report['checks'])}, {report['seconds']:.0f} s)",
        _table(["", ""], _machine(report)),
        _table(["op", *(device["device"] for device in report["devices"])], _ops(report)),
    ]
    if failures := list(_failures(report)):
        parts.append(_table(["failed", "device", "what"], failures))
    if report["timings"]:
        parts.append(_table(["median, ms", "device", "ours", "peer", "peer's", "peer / ours"], _times(report), right=(2, 4, 5)))
    return "\n\n".join(parts)


def _machine(report: Report) -> Iterable[list[str]]:
    """Yield the rows of the table of versions and devices."""
    env = report["environment"]
    yield ["Python", f"{env['python']} on {env['platform']}"]
    packages = (f"{name} {version or 'missing'}" for name, version in env["packages"].items() if name != "orthohash-triton")
    yield ["packages", ", ".join(packages)]
    for device in report["devices"]:
        facts = [f"{device['name']} ({device['target']})"]
        if device["device"] == "cpu":
            facts += [f"{env['cores']} cores, {env['threads']} threads"]
        else:
            facts += [f"{device['multiprocessors']} multiprocessors", f"{device['memory_gb']} GB", device["toolkit"] or ""]
            facts += [f"driver {device['driver']}" if device["driver"] else "driver unknown"]
        measured = report["bandwidth"].get(device["device"])
        if measured is not None:
            copies = (
                f"{measured / 1e9:,.0f} GB/s, read and written" if isinstance(measured, int) else f"not measured ({measured})"
            )
            facts += [f"copy bandwidth {copies}"]
        yield [device["device"], f"{', '.join(facts)}; {device['why']}"]


def _ops(report: Report) -> Iterable[list[str]]:
    """Yield the rows of the table of ops."""
    for op, chosen in report["implementations"].items():
        yield [op, *(_cell(report, op, device, impl) for device, impl in chosen.items())]


def _cell(report: Report, op: str, device: str, impl: str) -> str:
    """Return the selected implementation, the number of passed checks, and the error that is nearest to its limit."""
    checks = [check for check in report["checks"] if check["op"] == op and check["device"] == device]
    if not checks:
        return f"{impl}: not checked"
    taken = impl if impl == checks[0]["impl"] else f"{impl} (checked: {checks[0]['impl']})"
    right = f"{taken}: {sum(check['ok'] for check in checks)} of {len(checks)}"
    measured = [check for check in checks if check["allowed"]]
    if not measured:
        return right
    worst = max(measured, key=lambda check: check["error"] / check["allowed"])
    return f"{right}, error {worst['error']:.1e} of {worst['allowed']:.1e}"


def _failures(report: Report) -> Iterable[list[str]]:
    """Yield the rows of the table of failed checks and timings."""
    for device in report["devices"]:
        if device["obstacle"]:
            yield ["every op", device["device"], device["obstacle"]]
    for check in report["checks"]:
        if not check["ok"]:
            yield [f"{check['op']}, {check['case']}", check["device"], check["cause"] or _wrong(check)]
    for timing in report["timings"]:
        if not timing["ok"]:
            what = timing["cause"] or f"does not agree with {timing['peer']}"
            yield [timing["case"], timing["device"], what]


def _wrong(check: dict[str, Any]) -> str:
    """Return why a check failed that could be compared."""
    error = "" if check["error"] <= check["allowed"] else f"error {check['error']:.2e}, allowed {check['allowed']:.2e}"
    return ", ".join(part for part in (error, "" if check["repeatable"] else "two runs differ") if part)


def _times(report: Report) -> Iterable[list[str]]:
    """Yield the rows of the table of times."""
    for timing in report["timings"]:
        if timing["cause"] is None:
            yield [
                timing["case"], timing["device"], f"{timing['ours_ms']:,.2f}", timing["peer"], f"{timing['peer_ms']:,.2f}",
                f"{timing['ratio']:,.2f}",
            ]  # fmt: skip


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: tuple[int, ...] = ()) -> str:
    lines = [columns, ["---:" if i in right else "---" for i in range(len(columns))]]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
