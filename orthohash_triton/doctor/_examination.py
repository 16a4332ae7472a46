"""The whole check-up, as plain values."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import torch

from .._base.environment import environment
from ..ops.dispatch import choose
from . import _timings
from ._cases import Case, cases, first_cases
from ._check import cause_of, check, without_folders
from ._devices import Device, devices
from ._timings import Timing, bandwidth, timings


def examine(
    device: str | None = None, *, selftest: bool = False, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Versions, devices, what impl="auto" takes there, and checks of every op against its reference.

    Args:
        device: "cpu", "cuda", "cuda:1"; None or "all" for every device of this machine.
        selftest: the whole grid of cases instead of one an op, the headline cases timed, the memory's bandwidth.
        progress: is told what is done next.

    Returns:
        date, selftest, environment, devices, implementations (of each op on each device), checks, timings, bandwidth (bytes a
        second, read and written, or why there are none) and seconds. `ok` says whether every implementation can run and every
        check passed. Nothing in it names the machine, a person or a folder.

    Raises:
        ValueError: for a device that is not there, or whose kernels cannot run.
    """
    started = time.perf_counter()
    found = devices(device)
    working = [each for each in found if each.obstacle is None]
    grid = cases() if selftest else first_cases()
    checks = [check(case, each.device, each.impl) for each in working for case in _told(grid, each, progress)]
    timed: list[Timing] = []
    bandwidths: dict[str, int | str] = {}
    for each in working if selftest else []:
        progress(f"{each.device}: timings of {len(_timings.HEADLINES)} headline cases")
        timed += list(timings(each.device, each.impl, _timings.HEADLINES))
        bandwidths[each.device] = _bandwidth(each.device)
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "selftest": selftest,
        "environment": environment(),
        "devices": [_published(each) for each in found],
        "implementations": {case.op: {each.device: _chosen(case, each) for each in found} for case in grid},
        "checks": [asdict(each) | {"ok": each.ok} for each in checks],
        "timings": [asdict(each) | {"ok": each.ok} for each in timed],
        "bandwidth": bandwidths,
        "seconds": round(time.perf_counter() - started, 1),
        "ok": len(working) == len(found) and all(each.ok for each in checks) and all(each.ok for each in timed),
    }


def _bandwidth(device: str) -> int | str:
    try:
        return round(bandwidth(device))
    except RuntimeError as error:  # a card that others fill; a device that a kernel has broken
        return cause_of(error)


def _told(grid: Iterable[Case], device: Device, progress: Callable[[str], None]) -> Iterator[Case]:
    """The cases of a device, each op told first."""
    op = None
    for case in grid:
        if not case.runs_on(device.device):
            continue
        if case.op != op:
            progress(f"{device.device}: {case.op}")
        op = case.op
        yield case


def _chosen(case: Case, device: Device) -> str:
    """What impl="auto" takes on a device."""
    if case.plain:
        return "torch"
    try:
        return choose(case.op, "auto", torch.empty(0, device=device.device))
    except (ValueError, RuntimeError) as error:
        return f"none: {cause_of(error)}"


def _published(device: Device) -> dict[str, Any]:
    values = asdict(device)
    return values | {name: without_folders(values[name]) for name in ("why", "obstacle") if values[name]}
