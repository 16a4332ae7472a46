"""The fuzzing of one reader: its valid files are damaged at random, and it must read them rightly or refuse them clearly."""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

from tests.fuzz.damage import damaged
from tests.fuzz.limits import FREE_BYTES, SECONDS, Hang, limited, out_of_memory

_SHOWN = 8  # different failures in a message


@dataclass(frozen=True)
class Target:
    """A reader, or several that read the files of one folder.

    Attributes:
        name: its name in messages and in `pytest -k`.
        make: write valid files into an empty folder.
        read: read the files in the folder.
        readers: the functions that are exercised, by their names in `reading.READERS` without the name of the package.
        files: names of the files that are damaged; all of the folder if there are none.
        check: raise AssertionError unless the result of `read` is consistent.
        words: words of the format.
        inputs: number of inputs in the short run.
        free_bytes: memory that may be allocated besides ten times the size of the files.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    readers: tuple[str, ...]
    files: tuple[str, ...] = ()
    check: Callable[[object], None] = lambda result: None
    words: tuple[bytes, ...] = ()
    inputs: int = 100
    free_bytes: int = FREE_BYTES


@dataclass
class Outcome:
    """The result of many inputs.

    Attributes:
        accepted: number of inputs that were read.
        refused: number of inputs that were refused with a clear error.
        failures: the first input of each different failure, with its description.
    """

    accepted: int = 0
    refused: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.accepted:,} accepted, {self.refused:,} refused, {len(self.failures)} kinds of failures"


def run(target: Target, folder: Path) -> Outcome:
    """Read damaged files of `target` in `folder`, which must be empty, and return what happened.

    Environment variables: FUZZ_SECONDS is the time to spend, FUZZ_INPUTS the number of inputs (by default a few, which are always
    the same), FUZZ_FIRST the number of the first input.
    """
    target.make(folder)
    contents = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    target.check(target.read(folder))  # this also imports and starts everything that the reader needs
    outcome = Outcome()
    for number in _numbers(target):
        rng = Random(f"{target.name} {number}")
        name = rng.choice([name for name in contents if not target.files or str(name) in target.files])
        content = damaged(contents[name], rng, target.words)
        (folder / name).write_bytes(content)
        failure = _try(target, folder, sum(map(len, contents.values())) + len(content), outcome)
        if failure is not None and len(outcome.failures) < _SHOWN:
            kind, text = failure
            outcome.failures.setdefault(kind, f"input {number} of {target.name}, {name} {content[:120]!r}: {text}")
        (folder / name).write_bytes(contents[name])
    return outcome


def _numbers(target: Target) -> Iterator[int]:
    """Yield the numbers of the inputs to try."""
    seconds, inputs = os.environ.get("FUZZ_SECONDS"), os.environ.get("FUZZ_INPUTS")
    first = int(os.environ.get("FUZZ_FIRST") or (time.time_ns() // 1000 if seconds else 0))
    if seconds:
        end = time.monotonic() + float(seconds)
        for number in count(first):
            if time.monotonic() > end:
                return
            yield number
    yield from range(first, first + int(inputs or target.inputs))


def _try(target: Target, folder: Path, size: int, outcome: Outcome) -> tuple[str, str] | None:
    """Read the files of `folder` once. Return a short name and a description of the failure, or None."""
    try:
        with limited(size, target.free_bytes):
            result = target.read(folder)
    except Hang as hang:
        return f"hang {_place(hang)}", f"more than {SECONDS:.0f} s of processor time\n{_trace(hang)}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        if out_of_memory(error):
            return f"memory {_place(error)}", f"too much memory\n{_trace(error)}"
        if not isinstance(error, ValueError | OSError) or not _names_a_file(error, folder):
            return f"{type(error).__name__} {_place(error)}", f"an unclear error\n{_trace(error)}"
        outcome.refused += 1
        return None
    try:
        target.check(result)
    except Exception as error:
        return f"check {_place(error)}", f"accepted, and wrong\n{_trace(error)}"
    outcome.accepted += 1
    return None


def _names_a_file(error: BaseException, folder: Path) -> bool:
    """Return whether an error names a file in `folder`, or the folder."""
    return str(folder) in str(error)


def _place(error: BaseException) -> str:
    """Return the last line of the package in the trace of an error, or of its cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "orthohash_triton" in frame.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "nowhere"


def _trace(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(line[:300] for line in lines[-40:])
