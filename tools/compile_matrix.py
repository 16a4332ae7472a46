"""Compile every kernel in every configuration that a launcher can choose, for every GPU, and check the compiled code.

    python -m tools.compile_matrix --pairs                           # or: make compile-matrix
    python -m tools.compile_matrix                                   # every configuration; or: make compile-matrix-all
    python -m tools.compile_matrix --targets sm_90,gfx942 --part training --jobs 2
    python -m tools.compile_matrix --pairs --kernels _sweep_kernel
    python -m tools.compile_matrix --pairs --allow-slower            # with another Triton: make compat MATRIX=--pairs

No GPU is needed, because Triton's own tool chain compiles. The checks cover spills, registers, shared memory, threads, the size
of grids, atomics, integer sums that exceed 32 bits, and the instructions that a kernel was written for (tests/compiled.py,
tests/instructions.py). Figures are stored in a cache (--cache, or orthohash-triton/compiled in $XDG_CACHE_HOME or ~/.cache), so
that a second run compiles only what has changed. The exit status is 1 if a configuration fails.

Plans are chosen with the newest Triton. If another version spills registers, or does not use an instruction that the kernel was
written for, its code is still correct: the report counts such configurations separately, and with `--allow-slower` they do not
fail the run.
"""

import argparse
import ast
import functools
import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from tools.family_sources import CHECKS, CONFIGURATIONS, sources

ROOT = Path(__file__).parent.parent
PROGRESS = 30  # seconds between two reports of the progress


class Job(NamedTuple):
    """A configuration to compile for one target."""

    key: str
    target: str
    launch: Any  # tests.compiled.Launch
    family: str = ""  # the function of tests/kernels/configurations.py that lists it


class Verdict(Enum):
    """The verdict on the compiled code of one configuration."""

    PASSED = "passed"
    SLOWER = "slower"  # correct, but spills registers or lacks an instruction
    FAILED = "failed"


class Failure(Exception):
    """An error that prevents the start. Its message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile and check the selected configurations, print a summary, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", help="names of architectures, with commas between; all where left out")
    parser.add_argument(
        "--part", help=f'only "training" (losses and rotations), "search", or one family of {CONFIGURATIONS}, such as "packing"'
    )
    parser.add_argument(
        "--kernels", default="", metavar="PATTERN", help="only kernels whose name contains this regular expression"
    )
    parser.add_argument("--pairs", action="store_true", help="only as many as show any two choices of a kernel together")
    parser.add_argument("--allow-slower", action="store_true", help="status 0 also where registers spill or instructions lack")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that compile")
    parser.add_argument("--cache", type=Path, default=None, metavar="FOLDER", help="where figures are kept")
    parser.add_argument(
        "--report", type=Path, default=None, metavar="FILE", help="write the sums as JSON; those of other targets stay in it"
    )
    options = parser.parse_args(arguments)
    try:
        version = check_triton()
        check_numbers_and_patterns(options)
        targets = check_targets(options.targets)
        check_part(options.part)
        subject = {"triton": version, "part": options.part, "kernels": options.kernels, "pairs": options.pairs}
        reported = earlier_sums(options.report, subject)
        cache = Cache(options.cache or default_cache())
        jobs = all_jobs(options, targets)
    except Failure as failure:
        print(f"compile_matrix: {failure}", file=sys.stderr)
        return 2
    results = run(jobs, cache, options.jobs)
    print(summary(jobs, results, version))
    if options.report:
        sums = {**reported, **sums_by_target(jobs, results)}
        options.report.write_text(json.dumps({**subject, "targets": sums}, indent=2) + "\n")
    passing = {Verdict.PASSED, Verdict.SLOWER} if options.allow_slower else {Verdict.PASSED}
    return 0 if {judged(result) for result in results.values()} <= passing else 1


def check_triton() -> str:
    oldest = re.search(r'"triton>=([\d.]+)', (ROOT / "pyproject.toml").read_text())[1]
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        raise Failure(f"Triton is missing. Install it: pip install 'triton>={oldest}'") from None
    if _numbers(version) < _numbers(oldest):
        raise Failure(f"Triton {version} is too old. Install a newer one: pip install 'triton>={oldest}'")
    return version


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:2]]


def check_targets(names: str | None) -> list[str]:
    from tests.kernels.configurations import TARGETS

    wanted = names.split(",") if names else TARGETS
    if unknown := [name for name in wanted if name not in TARGETS]:
        raise Failure(f"--targets must be of {', '.join(TARGETS)}; got {', '.join(unknown)}")
    return wanted


def check_part(name: str | None) -> None:
    from tests.kernels.configurations import FAMILIES

    parts = [*FAMILIES, *(family.__name__ for families in FAMILIES.values() for family in families)]
    if name is not None and name not in parts:
        raise Failure(f"--part must be one of {', '.join(parts)}; got {name}")


def check_numbers_and_patterns(options: argparse.Namespace) -> None:
    if options.jobs < 1:
        raise Failure(f"--jobs must be at least 1; got {options.jobs}")
    try:
        re.compile(options.kernels)
    except re.error as error:
        raise Failure(f"--kernels must be a regular expression; got {options.kernels!r}: {error}") from None


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orthohash-triton" / "compiled"


def all_jobs(options: argparse.Namespace, targets: Sequence[str]) -> list[Job]:
    """Return the jobs of all targets. Listing takes half a minute per target, so several targets are listed in parallel."""
    jobs_of = functools.partial(_jobs_of, part=options.part, kernels=options.kernels, only_pairs=options.pairs)
    if len(targets) == 1:
        return jobs_of(targets[0])
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        return list(itertools.chain.from_iterable(pool.map(jobs_of, targets)))


def _jobs_of(target: str, part: str | None, kernels: str, only_pairs: bool) -> list[Job]:
    """Return the jobs of one target."""
    from tests.kernels.configurations import KERNELS, launches_by_family, pairs

    for module in KERNELS:  # line numbers are part of a kernel's hash, but do not change its code
        for kernel in vars(module).values():
            if hasattr(kernel, "starting_line_number"):
                kernel.starting_line_number = 1
    version = importlib.metadata.version("triton")
    checks = hashlib.sha256("".join(ast.dump(ast.parse((ROOT / name).read_text())) for name in CHECKS).encode()).hexdigest()
    by_family = launches_by_family(target, part)
    family_of = {launch.key: family for family, found in by_family.items() for launch in found}
    listed = list(itertools.chain.from_iterable(by_family.values()))
    jobs = []
    for launch in pairs(listed) if only_pairs else listed:
        if re.search(kernels, launch.kernel):
            sizes = sorted(launch.sizes)
            parts = (version, target, checks, launch.source().hash(), sorted(launch.options.items()), sizes)
            jobs.append(Job(hashlib.sha256(repr(parts).encode()).hexdigest(), target, launch, family_of[launch.key]))
    return jobs


class Cache:
    """Figures by key, in one file with one line of JSON per key. The file is only appended to."""

    def __init__(self, folder: Path) -> None:
        """Open the file in `folder`, which is created if it does not exist. Raises Failure if the file is not writable."""
        self.path = folder / "figures.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a+")
        except OSError as error:
            raise Failure(
                f"cannot write to the cache {folder}: {error.strerror}. Name another folder with --cache or $XDG_CACHE_HOME"
            ) from None
        self.file.seek(0)
        lines = [json.loads(line) for line in self.file if line.endswith("}\n")]
        self.known = {line.pop("key"): line for line in lines}

    def add(self, key: str, figures: dict[str, Any]) -> None:
        self.known[key] = figures
        self.file.write(json.dumps({"key": key, **figures}) + "\n")
        self.file.flush()


def figures(launch: Any, target: str) -> dict[str, Any]:
    """Compile one configuration, and return its figures or the error of the compiler."""
    from tests.instructions import expected

    try:
        compiled = launch.compile(target)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    pattern = expected(compiled)
    missing = [] if pattern is None or compiled.contains(pattern) else [f"lacks {pattern}"]
    return {
        "registers": compiled.registers,
        "spilled": compiled.spilled,
        "shared": compiled.shared,
        "threads": compiled.threads,
        "defects": [*compiled.defects(), *missing],
    }


def problems(result: dict[str, Any]) -> list[str]:
    return [result["error"]] if "error" in result else result["defects"]


def judged(result: dict[str, Any]) -> Verdict:
    if "error" in result or not all(defect.startswith(("spills ", "lacks ")) for defect in result["defects"]):
        return Verdict.FAILED
    return Verdict.SLOWER if result["defects"] else Verdict.PASSED


def run(jobs: Sequence[Job], cache: Cache, processes: int) -> dict[str, dict[str, Any]]:
    """Return the figures of every job by key. Jobs that are not in the cache are compiled, and problems are printed."""
    # The keys are hashes, so this order is random: the remaining time can be estimated, and failures appear early.
    pending = sorted({job.key: job for job in jobs if job.key not in cache.known}.values(), key=lambda job: job.key)
    print(f"{len(jobs)} configurations, {len(jobs) - len(pending)} known, {len(pending)} to compile", flush=True)
    for job in jobs:
        if job.key in cache.known:
            print_problems(job, cache.known[job.key])
    started = shown = time.monotonic()
    workers = [Worker() for _ in range(min(processes, len(pending)))]
    try:
        for done, (job, found) in enumerate(_results(pending, workers), 1):
            cache.add(job.key, found)
            print_problems(job, found)
            if time.monotonic() - shown > PROGRESS:
                shown = time.monotonic()
                left = (shown - started) / done * (len(pending) - done)
                print(f"{done} of {len(pending)}, about {left / 60:.0f} minutes left", flush=True)
    finally:
        for worker in workers:
            worker.stop()
    return {job.key: cache.known[job.key] for job in jobs}


def print_problems(job: Job, result: dict[str, Any]) -> None:
    for problem in problems(result):
        print(f"{judged(result).name} {job.target} {job.launch.kernel}: {problem}: {describe(job.launch)}", flush=True)


def _results(pending: Sequence[Job], workers: Sequence["Worker"]) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield the jobs with their figures, in the order in which the workers finish them."""
    waiting = iter(pending)
    for worker in workers:
        worker.start(next(waiting))
    busy = list(workers)
    while busy:
        for ready in multiprocessing.connection.wait([worker.answers for worker in busy]):
            worker = next(worker for worker in busy if worker.answers is ready)
            job, found = worker.result()
            following = next(waiting, None)
            if following is None:
                busy.remove(worker)
            else:
                worker.start(following)
            yield job, found


class Worker:
    """A process that compiles. It is started again if a crash of the compiler ends it."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.folder = tempfile.mkdtemp(prefix="compile-matrix-")
        self._spawn()

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.answers, child = context.Pipe()
        self.process = context.Process(target=_work, args=(child, self.folder), daemon=True)
        self.process.start()
        child.close()

    def start(self, job: Job) -> None:
        self.job = job
        self.answers.send((job.launch, job.target))

    def result(self) -> tuple[Job, dict[str, Any]]:
        try:
            return self.job, self.answers.recv()
        except EOFError:
            self.process.join()
            written = (Path(self.folder) / "stderr").read_text(errors="replace")
            reason = re.search(r"[^\n]*(Assertion|LLVM ERROR|error:)[^\n]*", written)
            ended = f"the compiler ended its process with exit code {self.process.exitcode}"
            self._spawn()
            return self.job, {"error": f"{ended}: {reason[0].strip()[:300]}" if reason else ended}

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        shutil.rmtree(self.folder, ignore_errors=True)


def _work(orders: Any, folder: str) -> None:
    """Compile the launches received from `orders` until the connection is closed: the main function of a worker process."""
    messages = os.open(f"{folder}/stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(messages, 2)
    os.environ["TRITON_CACHE_DIR"] = f"{folder}/triton"
    while True:
        try:
            launch, target = orders.recv()
        except EOFError:
            return
        orders.send(figures(launch, target))
        shutil.rmtree(f"{folder}/triton", ignore_errors=True)
        os.ftruncate(messages, 0)


def describe(launch: Any) -> str:
    """Return the configuration in one line, without the properties that all launches share."""
    absent = [name for (place,), value in launch.constants.items() if value is None for name in [list(launch.signature)[place]]]
    types = sorted(set(launch.signature.values()) - {"constexpr", "i32", "fp32", "*fp32", "*i32", "*i64"})
    options = " ".join(f"{name}={value}" for name, value in launch.options.items())
    return f"{launch.constexprs} {options} types={types} absent={absent}"


def summary(jobs: Sequence[Job], results: dict[str, dict[str, Any]], version: str) -> str:
    """Return the table of passed, slower and failed configurations as text."""
    lines = [f"Triton {version}", f"{'target':<10}{'configurations':>15}{'passed':>8}{'slower':>8}{'failed':>8}"]
    for target, sums in sums_by_target(jobs, results).items():
        count, passed, slower = (sums[name] for name in ("configurations", "passed", "slower"))
        lines.append(f"{target:<10}{count:>15}{passed:>8}{slower:>8}{count - passed - slower:>8}")
    verdicts = Counter((job.target, job.launch.kernel, judged(results[job.key]).value) for job in jobs)
    lines += [
        f"  {target} {kernel}: {count} {how}" for (target, kernel, how), count in sorted(verdicts.items()) if how != "passed"
    ]
    return "\n".join(lines)


def sums_by_target(jobs: Sequence[Job], results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the numbers of configurations of each target and family, by verdict."""
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    nothing = {"configurations": 0, "passed": 0, "slower": 0}
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        sums = found.setdefault(job.target, {"date": today, **nothing, "families": {}})
        family = sums["families"].setdefault(job.family, dict(nothing))
        verdict = judged(results[job.key])
        for counts in (sums, family):
            counts["configurations"] += 1
            counts["passed"] += verdict is Verdict.PASSED
            counts["slower"] += verdict is Verdict.SLOWER
    now = sources()
    for sums in found.values():
        for name, family in sums["families"].items():
            family["sources"] = now.get(name, "")
    return found


def earlier_sums(report: Path | None, subject: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sums in an existing report, which must have the same compiler and selection of configurations as this run."""
    if report is None or not report.exists():
        return {}
    try:
        held = json.loads(report.read_text())
    except (OSError, ValueError):
        held = None
    if not isinstance(held, dict) or "targets" not in held:
        raise Failure(f"--report must be a new file or a report of this tool; got {report}")
    sums = held.pop("targets")
    if held != subject:
        raise Failure(f"{report} is a report of {json.dumps(held)}, and this run of {json.dumps(subject)}. Name another file")
    return sums


if __name__ == "__main__":
    sys.exit(main())
