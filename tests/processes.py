"""Functions that run tests in several processes of a gloo group."""

import faulthandler
import json
import os
import runpy
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def in_two_processes(work: Callable[..., None], *arguments: Any) -> dict[Any, Any]:
    """Run `work(rank, results, *arguments)` in both processes of a gloo group, and return what they put into `results`."""
    context, port = fresh_processes(), free_port()
    with context.Manager() as manager:
        results = manager.dict()
        mp.start_processes(_in_group, (port, work, results, arguments), nprocs=2, start_method=context.get_start_method())
        return dict(results)


def _in_group(rank: int, port: int, work: Callable[..., None], results: Any, arguments: tuple[Any, ...]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    work(rank, results, *arguments)
    dist.destroy_process_group()


def fresh_processes() -> Any:
    """Return a multiprocessing context for processes that share nothing with this one and start fast.

    Each process is forked from a server process that has imported torch and the package once, instead of importing them again.
    """
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "orthohash_triton.search", "orthohash_triton.runs"])
    return context


def run_script(path: Path, *arguments: str, processes: int, folder: Path, seconds: float = 120) -> str:
    """Run a script in `folder` with the environment of torchrun, in fresh processes; return the output of process 0.

    Raises:
        AssertionError: a process failed, or did not end in time; the message has the output of all processes.
    """
    context, port = fresh_processes(), free_port()
    outputs = [folder / f"output.{rank}" for rank in range(processes)]
    started = [
        context.Process(target=_script, args=(path, arguments, folder, rank, processes, port)) for rank in range(processes)
    ]
    for process in started:
        process.start()
    try:
        end = time.monotonic() + seconds
        for process in started:
            process.join(max(0.0, end - time.monotonic()))
        failed = [process.exitcode for process in started if process.exitcode != 0]
        assert not failed, "\n".join(output.read_text() for output in outputs if output.exists())
    finally:
        for process in started:
            process.kill()
            process.join()
    return outputs[0].read_text()


def _script(path: Path, arguments: tuple[str, ...], folder: Path, rank: int, processes: int, port: int) -> None:
    os.chdir(folder)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    torch.set_num_threads(1)
    sys.argv = [str(path), *arguments]
    with open(folder / f"output.{rank}", "w") as output:
        sys.stdout = sys.stderr = output
        try:
            runpy.run_path(str(path), run_name="__main__")
        except BaseException:
            traceback.print_exc()
            sys.exit(1)


@dataclass(frozen=True)
class Outcomes:
    """The results of the checks that several ranks ran."""

    failures: dict[str, dict[int, str | None]]  # by check and rank: a text if the check failed, None if it passed
    stopped: str | None  # the first check that failed on any rank; the checks after it did not run


_START = 180.0  # seconds that processes may take until their first report, on a machine that may be busy

Work = Callable[..., Iterator[tuple[str, str | None]]]


def run_checks(work: Work, ranks: int, folder: Path, patience: float, *arguments: Any) -> Outcomes:
    """Run `work(rank, folder, *arguments)` in processes, until all end or one check fails on any rank.

    `work` is a generator: it yields (name, None) before each check, and ("", failure) after it, where failure is None or a text.
    When a check fails, the other ranks may wait for a message that never comes, so their processes are ended. When no check
    begins or ends for `patience` seconds, the checks that are running fail, with the places in the code where they wait.
    """
    context = fresh_processes()
    processes = [context.Process(target=_report, args=(work, rank, folder, patience, arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    try:
        return _watched(processes, folder, patience)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _watched(processes: list[Any], folder: Path, patience: float) -> Outcomes:
    """Read the reports of the processes until they end, one fails, or none makes progress."""
    reports: list[list[Any]] = []
    last_change = time.monotonic()
    while True:
        running = any(process.is_alive() for process in processes)
        news = [_events(folder, rank) for rank in range(len(processes))]
        if news != reports:
            reports, last_change = news, time.monotonic()
        failed = any(failure is not None for events in reports for _, failure in events)
        crashed = any(process.exitcode not in (None, 0) for process in processes)
        if not running or failed or crashed or time.monotonic() - last_change > (patience if any(reports) else _START):
            break
        time.sleep(0.05)
    if failed or crashed:  # other ranks may be about to report the same failure
        for process in processes:
            process.join(timeout=1)
    return _outcomes(processes, folder, patience)


def _outcomes(processes: list[Any], folder: Path, patience: float) -> Outcomes:
    """Return the results of the checks that ended, and failures for those that a failed or silent process did not end."""
    failures: dict[str, dict[int, str | None]] = {}
    unfinished = {}
    for rank in range(len(processes)):
        events = _events(folder, rank)
        for (name, _), (_, failure) in zip(events[::2], events[1::2], strict=False):
            failures.setdefault(name, {})[rank] = failure
        if len(events) % 2:
            unfinished[rank] = events[-1][0]
    codes = [process.exitcode for process in processes]
    wrong = [name for rank, name in unfinished.items() if codes[rank] not in (None, 0)]
    wrong += [name for name, of_ranks in failures.items() if any(of_ranks.values())]
    wrong = wrong or [*unfinished.values()]  # no check failed: all of them wait
    for rank, name in unfinished.items():
        if name in wrong:
            failures.setdefault(name, {})[rank] = _unfinished(codes[rank], folder, rank, patience)
    if not wrong and any(codes):
        return Outcomes(failures, f"the start or the end of the processes, which ended with {codes}")
    return Outcomes(failures, wrong[0] if wrong else None)


def _unfinished(code: int | None, folder: Path, rank: int, patience: float) -> str:
    if code not in (None, 0):
        return f"the process ended with {code}"
    stack = (folder / f"stack.{rank}").read_text()
    return f"no answer, as another rank failed or {patience:.0f} seconds passed\n{stack}"


def _events(folder: Path, rank: int) -> list[Any]:
    """Return what a process has reported in whole lines."""
    path = folder / f"report.{rank}"
    return [json.loads(line) for line in path.read_text().rpartition("\n")[0].splitlines()] if path.exists() else []


def _report(work: Work, rank: int, folder: Path, patience: float, arguments: Any) -> None:
    torch.set_num_threads(1)
    with open(folder / f"report.{rank}", "w") as file, open(folder / f"stack.{rank}", "w") as stack:
        for event in work(rank, folder, *arguments):
            file.write(json.dumps(event) + "\n")
            file.flush()
            faulthandler.dump_traceback_later(0.8 * patience, file=stack)
            if event[1] is not None:
                time.sleep(patience)  # the end of this process would make checks of other groups fail; the caller ends it
        faulthandler.cancel_dump_traceback_later()
