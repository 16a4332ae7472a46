"""A check that the addresses of a kernel fit 32 bits before they are widened, by interval arithmetic on Triton's code.

The grid and the integer arguments are those of a launch, so the range of every program id, counter and index is known. No kernel
is run. Values that are loaded or carried through a loop are unknown and assumed to fit.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

LEAST, MOST = -(2**31), 2**31 - 1
_AXES = ("x", "y", "z")


class Interval(NamedTuple):
    least: int
    most: int


class _Operation(NamedTuple):
    name: str
    operands: tuple[str, ...]
    text: str

    @property
    def is_32_bit(self) -> bool:
        return re.search(r": (tensor<[\dx]*x)?i32>?( loc.*)?$", self.text) is not None


_ANYTHING = None
_SAME = ("tt.splat", "tt.expand_dims", "tt.broadcast", "tt.reshape", "tt.trans", "arith.extsi", "arith.extui", "arith.index_cast",
         "ttg.convert_layout")  # fmt: skip
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.minsi": min,
    "arith.maxsi": max,
}


def overflows(ttir: str, grid: tuple[int, ...], arguments: dict[str, int]) -> list[str]:
    """Return the 32-bit sums and products in addresses that may overflow, as "source expression, least .. most"."""
    operations = _parse(ttir)
    known: dict[str, Interval | None] = {f"%{name}": Interval(value, value) for name, value in arguments.items()}
    bounds = {}
    for name in _addressing(operations):
        found = _interval(name, operations, known, grid)
        operation = operations.get(name)
        if found is None or operation is None or operation.name not in ("arith.addi", "arith.subi", "arith.muli"):
            continue
        if operation.is_32_bit and not LEAST <= found.least <= found.most <= MOST:
            bounds[name] = re.sub(
                r"'\d+", "", f"{name[1:]} = {operation.name} {', '.join(operation.operands)}, {found.least} .. {found.most}"
            )
    return list(bounds.values())


def _parse(ttir: str) -> dict[str, _Operation]:
    """Return operations by the names of their values, which are made unique: two loops may use the same name."""
    operations: dict[str, _Operation] = {}
    latest: dict[str, str] = {}  # the unique name that a name currently refers to

    def define(name: str, operation: str, operands: Iterable[str], text: str) -> None:
        found = _Operation(operation, tuple(latest.get(operand, operand) for operand in operands), text)
        latest[name] = f"{name}'{len(operations)}" if name in operations else name
        operations[latest[name]] = found

    for line in ttir.splitlines():
        text = re.sub(r"\s*loc\(.*\)\s*$", "", line.strip())
        if loop := re.search(r"scf\.for (%\w+) = (%[\w#]+) to (%[\w#]+) step (%[\w#]+)", text):
            define(loop[1], "scf.for", loop.groups()[1:], "")
        elif found := re.match(r"(%\w+) = \"?([\w.]+)\"?(.*)", text):
            values = found[3].split(" : ")[0]
            define(found[1], found[2], re.findall(r"%[\w#]+", values), text)
    return operations


def _addressing(operations: dict[str, _Operation]) -> set[str]:
    """Return the values that the offsets of `tt.addptr` are computed from, back to values that are not arithmetic."""
    pending = [operation.operands[1] for operation in operations.values() if operation.name == "tt.addptr"]
    reached = set()
    while pending:
        name = pending.pop()
        operation = operations.get(name)
        if name in reached or operation is None:
            continue
        reached.add(name)
        if operation.name.startswith("arith.") or operation.name in _SAME:
            pending += operation.operands
    return reached


def _interval(
    name: str, operations: dict[str, _Operation], known: dict[str, Interval | None], grid: tuple[int, ...]
) -> Interval | None:
    if name not in known:
        known[name] = _ANYTHING  # stops the recursion if a value depends on itself
        operation = operations.get(name)
        if operation is not None:
            inputs = [_interval(operand, operations, known, grid) for operand in operation.operands]
            known[name] = _result(operation, inputs, grid)
    return known[name]


def _result(operation: _Operation, inputs: list[Interval | None], grid: tuple[int, ...]) -> Interval | None:
    name, text = operation.name, operation.text
    if name == "arith.constant":
        value = re.search(r"arith\.constant (?:dense<)?(-?\d+)>? :", text)
        return Interval(int(value[1]), int(value[1])) if value else _ANYTHING
    if name == "tt.make_range":
        start, end = (int(re.search(rf"{word} = (\d+)", text)[1]) for word in ("start", "end"))
        return Interval(start, end - 1)
    if name in ("tt.get_program_id", "tt.get_num_programs"):
        axis = _AXES.index(re.search(r"\b([xyz])\b", text.split(name)[1])[1])
        programs = grid[axis] if axis < len(grid) else 1
        return Interval(0, programs - 1) if name == "tt.get_program_id" else Interval(programs, programs)
    if None in inputs:
        return _ANYTHING
    if name == "scf.for":
        first, last = inputs[0].least, inputs[1].most - 1
        return Interval(first, max(first, last))
    if name in _SAME:
        return inputs[0]
    if name == "arith.select":
        return Interval(min(i.least for i in inputs[1:]), max(i.most for i in inputs[1:]))
    if name in ("arith.divsi", "arith.remsi"):
        return _quotient(name, *inputs)
    if name not in _ARITHMETIC:
        return _ANYTHING
    ends = [_ARITHMETIC[name](a, b) for a in inputs[0] for b in inputs[1]]
    return Interval(min(ends), max(ends))


def _quotient(name: str, dividend: Interval, divisor: Interval) -> Interval | None:
    if dividend.least < 0 or divisor.least < 1:
        return _ANYTHING
    if name == "arith.divsi":
        return Interval(dividend.least // divisor.most, dividend.most // divisor.least)
    return Interval(0, min(dividend.most, divisor.most - 1))
