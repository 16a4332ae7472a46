"""Free memory of a device, and the refusal of answers that it cannot hold."""

from pathlib import Path

import torch

_MEMORY_INFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")  # the limits of a container


def available_bytes(device: torch.device) -> int | None:
    """Return the number of bytes that can still be allocated on `device`; None if the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = [size for size in (_of_machine(), _of_group()) if size is not None]
    return min(found) if device.type == "cpu" and found else None


def _of_machine() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY_INFO.read_text(encoding="utf-8").splitlines() if ":" in line)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, LookupError, ValueError):
        return None


def _of_group() -> int | None:
    try:
        most, used = (int((_GROUP / name).read_text(encoding="utf-8")) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (_GROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
        return max(0, most - used + int(statistics.get("inactive_file", 0)))
    except (OSError, ValueError):  # no such files, or "max" for no limit
        return None


def require_room(op: str, needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Raise MemoryError if `needed` bytes are more than `device` has: `what` needs them, and `remedy` says what to do."""
    free = available_bytes(device)
    if free is not None and needed > free:
        raise MemoryError(
            f"{op}: {what}, which takes {needed / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free. {remedy}"
        )
