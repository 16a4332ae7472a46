"""The self-test as plain values."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import torch

from .._base.environment import environment
from ..ops.dispatch import choose
from . import _timings
from ._check import cause_of, check, without_folders
from ._devices import Device, devices
from ._timings import Timing, bandwidth, timings
from .cases import Case, all_cases, first_cases


def examine(
    device: str | None = None, *, selftest: bool = False, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Return versions, devices, the implementations that impl="auto" selects, and checks of every op against its reference.

    Args:
        device: "cpu", "cuda" or "cuda:1"; None or "all" checks every device of this machine.
        selftest: check all cases instead of one per op, measure the headline cases and the memory bandwidth.
        progress: called with a line of text before each step.

    Returns:
        A dict that `json` can write, with "date", "selftest", "environment", "devices", "implementations" (of each op on each
        device), "checks", "timings", "bandwidth" (bytes per second, read and written, or why it was not measured), "seconds" and
        "ok", which is True if every implementation can run and every check passed. It contains no name of a machine, user or
        folder.

    Raises:
        ValueError: the device does not exist, or its kernels cannot run.

    Example:
        >>> from orthohash_triton.doctor import examine
        >>> report = examine("cpu")
        >>> report["ok"], report["implementations"]["hamming_topk"]
        (True, {'cpu': 'cpu'})
    """
    started = time.perf_counter()
    found = devices(device)
    working = [each for each in found if each.obstacle is None]
    grid = all_cases() if selftest else first_cases()
    checks = [check(case, each.device, each.impl) for each in working for case in _announced(grid, each, progress)]
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
    except RuntimeError as error:  # other programs use the memory, or a kernel has broken the device
        return cause_of(error)


def _announced(grid: Iterable[Case], device: Device, progress: Callable[[str], None]) -> Iterator[Case]:
    """Yield the cases for a device, and call `progress` before each op."""
    op = None
    for case in grid:
        if not case.runs_on(device.device):
            continue
        if case.op != op:
            progress(f"{device.device}: {case.op}")
        op = case.op
        yield case


def _chosen(case: Case, device: Device) -> str:
    """Return the implementation that impl="auto" selects on a device."""
    if case.is_plain:
        return "torch"
    try:
        return choose(case.op, "auto", torch.empty(0, device=device.device))
    except (ValueError, RuntimeError) as error:
        return f"none: {cause_of(error)}"


def _published(device: Device) -> dict[str, Any]:
    values = asdict(device)
    return values | {name: without_folders(values[name]) for name in ("why", "obstacle") if values[name]}
